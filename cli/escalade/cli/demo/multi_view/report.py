"""Accuracy before and after the fault, as a table, as numbers and as a picture over time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.cli.demo.multi_view.views import NAMES
from escalade.cli.demo.picture import BLUE, DARK, GREEN, ORANGE
from escalade.policies.fusion import MeanProbability

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.multi_view.stream import Streamed

ROLLING = 60
"""Digits over which the picture's curves are averaged."""
STYLES = {
    "best single view": (GREEN, "-"),
    "second best view": (GREEN, ":"),
    "mean": (BLUE, "-"),
    "default rule": (ORANGE, "-"),
}


def right(streamed: Streamed, labels: NDArray[np.int64], best: int, second: int) -> dict[str, NDArray[np.bool_]]:
    """Return which digits each way got right; `best` and `second` were the best views on the calibration digits."""
    mean = MeanProbability().fuse(streamed.told).posterior.argmax(axis=1)
    return {
        "best single view": streamed.told[:, best].argmax(axis=1) == labels,
        "second best view": streamed.told[:, second].argmax(axis=1) == labels,
        "mean": mean == labels,
        "default rule": streamed.fused == labels,
    }


def accuracies(found: Mapping[str, NDArray[np.bool_]], at: int) -> dict[str, dict[str, float]]:
    """Return each way's accuracy before and after the fault."""
    return {name: {"healthy": float(ok[:at].mean()), "one_stuck": float(ok[at:].mean())} for name, ok in found.items()}


def table(rows: Mapping[str, Mapping[str, float]], at: int, count: int) -> list[str]:
    """Return the table's lines."""
    head = f"{'':18}{f'all well (1-{at})':>18}{f'one stuck ({at + 1}-{count})':>22}"
    lines = [head, "-" * len(head)]
    for name, row in rows.items():
        before, after = (f"{100 * row[when]:.1f} %" for when in ("healthy", "one_stuck"))
        lines.append(f"{name:18}{before:>18}{after:>22}")
    return lines


def node_lines(nodes: list[Any]) -> list[str]:
    """Return how ListNodes says the nodes are."""
    lines = []
    for node in nodes:
        state = f"{node.reason}: {node.detail}" if node.reason else "trusted"
        lines.append(f"  {node.name:12} reliability {node.reliability:.2f}  {state}")
    return lines


def write(file: Path, rows: Mapping[str, Mapping[str, float]], streamed: Streamed, at: int, seconds: float) -> None:
    """Write `summary.json`."""
    broken = {node.name: node.reason for node in streamed.nodes if node.reason}
    left_out = [int(np.argmax(~streamed.used[at:, NAMES.index(name)])) + 1 for name in broken]
    content = {
        "accuracy": rows,
        "stuck_from": at + 1,
        "broken_nodes": broken,
        "events_until_left_out": left_out[0] if left_out else None,
        "seconds": round(seconds, 1),
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def draw(file: Path, found: Mapping[str, NDArray[np.bool_]], at: int, broken: str) -> None:
    """Draw the rolling accuracy of each way."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 3.8), dpi=140, layout="constrained")
        axes = figure.subplots()
        for name, ok in found.items():
            total = np.cumsum(np.concatenate([[0], ok]))
            ends = np.arange(ROLLING, len(ok) + 1)
            colour, line = STYLES[name]
            axes.plot(ends, 100 * (total[ends] - total[ends - ROLLING]) / ROLLING, line, color=colour, label=name)
        axes.axvline(at, color=DARK, linewidth=1, linestyle=":")
        axes.annotate(f"{broken} freezes", (at, 32), xytext=(5, 0), textcoords="offset points", color=DARK)
        axes.set_xlabel("digits shown")
        axes.set_ylabel(f"accuracy over the last {ROLLING} (%)")
        axes.set_ylim(0, 102)
        axes.grid(color="#E2E2E2", linewidth=0.6)
        axes.legend(loc="lower left", frameon=False)
        figure.savefig(file)
