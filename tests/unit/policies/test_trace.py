"""What a trace has to be, and what is said of one that is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from escalade.policies import ENERGY, MAX_PROB, Trace, TraceError

GOOD: dict[str, Any] = {
    "posteriors": [[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], [[0.8, 0.2], [0.1, 0.9], [0.3, 0.7]]],
    "labels": [0, 1, 1],
}


def with_row(tier: int, row: list[float]) -> list[Any]:
    """The good posteriors with another second row."""
    tables = [[list(line) for line in table] for table in GOOD["posteriors"]]
    tables[tier][1] = row
    return tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posteriors": []}, "posteriors: there is no tier"),
        ({"labels": [0, 2, 1]}, "labels, row 1: 2 is no class of 2"),
        ({"labels": [0, 1, -1]}, "labels, row 2: -1 is no class of 2"),
        ({"labels": [0, 1]}, r"labels: has shape \[2\], but posteriors\[0\] has 3 rows"),
        ({"labels": [0.0, 1.0, 1.0]}, "labels: must be whole numbers, got float64"),
        ({"labels": [[0], [1], [1]]}, r"labels: has shape \[3, 1\]"),
        ({"posteriors": with_row(0, [0.4, 0.4])}, r"posteriors\[0\], row 1: sums to 0.8, not to 1"),
        ({"posteriors": with_row(1, [0.4, 0.61])}, r"posteriors\[1\], row 1: sums to 1.01, not to 1"),
        ({"posteriors": with_row(1, [1.5, -0.5])}, r"posteriors\[1\], row 1: holds -0.5: no probability"),
        ({"posteriors": with_row(1, [np.nan, 1.0])}, r"posteriors\[1\], row 1: .* no finite number"),
        ({"posteriors": with_row(0, [np.inf, 0.0])}, r"posteriors\[0\], row 1: .* no finite number"),
        ({"posteriors": [GOOD["posteriors"][0], [[1.0, 0.0]]]}, r"posteriors\[1\]: is \[1, 2\]"),
        ({"posteriors": [[0.9, 0.1]]}, r"posteriors\[0\]: must be numbers of shape \[N, C\]"),
        ({"posteriors": [np.empty((0, 2))]}, r"posteriors\[0\]: must be numbers of shape \[N, C\]"),
        ({"posteriors": [[["a", "b"]]]}, r"posteriors\[0\]: must be numbers of shape"),
        ({"predictions": [[0, 1, 1]]}, "predictions: there are 1 for 2 tiers"),
        ({"predictions": [[0, 1, 1], [0, 5, 1]]}, r"predictions\[1\], row 1: 5 is no class of 2"),
        ({"logits": [[[1.0, 0.0]] * 3]}, "logits: there are 1 for 2 tiers"),
        ({"logits": [[[1.0, 0.0]] * 3, [[1.0, 0.0]] * 2]}, r"logits\[1\]: is \[2, 2\], not \[3, 2\]"),
        ({"costs": (0.1,)}, "costs: there are 1 for 2 tiers"),
        ({"costs": (0.1, -1.0)}, "costs: -1.0 of tier 1 is no price"),
        ({"costs": (0.1, float("nan"))}, "costs: nan of tier 1 is no price"),
        ({"names": ["low"]}, "names: there are 1 for 2 tiers"),
    ],
)
def test_what_is_no_trace_is_refused(change: dict[str, Any], message: str) -> None:
    """The error names the array, and the row where it is in one."""
    with pytest.raises(TraceError, match=message):
        Trace.of(**{**GOOD, **change})


def test_the_first_bad_row_is_named() -> None:
    """Of several bad rows the first is the one to look at."""
    with pytest.raises(TraceError) as caught:
        Trace.of([[[0.5, 0.5], [0.3, 0.3], [0.2, 0.2]]], [0, 1, 1])
    assert (caught.value.array, caught.value.row) == ("posteriors[0]", 1)


def test_the_reader_learns_the_file_and_the_name_in_it() -> None:
    """An error can be given the file's and the array's own names, and keeps its row."""
    with pytest.raises(TraceError) as caught:
        Trace.of(**{**GOOD, "labels": [0, 2, 1]})
    assert str(caught.value.named("y_cal", "fashion.npz")) == "fashion.npz: y_cal, row 1: 2 is no class of 2"


def test_nothing_is_clipped_or_left_out() -> None:
    """Float16 posteriors keep their values and rows, unnormalised within the tolerance."""
    half = np.array([[0.3333, 0.3333, 0.3333], [0.1, 0.2, 0.7]], np.float16)
    trace = Trace.of([half], np.array([0, 2], np.uint8))
    assert np.array_equal(trace.posteriors[0], half.astype(np.float32))
    assert trace.labels.dtype == np.int64


def test_a_tier_may_answer_otherwise_than_its_posterior() -> None:
    """Given predictions take the place of the most probable class."""
    assert Trace.of(**GOOD).correct(0).tolist() == [True, True, False]
    trace = Trace.of(**GOOD, predictions=[[0, 0, 1], [0, 1, 1]])
    assert trace.correct(0).tolist() == [True, False, True]


def test_a_score_that_needs_logits_says_so() -> None:
    """The energy of a trace without logits is refused; with them it is computed."""
    trace = Trace.of(**GOOD)
    assert trace.score(0, MAX_PROB).round(1).tolist() == pytest.approx([0.9, 0.6, 0.5])
    with pytest.raises(ValueError, match="energy needs the model's logits, which the trace does not hold"):
        trace.score(0, ENERGY)
    assert Trace.of(**GOOD, logits=[[[1.0, 0.0]] * 3] * 2).score(0, ENERGY).shape == (3,)


def test_the_digest_is_of_the_content() -> None:
    """The same data give the same digest; another label, another one."""
    assert Trace.of(**GOOD).digest() == Trace.of(**GOOD).digest()
    assert Trace.of(**GOOD).digest() != Trace.of(**{**GOOD, "labels": [0, 1, 0]}).digest()


def test_parts_of_a_trace() -> None:
    """`take` keeps some rows of all tiers, `above` some tiers of all rows."""
    trace = Trace.of(**GOOD, costs=(1, 2), names=("low", "high"))
    assert len(trace.take(np.array([2, 0]))) == 2
    assert trace.take(np.array([2, 0])).labels.tolist() == [1, 0]
    upper = trace.above(1)
    assert (upper.tiers, upper.costs, upper.names, len(upper)) == (1, (2.0,), ("high",), 3)
