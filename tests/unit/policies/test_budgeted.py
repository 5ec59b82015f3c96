"""A budget holds over any window, whatever arrives and however it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies import Action, AlwaysEscalate, Batch, Budgeted, Context, Explore, Policy, Threshold

gaps = st.lists(st.sampled_from([0.0, 0.001, 0.1, 1.0, 7.0]), min_size=1, max_size=120)
sizes = st.lists(st.integers(0, 500), min_size=120, max_size=120)


def worst_excess(when: NDArray[np.float64], cost: NDArray[np.float64], rate: float, burst: float) -> float:
    """Return the most by which the cost in any window exceeds ``burst + rate * T``."""
    total = np.concatenate([[0.0], np.cumsum(cost)])
    excess = [
        total[last + 1] - total[first] - burst - rate * (when[last] - when[first])
        for first in range(len(when))
        for last in range(first, len(when))
    ]
    return float(max(excess))


@given(gaps, sizes, st.sampled_from([1.0, 50.0, 1000.0]), st.sampled_from([500.0, 2000.0]))
def test_no_window_sends_more_bytes_than_the_cap(
    gaps: list[float], sizes: list[int], rate: float, burst: float
) -> None:
    """Over every window from one input to another, bytes sent stay within burst and rate times its length."""
    when, cost = np.cumsum(gaps), np.array(sizes[: len(gaps)])
    policy = Budgeted(AlwaysEscalate(), bytes_per_s=rate, burst=burst)
    up = policy.decide(Batch.of(np.full(len(when), 0.5), time_s=when, bytes_up=cost)).action == Action.ESCALATE
    assert up.any()
    assert worst_excess(when, np.where(up, cost, 0.0), rate, burst) <= 1e-9 * burst


@given(st.lists(st.booleans(), min_size=1, max_size=150), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(1, 5))
def test_no_window_of_decisions_escalates_more_than_the_share(unsure: list[bool], share: float, burst: int) -> None:
    """Over every run of n decisions, at most burst + share * n are escalations; a share of 1 refuses nothing."""
    score = np.where(unsure, 0.1, 0.9)
    up = Budgeted(Threshold(0.5), share=share, burst=burst).decide(Batch.of(score)).action == Action.ESCALATE
    assert worst_excess(np.arange(len(up), dtype=float), up.astype(float), share, burst) <= 1e-9
    if share == 1.0:
        assert up.tolist() == unsure


@given(gaps, st.sampled_from([0.5, 3.0]))
def test_joules_are_those_of_the_bytes_and_of_the_message(gaps: list[float], rate: float) -> None:
    """The cost of an escalation is per byte and per message, and is capped like bytes."""
    when = np.cumsum(gaps)
    policy = Budgeted(AlwaysEscalate(), joules_per_s=rate, burst=4.0, joules_per_byte=0.001, joules_per_message=0.5)
    up = policy.decide(Batch.of(np.full(len(when), 0.5), time_s=when, bytes_up=500)).action == Action.ESCALATE
    assert up[:4].all()
    assert worst_excess(when, np.where(up, 1.0, 0.0), rate, 4.0) <= 1e-9


@given(gaps, sizes, st.data())
def test_a_batch_is_decided_as_its_rows_one_by_one(gaps: list[float], sizes: list[int], data: st.DataObject) -> None:
    """Cut anywhere into batches with `commit` between, or into single inputs, the decisions are the same."""
    rows = len(gaps)
    batch = Batch.of(np.full(rows, 0.5), time_s=np.cumsum(gaps), bytes_up=sizes[:rows])
    cut = data.draw(st.integers(0, rows))
    whole = Budgeted(AlwaysEscalate(), bytes_per_s=100, burst=700).decide(batch).action
    parts, single = (Budgeted(AlwaysEscalate(), bytes_per_s=100, burst=700) for _ in range(2))
    found = []
    for part in (batch.take(slice(0, cut)), batch.take(slice(cut, None))):
        decided = parts.decide(part).action
        parts.commit(part, decided)
        found += decided.tolist()
    assert found == whole.tolist()
    for row in range(rows):
        score, context = batch.row(row)
        action = single.decide_one(score, context)
        assert action == whole[row]
        single.commit_one(score, context, action)
    assert single.state_dict() == parts.state_dict()


def test_what_the_tier_did_not_send_is_not_charged() -> None:
    """An escalation that the tier masked leaves the budget as it was."""
    policy = Budgeted(AlwaysEscalate(), bytes_per_s=1, burst=100)
    for _ in range(10):
        assert policy.decide_one(0.5, Context(bytes_up=100)) is Action.ESCALATE
        policy.commit_one(0.5, Context(bytes_up=100), Action.ACCEPT)
    policy.commit_one(0.5, Context(bytes_up=100), Action.ESCALATE)
    assert policy.decide_one(0.5, Context(bytes_up=100)) is Action.ACCEPT


@pytest.mark.parametrize("score", [float("nan"), float("-inf")])
def test_over_the_budget_an_unusable_score_is_deferred(score: float) -> None:
    """It cannot be accepted, so it is answered provisionally and sent when there is room."""
    policy = Budgeted(Threshold(0.5), share=0.1, burst=1)
    assert policy.decide(Batch.of([score] * 3)).action.tolist() == [Action.ESCALATE, Action.DEFER, Action.DEFER]


def test_the_propensity_over_a_random_policy_is_that_of_what_was_done() -> None:
    """While the budget lasts it is the policy's; after that the row is accepted for certain."""
    policy = Budgeted(Explore(Threshold(0.5), epsilon=0.25), share=0.01, burst=1)
    decided = policy.decide(Batch.of([0.9, 0.9, 0.1], uniform=[0.9, 0.1, 0.9]))
    assert decided.action.tolist() == [Action.ACCEPT, Action.ESCALATE, Action.ACCEPT]
    assert decided.propensity.tolist() == [0.75, 0.25, 1.0]


