"""`escalade fusion evaluate` as an operator meets it: a real process, real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.policies.fusion import HealthChecked, load_rule
from escalade.policies.fusion.evaluation import posteriors

ACCURACIES = {"healthy", "one_noisy", "one_stuck"}


def evaluate(data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "escalade.cli.main", "fusion", "evaluate", "--data", str(data), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def arrays(events: int = 1200) -> dict[str, Any]:
    """Return logits of four nodes of different strength, and labels."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for part in ("cal", "test"):
        labels = rng.integers(0, 5, events)
        signal = np.array([4.0, 3.5, 3.0, 2.0])[:, None, None] * np.eye(5)[labels]
        noise = rng.normal(scale=0.7, size=(events, 5)) + rng.normal(size=(4, events, 5))
        made |= {f"z_{part}": (signal + noise).astype(np.float16), f"y_{part}": labels.astype(np.uint8)}
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "views.npz", **arrays())
    return tmp_path / "views.npz"


def test_the_table_is_printed_and_written(data: Path, tmp_path: Path) -> None:
    """Every rule has its three accuracies, and the default one holds with a broken node."""
    outcome = evaluate(data, tmp_path / "new" / "out")
    assert outcome.returncode == 0, outcome.stderr
    written = json.loads((tmp_path / "new" / "out" / "fusion.json").read_text())
    assert {"best_single", "mean", "stacking", "default"} <= set(written)
    assert all(set(row) == ACCURACIES for row in written.values())
    lines = outcome.stdout.splitlines()
    assert "healthy" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == list(written)
    for line in lines[1:]:
        name, healthy, *_ = line.split()
        assert float(healthy) == pytest.approx(100 * written[name]["healthy"], abs=0.051)
    default, mean = written["default"], written["mean"]
    assert default["healthy"] > written["best_single"]["healthy"]
    for fault in ("one_noisy", "one_stuck"):
        assert default[fault] > default["healthy"] - 0.05
        assert default[fault] > mean[fault] - 0.01
        assert default[fault] > written["stacking"][fault] + 0.05
    by_node = json.loads((tmp_path / "new" / "out" / "fusion_by_node.json").read_text())
    assert np.mean(by_node["default"]["one_stuck"]) == pytest.approx(default["one_stuck"])


def spoil(**changes: Any) -> dict[str, Any]:
    made = arrays(40)
    for name, value in changes.items():
        if value is None:
            del made[name]
        else:
            made[name] = value(made[name])
    return made


def with_value(array: Any, index: Any, value: float) -> Any:
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (spoil(y_test=None), "has no array 'y_test'; needs z_cal, y_cal, z_test, y_test"),
        (spoil(z_cal=lambda z: z[0]), "z_cal must be numbers [views >= 2, n >= 1, classes >= 2], got float16 [40, 5]"),
        (spoil(z_cal=lambda z: z[:1]), "z_cal must be numbers [views >= 2"),
        (spoil(z_test=lambda z: z[:, :0], y_test=lambda y: y[:0]), "z_test must be numbers [views >= 2, n >= 1"),
        (spoil(y_cal=lambda y: y[:-1]), "y_cal must have shape [40] as z_cal [4, 40, 5] has rows, got [39]"),
        (spoil(z_cal=lambda z: np.swapaxes(z, 0, 1)), "axes are [views, n, classes]: is it [n, views, classes]?"),
        (spoil(z_test=lambda z: z[:3]), "must have the same views and classes"),
        (spoil(z_test=lambda z: with_value(z, (2, 7, 0), np.nan)), "z_test is not finite in view 2, row 7"),
        (spoil(y_test=lambda y: with_value(y, 3, 5)), "y_test has the label 5 in row 3, classes are 0 to 4"),
        (spoil(y_cal=lambda y: y.astype(np.float32)), "y_cal must hold whole numbers, got float32"),
        (spoil(z_cal=lambda z: z.astype(object)), "is no .npz file of plain arrays"),
    ],
)
def test_data_that_cannot_be_evaluated_are_refused(made: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Exit code 2 and one line that names file and array, before anything is fitted."""
    np.savez(tmp_path / "bad.npz", **made)
    outcome = evaluate(tmp_path / "bad.npz", tmp_path / "out")
    assert outcome.returncode == 2, outcome
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert message in outcome.stderr
    assert "bad.npz" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_data_is_refused(tmp_path: Path) -> None:
    """A missing file, text and a single array are each one line."""
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, message in {"none.npz": "No such file", "text.npz": "is no .npz", "one.npy": "is no .npz"}.items():
        outcome = evaluate(tmp_path / name, tmp_path / "out")
        assert outcome.returncode == 2, outcome
        assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
        assert message in outcome.stderr


def test_a_folder_that_cannot_be_made_is_refused(data: Path, tmp_path: Path) -> None:
    """A file where the folder should be is one line too."""
    outcome = evaluate(data, data)
    assert outcome.returncode == 2, outcome
    assert "cannot be made" in outcome.stderr


def test_a_fitted_rule_is_what_an_aggregator_loads(data: Path, tmp_path: Path) -> None:
    """The file holds the rule and its health check; a rule that there is not is refused in one line."""
    command = [sys.executable, "-m", "escalade.cli.main", "fusion", "fit", "--data", str(data)]
    out = tmp_path / "rule.npz"
    fitted = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=100, check=False)
    assert fitted.returncode == 0, fitted.stderr
    assert "rule: {name: Stacking, state: rule.npz}" in fitted.stdout
    rule = load_rule({"name": "Stacking", "state": "rule.npz"}, folder=tmp_path)
    assert isinstance(rule, HealthChecked)
    with np.load(data) as stored:
        answers = rule.fuse(posteriors(stored["z_test"].astype(np.float64))).posterior.argmax(axis=1)
        assert (answers == stored["y_test"]).mean() > 0.9
    refused = subprocess.run(
        [*command, "--rule", "Stack", "--out", str(out)], capture_output=True, text=True, timeout=100, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("escalade: there is no rule 'Stack' to fit; take one of ")
    assert len(refused.stderr.splitlines()) == 1
