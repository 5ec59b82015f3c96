"""Items, their rows and their ages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.outbox import KINDS, PRIORITIES, Item
from escalade.tiers.outbox.ages import CLOCK_SET_S, Ages, age_s
from escalade.tiers.outbox.item import from_row, to_row

ITEMS = st.builds(
    Item,
    device=st.text(max_size=5),
    id=st.text(max_size=5),
    payload=st.binary(max_size=20),
    kind=st.sampled_from(KINDS),
    priority=st.sampled_from(PRIORITIES),
    created_s=st.floats(allow_nan=False, allow_infinity=False),
    provisional=st.binary(max_size=5),
)
COLUMNS = st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=5), st.text(max_size=5))


@given(ITEMS, st.integers(0, 2**62))
def test_an_item_comes_back_from_its_row_as_it_was(item: Item, seq: int) -> None:
    """Columns and back: equal."""
    assert from_row(to_row(seq, item)) == item


@given(ITEMS, st.integers(0, 8), COLUMNS)
def test_a_row_with_another_column_is_refused(item: Item, column: int, other: object) -> None:
    """Whatever a damaged page makes of a column, it is a ValueError and never another item."""
    row = list(to_row(7, item))
    if type(other) is type(row[column]) and other == row[column]:
        return
    row[column] = other
    try:
        again = from_row(tuple(row))  # type: ignore[arg-type]
    except ValueError:
        return
    assert again == item  # 0 and -0.0, 1 and 1.0 are the same column


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "letter"},
        {"priority": "urgent"},
        {"payload": "text"},
        {"provisional": bytearray(b"x")},
        {"created_s": math.nan},
        {"device": "\ud800"},
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(wrong: dict[str, object]) -> None:
    """One bad item must not fail the group that it would be written with."""
    with pytest.raises(ValueError):  # noqa: PT011  # each has its own text
        Item(**{"device": "cam", "id": "1", "payload": b"", **wrong})  # type: ignore[arg-type]


@given(st.floats(allow_nan=True), st.floats(0, 1e9), st.floats(allow_nan=True))
def test_no_age_is_negative_or_from_before_the_clock_was_set(opened: float, since: float, wall: float) -> None:
    """Ages between runs lie between zero and the time since 2020."""
    age = age_s(opened, since, wall)
    assert 0 <= age <= max(0.0, wall - CLOCK_SET_S)


def test_a_clock_that_is_set_late_makes_nothing_old() -> None:
    """A board starts in 1970, keeps an item, is told the time, restarts: the item is minutes old, not decades."""
    ages = Ages(now=0.0, wall_s=0.0)
    stamp = ages.stamp(now=10.0)
    assert ages.jumped(now=20.0, wall_s=1.8e9)
    assert not ages.jumped(now=30.0, wall_s=1.8e9 + 10)
    assert age_s(ages.opened_wall_s, stamp, 1.8e9 + 290) == pytest.approx(300)