def test_time_that_runs_backwards_earns_nothing() -> None:
    """A clock that jumps back and forth does not fill the budget."""
    policy = Budgeted(AlwaysEscalate(), bytes_per_s=1, burst=1)
    when = np.array([100.0, 0.0, 100.0, 0.0, 100.5])
    assert policy.decide(Batch.of(np.zeros(5), time_s=when, bytes_up=1)).action.tolist() == [1, 0, 0, 0, 0]


def test_each_tier_has_a_budget_of_its_own() -> None:
    """`at_tier` gives copies that do not spend each other's budget."""
    policy = Budgeted(AlwaysEscalate(), share=0.1, burst=1)
    low, high = policy.at_tier(0), policy.at_tier(1)
    low.commit_one(0.5, Context(), Action.ESCALATE)
    assert low.decide_one(0.5, Context()) is Action.ACCEPT
    assert high.decide_one(0.5, Context()) is Action.ESCALATE


def test_explain_tells_the_cost_and_what_is_left() -> None:
    """For one input, the numbers that lead to the action."""
    policy = Budgeted(Threshold(0.5), bytes_per_s=10, burst=100)
    policy.commit_one(0.1, Context(time_s=5.0, bytes_up=70), Action.ESCALATE)
    numbers = policy.explain(0.1, Context(time_s=6.0, bytes_up=50))
    assert numbers == {"score": 0.1, "budget_cost": 50.0, "budget_left": 40.0}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "give exactly one of share, bytes_per_s, joules_per_s, got none"),
        ({"share": 0.1, "bytes_per_s": 1.0}, "got share, bytes_per_s"),
        ({"share": 0.0}, "share must be above 0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ({"bytes_per_s": float("inf")}, "bytes_per_s must be above 0"),
        ({"share": 0.5, "burst": 0.5}, "burst must be at least 1"),
        ({"bytes_per_s": 1.0, "burst": 0.0}, "burst must be above 0"),
        ({"joules_per_s": 1.0}, "joules_per_s needs joules_per_byte"),
        ({"share": 0.1, "joules_per_byte": 1.0}, "joules_per_s needs joules_per_byte"),
    ],
)
def test_a_wrong_budget_is_refused(parameters: dict[str, float], text: str) -> None:
    """The message says which number is wrong."""
    with pytest.raises(ValueError, match=text):
        Budgeted(AlwaysEscalate(), **parameters)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"debt": 0.0, "since": 0.0},
        {"debt": -1.0, "since": 0.0, "decisions": 0},
        {"debt": 0.0, "since": float("nan"), "decisions": 0},
        {"debt": 0.0, "since": 0.0, "decisions": -1},
        {"debt": 0.0, "since": 0.0, "decisions": 0, "more": 1},
    ],
)
def test_a_state_that_is_none_is_refused(state: dict[str, float]) -> None:
    """A state with entries missing, foreign or impossible raises ValueError."""
    with pytest.raises(ValueError, match="budget"):
        Budgeted(AlwaysEscalate(), share=0.5).load_state_dict(state)


def test_only_policies_can_be_parts() -> None:
    """A combinator over something else is refused at once."""
    with pytest.raises(ValueError, match="policy must be a policy, got"):
        Budgeted(0.5, share=0.5)  # type: ignore[arg-type]


def test_a_part_with_a_memory_is_asked_row_by_row() -> None:
    """Two budgets, one in the other: both hold."""
    inner: Policy = Budgeted(AlwaysEscalate(), share=0.5, burst=1)
    both = Budgeted(inner, bytes_per_s=10, burst=20)
    batch = Batch.of(np.zeros(8), time_s=0.0, bytes_up=10)
    assert both.decide(batch).action.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
