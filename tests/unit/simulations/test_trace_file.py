"""Trace files, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import ENERGY, TraceError, softmax
from escalade.simulations.trace_file import TraceFile, load_trace

Arrays = dict[str, NDArray[Any]]


def arrays(rows: int = 40, classes: int = 3, tiers: int = 3) -> Arrays:
    rng = np.random.default_rng(0)
    found: Arrays = {}
    for split in ("cal", "test"):
        labels = rng.integers(0, classes, rows)
        found[f"y_{split}"] = labels.astype(np.uint8)
        for tier in range(1, tiers + 1):
            logits = tier * np.eye(classes)[labels] + rng.normal(size=(rows, classes))
            found[f"t{tier}_{split}"] = logits.astype(np.float16)
    return found


def write(folder: Path, content: Arrays) -> Path:
    file = folder / "trace.npz"
    np.savez(file, **content)  # type: ignore[arg-type]
    return file


def complaint(file: Path, split: Any = "test", **options: Any) -> TraceError:
    with pytest.raises(TraceError) as caught:
        load_trace(file, split, **options)
    assert str(caught.value).startswith(f"{file}: ")
    return caught.value


def test_logits_become_posteriors_and_stay_for_the_energy_score(tmp_path: Path) -> None:
    """The posterior is softmax of the float16 logits; the logits are kept."""
    content = arrays()
    trace = load_trace(write(tmp_path, content), "cal", costs=(0.01, 0.1, 1.0))
    assert (trace.posteriors[1] == softmax(content["t2_cal"])).all()
    assert trace.costs == (0.01, 0.1, 1.0)
    assert (trace.score(0, ENERGY) == ENERGY.batch(content["t1_cal"].astype(np.float32))).all()


def test_log_probabilities_have_no_energy(tmp_path: Path) -> None:
    """Their log-sum-exp says nothing, so that the score is refused."""
    content = {name: np.log(softmax(a)).astype(np.float16) if a.ndim == 2 else a for name, a in arrays().items()}
    trace = load_trace(write(tmp_path, content))
    assert trace.logits is None
    with pytest.raises(ValueError, match="energy needs the model's logits"):
        trace.score(0, ENERGY)


def test_posteriors_may_stand_in_the_place_of_logits(tmp_path: Path) -> None:
    """``p1_test`` is taken as it is."""
    content = arrays(tiers=2)
    for tier in (1, 2):
        content[f"p{tier}_test"] = softmax(content.pop(f"t{tier}_test"))
    trace = load_trace(write(tmp_path, content))
    assert (trace.posteriors[0] == content["p1_test"]).all()


def test_a_temperature_softens(tmp_path: Path) -> None:
    """One for all tiers, or one for each."""
    file = write(tmp_path, content := arrays())
    trace = load_trace(file, temperature=(2.0, 1.0, 1.0))
    assert (trace.posteriors[0] == softmax(content["t1_test"], 2.0)).all()
    assert (trace.posteriors[1] == softmax(content["t2_test"])).all()
    assert "there are 2 for 3 tiers" in str(complaint(file, temperature=(1.0, 2.0)))


def test_the_lowest_tiers_alone_may_be_used(tmp_path: Path) -> None:
    """``tiers=2`` leaves the third out; more than there are is an error."""
    file = write(tmp_path, arrays())
    assert load_trace(file, tiers=2).tiers == 2
    assert "4 tiers were asked for" in str(complaint(file, tiers=4))


def nan_row(content: Arrays) -> None:
    content["t2_test"][7, 1] = np.nan


def too_high(content: Arrays) -> None:
    content["y_test"][5] = 3


def shorter(content: Arrays) -> None:
    content["t3_test"] = content["t3_test"][:-1]


def fewer_classes(content: Arrays) -> None:
    content["t2_test"] = content["t2_test"][:, :2]


def no_labels(content: Arrays) -> None:
    del content["y_test"]


def a_hole(content: Arrays) -> None:
    del content["t2_test"]


def nothing(content: Arrays) -> None:
    for name in [name for name in content if name.endswith("_test")]:
        del content[name]


def both_forms(content: Arrays) -> None:
    content["p1_test"] = softmax(content["t1_test"])


def float_labels(content: Arrays) -> None:
    content["y_test"] = content["y_test"].astype(np.float32)


def no_sum(content: Arrays) -> None:
    for tier in (1, 2, 3):
        content[f"p{tier}_test"] = softmax(content.pop(f"t{tier}_test"))
    content["p3_test"][11] = [0.5, 0.5, 0.5]


def words(content: Arrays) -> None:
    content["t1_test"] = np.array([["a"] * 3] * 40)


@pytest.mark.parametrize(
    ("spoil", "array", "row", "says"),
    [
        (nan_row, "t2_test", 7, "no finite number"),
        (too_high, "y_test", 5, "3 is no class of 3"),
        (shorter, "t3_test", None, "has 39 rows, but y_test has 40"),
        (fewer_classes, "t2_test", None, "[40, 2]"),
        (no_labels, "y_test", None, "is missing"),
        (a_hole, "t2_test", None, "is missing, though t3_test is there"),
        (nothing, "t1_test", None, "is missing, and so is p1_test; the file holds t1_cal"),
        (both_forms, "p1_test", None, "stands beside t1_test"),
        (float_labels, "y_test", None, "whole numbers, got float32"),
        (no_sum, "p3_test", 11, "sums to 1.5, not to 1"),
        (words, "t1_test", None, "must be numbers"),
    ],
)
def test_what_is_wrong_is_named_with_array_and_row(
    tmp_path: Path, spoil: Any, array: str, row: int | None, says: str
) -> None:
    """The first thing wrong, where it is, and nothing is clipped or left out."""
    content = arrays()
    spoil(content)
    error = complaint(write(tmp_path, content))
    assert (error.array, error.row) == (array, row)
    assert says in error.message


def test_calibration_data_of_one_class_are_refused(tmp_path: Path) -> None:
    """Nothing can be fitted to them; the same in a test split may be."""
    content = arrays()
    content["y_cal"][:], content["y_test"][:] = 2, 2
    file = write(tmp_path, content)
    assert "only class 2" in complaint(file, "cal").message
    assert len(load_trace(file, "test")) == 40


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    """Missing, text, a single array, cut short, a folder."""
    text = tmp_path / "text.npz"
    text.write_text("hello")
    single = tmp_path / "single.npz"
    with single.open("wb") as stream:
        np.save(stream, np.zeros(3))
    whole = write(tmp_path, arrays())
    short = tmp_path / "short.npz"
    short.write_bytes(whole.read_bytes()[:700])
    for file, says in [
        (tmp_path / "none.npz", "cannot be read: No such file"),
        (text, "not a whole npz file"),
        (single, "single array"),
        (short, "not a whole npz file"),
        (tmp_path, "escalade record merge"),
    ]:
        assert says in complaint(file).message


def test_bytes_may_be_of_all_hops_of_each_or_of_the_hop(tmp_path: Path) -> None:
    """Three ways to say them; unknown is None."""
    content = arrays()
    file = TraceFile(Path("t"), content)
    assert file.hop_bytes("test", 2, 40) is None
    one = TraceFile(Path("t"), content | {"bytes_test": np.arange(40)}).hop_bytes("test", 2, 40)
    assert one is not None
    assert one[3].tolist() == [3.0, 3.0]
    hop = TraceFile(Path("t"), content | {"hop_bytes": np.array([5, 7])}).hop_bytes("test", 2, 40)
    assert hop is not None
    assert hop[39].tolist() == [5.0, 7.0]
    with pytest.raises(TraceError, match=r"bytes_test: has shape \[39\]"):
        TraceFile(Path("t"), content | {"bytes_test": np.arange(39)}).hop_bytes("test", 2, 40)
    bad = np.where(np.arange(40) == 4, -1, 1)
    with pytest.raises(TraceError, match="bytes_test, row 4: holds a negative value"):
        TraceFile(Path("t"), content | {"bytes_test": bad}).hop_bytes("test", 2, 40)
