"""How the expected nodes are: what `ListNodes` and the metrics tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from escalade.tiers.aggregator.fusing import Fusing
    from escalade.tiers.aggregator.window import Window


class NodeStatus(NamedTuple):
    """One expected node."""

    name: str
    weight: float
    reason: str
    detail: str
    reliability: float
    """nan before anything was learnt."""
    skew_s: float
    last_seen_s: float
    accepted: int
    """Late ones included."""
    refused: dict[str, int]


def node_statuses(window: Window, fusing: Fusing) -> list[NodeStatus]:
    """Return how every node is, in the order of the configuration."""
    statuses = []
    for place, (report, reliability) in enumerate(fusing.report()):
        counts = window.counts[place]
        statuses.append(
            NodeStatus(
                window.nodes[place],
                report.weight,
                report.reason,
                report.detail,
                reliability,
                window.skews[place].offset_s,
                window.last_seen_s[place],
                counts["accepted"] + counts["late"],
                {reason: count for reason, count in sorted(counts.items()) if reason not in ("accepted", "late")},
            )
        )
    return statuses
