"""Batches, contexts and decisions."""

from __future__ import annotations

import pickle
from math import inf, isnan
from typing import Any

import numpy as np
import pytest

from escalade.policies import Action, Batch, Context, Decisions


def test_scalars_stand_for_whole_columns() -> None:
    """A scalar given for a column stands for that value in every row."""
    batch = Batch.of([0.5, 0.6, 0.7], time_s=3, bytes_up=64)
    assert batch.time_s.tolist() == [3.0, 3.0, 3.0]
    assert batch.bytes_up.tolist() == [64, 64, 64]
    assert batch.remaining_ms.tolist() == [inf] * 3
    assert np.isnan(batch.upstream_ms).all()
    assert len(batch) == 3


def test_columns_have_their_own_types() -> None:
    """Whatever number type is given, each column has the type that policies rely on."""
    batch = Batch.of(
        np.array([0.5, 0.25], np.float16),
        np.array([[0.5, 0.5], [0.25, 0.75]], np.float64),
        time_s=np.array([1, 2], np.int32),
        uniform=np.array([0, 0.5], np.float32),
        bytes_up=np.array([1, 2], np.uint8),
    )
    assert batch.posterior is not None
    types = [batch.score.dtype, batch.posterior.dtype, batch.time_s.dtype, batch.uniform.dtype]
    assert types == [np.float32, np.float32, np.float64, np.float64]
    assert batch.bytes_up.dtype == np.int64


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uniform": [0.1]}, "column 'uniform' has 1 rows, but 'score' has 2"),
        ({"posterior": [[0.5, 0.5]]}, "column 'posterior' has 1 rows, but 'score' has 2"),
        ({"posterior": [0.5, 0.5]}, r"column 'posterior' must have shape \[B, C\], got \[2\]"),
        ({"time_s": [[1.0], [2.0]]}, r"column 'time_s' must have shape \[B\] or be one number, got \[2, 1\]"),
        ({"score": 0.5}, r"column 'score' must have shape \[B\], got \[\]"),
        ({"bytes_up": [1.5, 2.0]}, "column 'bytes_up' must hold whole numbers, got float64"),
        ({"remaining_ms": ["soon", "late"]}, "column 'remaining_ms' cannot be converted to float64"),
    ],
)
def test_a_bad_column_is_named(columns: dict[str, Any], message: str) -> None:
    """A column that does not fit is refused with its name and what was expected."""
    with pytest.raises(ValueError, match=message):
        Batch.of(**{"score": [0.5, 0.6], **columns})


def test_a_row_comes_back_as_plain_values() -> None:
    """A row is a float and a context of plain Python values."""
    batch = Batch.of([0.1, 0.2], [[0.5, 0.5], [0.25, 0.75]], time_s=[1, 2], bytes_up=[3, 4], uniform=[0.5, 0.6])
    score, context = batch.row(1)
    assert score == float(np.float32(0.2))
    assert (context.time_s, context.uniform, context.bytes_up) == (2.0, 0.6, 4)
    assert context.posterior == [0.25, 0.75]
    assert context.remaining_ms == inf
    assert isnan(context.upstream_ms)
    assert type(context.bytes_up) is int
    assert type(context.time_s) is float


@pytest.mark.parametrize("posterior", [None, [[0.25, 0.75]]])
def test_a_batch_of_one_holds_the_row_it_was_made_of(posterior: list[list[float]] | None) -> None:
    """`Batch.of_row` is the inverse of `Batch.row`, bit for bit."""
    batch = Batch.of([0.1], posterior, time_s=1.5, uniform=0.25, remaining_ms=7.0, bytes_up=9, upstream_ms=2.0)
    again = Batch.of_row(*batch.row(0))
    assert pickle.dumps(again) == pickle.dumps(batch.take(np.array([0])))


@pytest.mark.parametrize("index", [slice(1, None), [1, 2], np.array([False, True, True])])
def test_take_selects_rows_of_every_column(index: Any) -> None:
    """Rows are taken by slice, by number and by mask, with all of their columns."""
    batch = Batch.of([0.1, 0.2, 0.3], [[1.0], [2.0], [3.0]], uniform=[0.1, 0.2, 0.3], bytes_up=5)
    taken = batch.take(index)
    assert taken.posterior is not None
    assert taken.uniform.tolist() == [0.2, 0.3]
    assert taken.posterior.tolist() == [[2.0], [3.0]]
    assert taken.bytes_up.tolist() == [5, 5]


def test_an_empty_batch_is_a_batch() -> None:
    """No rows are rows too."""
    batch = Batch.of([], np.empty((0, 4)))
    assert len(batch) == 0
    assert batch.bytes_up.shape == (0,)


def test_a_batch_cannot_be_reassigned() -> None:
    """A column of a batch cannot be replaced."""
    batch = Batch.of([0.1])
    with pytest.raises(AttributeError):
        batch.score = batch.score + 1  # type: ignore[misc]


def test_a_repeated_scalar_cannot_be_written_to() -> None:
    """A column made from one number is read-only, since all of its rows share that number."""
    with pytest.raises(ValueError, match="read-only"):
        Batch.of([0.1, 0.2]).uniform[0] = 0.0


def test_a_batch_pickles() -> None:
    """A batch travels to another process."""
    batch = pickle.loads(pickle.dumps(Batch.of([0.1, 0.2], uniform=0.3)))
    assert batch.uniform.tolist() == [0.3, 0.3]


def test_certain_decisions_have_propensity_one() -> None:
    """Decisions made without chance have propensity 1."""
    decisions = Decisions.of([Action.ACCEPT, Action.DEFER, Action.ABSTAIN])
    assert decisions.action.dtype == np.int8
    assert decisions.action.tolist() == [0, 2, 3]
    assert decisions.propensity.tolist() == [1.0, 1.0, 1.0]
    assert len(decisions) == 3


def test_a_context_prints_its_facts() -> None:
    """The text of a context names every fact."""
    text = repr(Context(time_s=1.0, bytes_up=3))
    assert "time_s=1.0" in text
    assert "bytes_up=3" in text
