from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.admission import Admission, RunTimes, class_of, rank_of
from escalade.tiers.caller import Caller
from escalade.tiers.errors import DeadlineError, OverloadedError

CRITICAL, NORMAL, BULK = 0, 1, 2
IDLE = -1.0
seconds = st.floats(0.001, 10)


def admission(row_s: float = 0.01, *, max_queue: int = 10, max_batch: int = 4, workers: int = 1) -> Admission:
    times = RunTimes(row_s, max_rows=max_batch)
    return Admission("edge_node", times, max_queue=max_queue, max_batch=max_batch, workers=workers)


def admit(
    door: Admission,
    *,
    rank: int = NORMAL,
    left_s: float = inf,
    pending: int = 0,
    waiting: tuple[int, int, int] = (0, 0, 0),
    free_in_s: float = 0.0,
    rows: int = 1,
) -> int | None:
    return door.admit(rows, rank, 100 + left_s, 100, pending=pending, waiting=waiting, free_in_s=free_in_s)


def test_deliveries_from_outboxes_wait_with_bulk() -> None:
    """A backlog never stands before live traffic, whatever its items were once."""
    assert [rank_of(Caller(priority=one)) for one in ("critical", "normal", "bulk")] == [CRITICAL, NORMAL, BULK]
    backlog = Caller(priority="critical", delivery="a~1")
    assert (rank_of(backlog), class_of(backlog)) == (BULK, "bulk")


def test_what_could_not_be_answered_in_time_is_refused_with_what_to_do() -> None:
    """The work ahead is counted, with a margin: four runs of 10 ms do not fit into 45 ms."""
    door = admission(max_batch=1)
    assert admit(door, left_s=0.061, waiting=(0, 3, 0)) is None
    with pytest.raises(OverloadedError, match=r"would take 40 ms and 45 ms are left; give it more time") as refused:
        admit(door, left_s=0.045, waiting=(0, 3, 0))
    assert refused.value.cause == "deadline"


def test_less_urgent_work_does_not_count_as_ahead() -> None:
    """Bulk that waits does not keep a critical request out; a run under way does."""
    door = admission(max_batch=1)
    assert admit(door, rank=CRITICAL, left_s=0.02, waiting=(0, 50, 50)) is None
    with pytest.raises(OverloadedError):
        admit(door, rank=CRITICAL, left_s=0.02, waiting=(0, 50, 50), free_in_s=0.01)


@given(row_s=seconds, left_s=seconds, waiting=st.tuples(*[st.integers(0, 50)] * 3), busy=st.floats(0, 1))
def test_with_a_free_worker_nothing_that_has_time_left_is_refused(
    row_s: float, left_s: float, waiting: tuple[int, int, int], busy: float
) -> None:
    """Whatever was measured: so a measurement that was wrong is corrected by the next run."""
    door = admission(row_s)
    door.busy = busy
    for rank in (CRITICAL, NORMAL, BULK):
        assert admit(door, rank=rank, left_s=left_s, free_in_s=IDLE) is None
    with pytest.raises(DeadlineError):
        admit(door, left_s=0.0, free_in_s=IDLE)


@given(pending=st.integers(0, 20), rank=st.sampled_from([0, 1, 2]), waiting=st.tuples(*[st.integers(0, 5)] * 3))
def test_a_full_queue_sheds_the_least_urgent_first(pending: int, rank: int, waiting: tuple[int, int, int]) -> None:
    """Below the bound all enter; at it only who is more urgent than one that waits, and the least urgent leaves."""
    door = admission(0.0)
    lower = [other for other in range(rank + 1, 3) if waiting[other]]
    if pending < 10:
        assert admit(door, rank=rank, pending=pending, waiting=waiting) is None
    elif lower:
        assert admit(door, rank=rank, pending=pending, waiting=waiting) == max(lower)
    else:
        with pytest.raises(OverloadedError, match=r"limits\.max_queue") as refused:
            admit(door, rank=rank, pending=pending, waiting=waiting)
        assert refused.value.cause == "queue"


def test_a_size_that_was_never_run_counts_as_the_next_smaller_one() -> None:
    """A burst is not refused for what a batch might take; once it was run, that is known."""
    times = RunTimes(0.01, max_rows=32)
    assert times.expected_s(32) == 0.01
    times.observe(30, 0.04)
    assert [times.expected_s(rows) for rows in (1, 16, 17, 32, 500)] == [0.01, 0.01, 0.04, 0.04, 0.04]
    times.observe(32, 0.09)
    assert times.expected_s(32) == pytest.approx(0.05)


def test_shared_runs_are_short_where_deadlines_are() -> None:
    """What keeps a worker busy for a good part of everyone's time is not started; without deadlines it is."""
    door = admission(0.01, max_batch=32)
    door.times.observe(32, 0.32)
    door.times.observe(8, 0.08)
    door.times.observe(16, 0.16)
    assert door.run_rows() == 32
    admit(door, left_s=0.4)
    assert door.run_rows() == 8


def test_the_load_tells_the_fullest_of_count_time_and_event_loop() -> None:
    """In eighths; idle is 0, half a busy loop too."""
    door = admission(0.01, max_batch=1)
    assert door.load(0, (0, 0, 0)) == 0.0
    assert door.load(4, (0, 0, 0)) == 0.375
    assert door.load(40, (0, 0, 0)) == 1.0
    assert door.load(1, (0, 11, 0)) == 0.0  # nobody gave a deadline
    admit(door, left_s=0.2)
    assert door.load(1, (0, 11, 0)) == 0.75
    door.busy = 0.5
    assert door.load(0, (0, 0, 0)) == 0.0
    door.busy = 0.95
    assert door.load(0, (0, 0, 0)) == 0.875
