"""What a run of the real tiers gave: `Measured`, and the figures that are compared: `figures`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.scenario import TIERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FEWEST = {50: 20, 99: 300}
"""Answers of a tier that a quantile of theirs needs to be compared: of 300, three are beyond p99."""
MEAN = "mean ms"


@dataclass(frozen=True, slots=True)
class Case:
    """One load and one pair of policies.

    Attributes
    ----------
    key, title
        For the command line; for people.
    rate_hz
        Inputs a second at each endpoint, Poisson.
    policies
        Of endpoint and edge node, as a tier's YAML names them.
    """

    key: str
    title: str
    rate_hz: float
    policies: tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One row an input.

    Attributes
    ----------
    tier
        Int64 ``[N]``, who answered: 0 the endpoint.
    right, degraded
        Bool ``[N]``.
    hop_ms
        Float64 ``[N, 3]``, from an input's arrival at each tier to that tier's answer, ms; nan where it was not asked.
    uplink_bytes
        Mean bytes that went up from the edge node for one input, all that went over the connection counted.
    reasons
        Why answers were degraded, and how many.
    """

    tier: NDArray[np.int64]
    right: NDArray[np.bool_]
    degraded: NDArray[np.bool_]
    hop_ms: NDArray[np.float64]
    uplink_bytes: float
    reasons: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.tier)


def figures(run: Measured) -> dict[str, float]:
    """Return shares, accuracy, the quantiles of each tier's answers and the mean of all; nan where too few answered.

    Latencies run from an input's arrival at the endpoint to the endpoint's answer, degraded answers left out.
    """
    shares = {f"share {name}": float((run.tier == level).mean()) for level, name in enumerate(TIERS)}
    found = {**shares, "accuracy": float(run.right.mean())}
    for level, name in enumerate(TIERS):
        ms = run.hop_ms[(run.tier == level) & ~run.degraded, 0]
        for q in (50, 99):
            found[f"p{q} ms {name}"] = float(np.percentile(ms, q)) if len(ms) >= FEWEST[q] else float("nan")
    return {**found, MEAN: float(run.hop_ms[~run.degraded, 0].mean())}
