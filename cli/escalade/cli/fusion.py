"""`escalade fusion`: what the rules make of recorded logits, with a node broken and without; and one rule fitted."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion import HealthChecked
from escalade.policies.fusion.evaluation import evaluate, posteriors
from escalade.policies.fusion.loading import RULES
from escalade.policies.state_file import StateFileError, save_state
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.policies.fusion.evaluation import Outcome

HEADINGS = ("", "healthy", "one noisy", "worst", "one stuck", "worst")


def evaluate_file(data: Path, out: Path) -> int:
    """Print the table, write `fusion.json` and `fusion_by_node.json` into `out`; return 0.

    Raises
    ------
    SetupError
        If the file cannot be read, lacks an array, or an array is not what it should be; and if `out`
        cannot be written to.
    """
    arrays = load_views(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{out}: cannot be made: {error.strerror or error}") from error

    def progress(name: str) -> None:
        print(f"fitting and running {name}", file=sys.stderr)

    outcomes = evaluate(*arrays, progress=progress)
    print(table(outcomes))
    (out / "fusion.json").write_text(json.dumps(summary(outcomes), indent=1) + "\n")
    by_node = {name: {"one_noisy": o.noisy, "one_stuck": o.stuck} for name, o in outcomes.items()}
    (out / "fusion_by_node.json").write_text(json.dumps(by_node, indent=1) + "\n")
    return 0


def fit_file(data: Path, rule: str, out: Path) -> int:
    """Fit a rule behind a health check to ``z_cal, y_cal`` and write it as an aggregator loads it; return 0.

    Raises
    ------
    SetupError
        If the data cannot be read, there is no such rule, or `out` cannot be written.
    """
    if rule not in RULES:
        raise SetupError(f"there is no rule {rule!r} to fit; take one of {', '.join(RULES)}")
    z_cal, y_cal, _, _ = load_views(data)
    fitted = HealthChecked(RULES[rule]()).fit(posteriors(z_cal), y_cal)
    try:
        save_state(out, fitted)
    except StateFileError as error:
        raise SetupError(str(error)) from error
    views, events, classes = z_cal.shape
    print(f"{rule} fitted to {events} events of {views} nodes and {classes} classes; use it with")
    print(f"  rule: {{name: {rule}, state: {out.name}}}")
    return 0


def summary(outcomes: dict[str, Outcome]) -> dict[str, dict[str, float]]:
    """Return accuracies by rule, those with a broken node averaged over which one it is."""
    return {
        name: {"healthy": o.healthy, "one_noisy": o.one_noisy, "one_stuck": o.one_stuck} for name, o in outcomes.items()
    }


def table(outcomes: dict[str, Outcome]) -> str:
    """Return accuracies in per cent as aligned columns."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for name, o in outcomes.items():
        values = (o.healthy, o.one_noisy, min(o.noisy), o.one_stuck, min(o.stuck))
        rows.append((name, *(f"{100 * value:.1f}" for value in values)))
    width = max(len(row[0]) for row in rows)
    return "\n".join("  ".join([row[0].ljust(width), *(cell.rjust(9) for cell in row[1:])]) for row in rows)


Views = tuple["NDArray[np.floating]", "NDArray[np.integer]", "NDArray[np.floating]", "NDArray[np.integer]"]


def load_views(file: Path) -> Views:
    """Read ``z_cal, y_cal, z_test, y_test``: logits ``[views, n, classes]`` and labels ``[n]``.

    Raises
    ------
    SetupError
        For the first thing that is wrong, with file and array.
    """
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("z_cal", "y_cal", "z_test", "y_test")}
    except KeyError as error:
        raise SetupError(
            f"{file}: has no array {error.args[0].split()[0]!r}; needs z_cal, y_cal, z_test, y_test"
        ) from error
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise SetupError(f"{file}: is no .npz file of plain arrays") from error
    z_cal, y_cal = _part(file, arrays, "cal")
    z_test, y_test = _part(file, arrays, "test")
    if z_cal.shape[0] != z_test.shape[0] or z_cal.shape[2] != z_test.shape[2]:
        raise SetupError(
            f"{file}: z_cal {list(z_cal.shape)} and z_test {list(z_test.shape)} must have the same views and classes"
        )
    return z_cal, y_cal, z_test, y_test


def _part(
    file: Path, arrays: dict[str, NDArray[np.generic]], part: str
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    z, y = arrays[f"z_{part}"], arrays[f"y_{part}"]
    if z.ndim != 3 or z.dtype.kind not in "fiu" or z.shape[0] < 2 or z.shape[1] < 1 or z.shape[2] < 2:
        raise SetupError(
            f"{file}: z_{part} must be numbers [views >= 2, n >= 1, classes >= 2], got {z.dtype} {list(z.shape)}"
        )
    if y.shape != (z.shape[1],):
        order = ""
        if y.shape == (z.shape[0],):
            order = f"; its axes are [views, n, classes]: is it [n, views, classes]? np.swapaxes(z_{part}, 0, 1)"
        raise SetupError(
            f"{file}: y_{part} must have shape [{z.shape[1]}] as z_{part} {list(z.shape)} has rows, "
            f"got {list(y.shape)}{order}"
        )
    logits = z.astype(np.float64)
    if not np.isfinite(logits).all():
        view, row, _ = (int(index) for index in np.argwhere(~np.isfinite(logits))[0])
        raise SetupError(f"{file}: z_{part} is not finite in view {view}, row {row}")
    if y.dtype.kind not in "iu":
        raise SetupError(f"{file}: y_{part} must hold whole numbers, got {y.dtype}")
    labels = y.astype(np.int64)
    if labels.min() < 0 or labels.max() >= z.shape[2]:
        row = int(np.flatnonzero((labels < 0) | (labels >= z.shape[2]))[0])
        raise SetupError(
            f"{file}: y_{part} has the label {labels[row]} in row {row}, classes are 0 to {z.shape[2] - 1}"
        )
    return logits, labels
