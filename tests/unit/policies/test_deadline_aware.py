"""What cannot answer in time is not asked; the latency is measured."""

from __future__ import annotations

from math import ceil, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import Action, AlwaysEscalate, Batch, Context, DeadlineAware, Feedback, Threshold


def told(*latencies_ms: float, time_s: float = 0.0) -> Feedback:
    """Make feedback of escalations; nan is one that nobody answered."""
    return Feedback.of(
        np.zeros(len(latencies_ms)), local=0, action=Action.ESCALATE, upstream_ms=list(latencies_ms), time_s=time_s
    )


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=80), st.floats(0.01, 1.0))
def test_the_latency_is_the_quantile_of_the_newest(latencies: list[float], quantile: float) -> None:
    """It is the smallest measured value that a share `quantile` of the last `window` does not exceed."""
    policy = DeadlineAware(AlwaysEscalate(), quantile=quantile, window=50)
    for value in latencies:
        policy.observe(told(value))
    newest = sorted(latencies[-50:])
    assert policy.latency_ms == newest[max(ceil(quantile * len(newest)) - 1, 0)]


def test_an_escalation_stands_when_just_enough_time_is_left() -> None:
    """The time left must be at least the latency and the margin; only escalations are touched."""
    policy = DeadlineAware(Threshold(0.5), quantile=1.0, margin_ms=5)
    policy.observe(told(20.0))
    batch = Batch.of([0.1, 0.1, 0.9, nan], remaining_ms=[25.0, 24.9, 1.0, 1.0])
    assert policy.decide(batch).action.tolist() == [Action.ESCALATE, Action.ACCEPT, Action.ACCEPT, Action.DEFER]


def test_before_a_measurement_the_rows_own_latency_counts() -> None:
    """Where that is unknown too the tier above is asked."""
    policy = DeadlineAware(AlwaysEscalate())
    batch = Batch.of([0.5, 0.5, 0.5], remaining_ms=10.0, upstream_ms=[20.0, 5.0, nan])
    assert policy.decide(batch).action.tolist() == [0, 1, 1]


def test_a_tier_that_does_not_answer_is_not_asked_and_tried_again_later() -> None:
    """Failures count as endless; when the newest is older than `fresh_s` they are forgotten."""
    policy = DeadlineAware(AlwaysEscalate(), quantile=0.5, fresh_s=30)
    policy.observe(told(10.0, nan, nan, time_s=100.0))
    late, later = Context(time_s=130.0, remaining_ms=1e6), Context(time_s=130.1, remaining_ms=1e6)
    assert policy.decide_one(0.5, late) is Action.ACCEPT
    assert policy.decide_one(0.5, Context(time_s=130.0, remaining_ms=inf)) is Action.ESCALATE
    assert policy.decide_one(0.5, later) is Action.ESCALATE
    policy.observe(told(10.0, time_s=131.0))
    assert policy.latency_ms == 10.0


def test_what_was_answered_here_teaches_nothing() -> None:
    """Only escalations have a latency."""
    policy = DeadlineAware(AlwaysEscalate())
    policy.observe(Feedback.of([0.5], local=1, action=Action.ACCEPT))
    assert policy.latency_ms != policy.latency_ms


def test_measurements_survive_a_restart() -> None:
    """State loaded into another object gives the same latency and the same end of it."""
    policy, other = (DeadlineAware(AlwaysEscalate(), quantile=0.9) for _ in range(2))
    policy.observe(told(*range(100), nan, time_s=7.0))
    other.load_state_dict(policy.state_dict())
    assert other.latency_ms == policy.latency_ms
    policy.observe(told(3.0))
    other.observe(told(3.0))
    assert all(np.array_equal(other.state_dict()[key], value) for key, value in policy.state_dict().items())


@pytest.mark.parametrize(
    "state",
    [
        {"arrived_s": np.zeros(2)},
        {"arrived_s": np.zeros(2), "took_ms": np.zeros(3)},
        {"arrived_s": np.array([nan]), "took_ms": np.zeros(1)},
        {"arrived_s": np.zeros(1), "took_ms": np.array([-1.0])},
        {"arrived_s": np.zeros(1), "took_ms": np.array([nan])},
    ],
)
def test_measurements_that_are_none_are_refused(state: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> None:
    """Columns missing, of two lengths, negative or not a number raise ValueError."""
    with pytest.raises(ValueError, match=r"arrived_s|took_ms"):
        DeadlineAware(AlwaysEscalate()).load_state_dict(dict(state))


@pytest.mark.parametrize(
    "parameters", [{"quantile": 0.0}, {"quantile": 1.1}, {"margin_ms": -1.0}, {"window": 0}, {"fresh_s": 0.0}]
)
def test_wrong_parameters_are_refused(parameters: dict[str, float]) -> None:
    """A number out of range raises ValueError."""
    with pytest.raises(ValueError, match="must be"):
        DeadlineAware(AlwaysEscalate(), **parameters)  # type: ignore[arg-type]
