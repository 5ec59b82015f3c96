"""What came of each strategy: `summary.json` and the table on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from escalade.cli.demo.train import TIERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.run import Answers


class StrategySummary(TypedDict):
    """One strategy in `summary.json`; tiers that answered nothing have a share of 0 and no other entry.

    `bytes_up` is what the processes counted: the messages sent upward over all hops, without HTTP/2's framing.
    """

    accuracy: float
    requests: int
    share: dict[str, float]
    accuracy_by_tier: dict[str, float]
    latency_ms: dict[str, dict[str, float]]
    latency_ms_overall: dict[str, float]
    bytes_up: int


class Summary(TypedDict):
    """The whole of `summary.json`."""

    strategies: dict[str, StrategySummary]
    processes: int
    seconds: float


def summarise(answers: Answers, labels: NDArray[np.int64], bytes_up: float) -> StrategySummary:
    """Reduce a stream's answers to the numbers of `summary.json`; latencies are the caller's."""
    correct = answers.label == labels
    rows = {tier: answers.tier == tier for tier in TIERS}
    answering = [tier for tier in TIERS if rows[tier].any()]
    return {
        "accuracy": float(correct.mean()),
        "requests": len(labels),
        "share": {tier: float(rows[tier].mean()) for tier in TIERS},
        "accuracy_by_tier": {tier: float(correct[rows[tier]].mean()) for tier in answering},
        "latency_ms": {tier: _percentiles(answers.latency_ms[rows[tier]]) for tier in answering},
        "latency_ms_overall": _percentiles(answers.latency_ms),
        "bytes_up": round(bytes_up),
    }


def write(file: Path, strategies: dict[str, StrategySummary], *, processes: int, seconds: float) -> None:
    """Write `summary.json`."""
    summary: Summary = {"strategies": strategies, "processes": processes, "seconds": round(seconds, 1)}
    file.write_text(json.dumps(summary, indent=2) + "\n")


def table(strategies: Mapping[str, StrategySummary]) -> list[str]:
    """Draw the strategies as lines of plain text, one line each and one for each tier where several answered."""
    rows: list[tuple[str, ...]] = [("", "answered", "accuracy", "p50 ms", "p99 ms", "bytes up")]
    for name, summary in strategies.items():
        bytes_up = f"{summary['bytes_up']:,}"
        rows.append(_row(_words(name), 1.0, summary["accuracy"], summary["latency_ms_overall"], bytes_up))
        if len(summary["latency_ms"]) > 1:
            rows += [
                _row(
                    f"  {_words(tier)}",
                    summary["share"][tier],
                    summary["accuracy_by_tier"][tier],
                    latency,
                    "",
                )
                for tier, latency in summary["latency_ms"].items()
            ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return [line.rstrip() for line in lines]


def verdict(strategies: Mapping[str, StrategySummary]) -> str:
    """Say what the cascade saves and what it costs, against asking the edge server always."""
    cascade, top = strategies["cascade"], strategies["always_edge_server"]
    points = 100 * (cascade["accuracy"] - top["accuracy"])
    against = (
        "as accurate as" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    )
    bytes_share = cascade["bytes_up"] / top["bytes_up"]
    return (
        f"The cascade is {against} always edge server and sends {bytes_share:.0%} of its bytes;\n"
        f"{cascade['share']['endpoint']:.0%} of the digits never leave their endpoint."
    )


def _percentiles(latency_ms: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(latency_ms, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _row(name: str, share: float, accuracy: float, latency: Mapping[str, float], bytes_up: str) -> tuple[str, ...]:
    return (
        name,
        f"{100 * share:.1f} %",
        f"{100 * accuracy:.1f} %",
        f"{latency['p50']:.2f}",
        f"{latency['p99']:.2f}",
        bytes_up,
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
