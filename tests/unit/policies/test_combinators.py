"""Policies made of policies: what each does, and that all hand everything on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies import (
    Action,
    AlwaysAccept,
    AlwaysEscalate,
    Batch,
    Budgeted,
    Combinator,
    Context,
    DeadlineAware,
    Decisions,
    Explore,
    Feedback,
    FirstOf,
    Hysteresis,
    Policy,
    Telemetry,
    Threshold,
    listens,
)
from escalade.policies.combinator import probabilities


class Diary(Policy):
    """Writes down everything that it is told."""

    def __init__(self, level: int = 0) -> None:
        self.level, self.told = level, list[str]()

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.full(len(batch), Action.ESCALATE, np.int8))

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.told += [f"did {Action(int(one)).name}" for one in action]

    def observe(self, feedback: Feedback) -> None:
        self.told.append(f"observed {len(feedback)}")

    def retune(self, telemetry: Telemetry) -> None:
        self.told.append(f"retuned at {telemetry.time_s:g}")

    def at_tier(self, level: int) -> Diary:
        return Diary(level)

    def check_model(self, sha256: str) -> None:
        if sha256 != "good":
            raise ValueError("another model")

    def state_dict(self) -> dict[str, Any]:
        return {"lines": len(self.told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if list(state) != ["lines"]:
            raise ValueError("no diary")
        self.told = ["?"] * int(state["lines"])


class Thirds(Policy):
    """Accepts, escalates or defers a usable row, each with probability one third."""

    def decide(self, batch: Batch) -> Decisions:
        action = np.minimum(batch.uniform * 3, 2).astype(np.int8)
        unusable = ~(batch.score > -np.inf)
        return Decisions(np.where(unusable, np.int8(1), action), np.where(unusable, 1.0, 1 / 3))


def over(part: Policy) -> list[Combinator]:
    return [
        Budgeted(part, share=0.9),
        DeadlineAware(part),
        Explore(part, epsilon=0.1),
        FirstOf([Threshold(0.5), part]),
        Hysteresis(part, hold=1),
    ]


@pytest.mark.parametrize("number", range(5))
def test_everything_reaches_the_part(number: int) -> None:
    """What was done, feedback, telemetry, the tier's level, the model's check and the state arrive inside."""
    diary = Diary()
    policy = over(diary)[number]
    policy.commit_one(0.5, Context(), Action.ACCEPT)
    policy.commit(Batch.of([0.5, 0.5]), np.array([1, 0], np.int8))
    policy.observe(Feedback.of([0.5], local=0, action=1))
    none = np.zeros(0, np.int64)
    policy.retune(Telemetry(9.0, 1.0, none, none, none, none, none))
    assert diary.told == ["did ACCEPT", "did ESCALATE", "did ACCEPT", "observed 1", "retuned at 9"]
    policy.check_model("good")
    with pytest.raises(ValueError, match="another model"):
        policy.check_model("bad")
    name = next(name for name, part in policy.parts.items() if part is diary)
    assert policy.state_dict()[f"{name}.lines"] == 5
    twin = over(Diary())[number]
    twin.load_state_dict(policy.state_dict())
    assert twin.parts[name].told == ["?"] * 5  # type: ignore[attr-defined]
    above = policy.at_tier(2)
    assert above.parts[name].level == 2  # type: ignore[attr-defined]
    assert diary.level == 0


@pytest.mark.parametrize("number", range(5))
def test_a_foreign_entry_of_a_state_is_refused(number: int) -> None:
    """Neither the combinator nor its part takes over what is not theirs."""
    policy = over(Diary())[number]
    with pytest.raises(ValueError, match=r"got|no diary"):
        policy.load_state_dict({**policy.state_dict(), "more": 1})


def test_a_policy_is_told_only_what_it_or_a_part_wants_to_know() -> None:
    """The tier asks `listens` once, so that a plain policy costs nothing."""
    plain = Explore(FirstOf([Threshold(0.5), AlwaysEscalate()]), epsilon=0.1)
    assert [listens(plain, method) for method in ("commit", "observe", "retune")] == [False] * 3
    assert [listens(Explore(Diary(), 0.1), method) for method in ("commit", "observe", "retune")] == [True] * 3
    assert listens(DeadlineAware(Threshold(0.5)), "observe")
    assert not listens(DeadlineAware(Threshold(0.5)), "commit")


def test_the_first_that_does_not_skip_decides() -> None:
    """With skip=escalate any policy's reason to accept suffices; with skip=accept all must accept."""
    batch = Batch.of([0.9, 0.6, 0.3, float("nan")])
    either, both = (FirstOf([Threshold(0.8), Threshold(0.5)], skip) for skip in ("escalate", "accept"))
    assert either.decide(batch).action.tolist() == [0, 0, 1, 1]
    assert both.decide(batch).action.tolist() == [0, 1, 1, 1]
    assert either.explain(0.6, Context())["decided_by"] == 1
    assert either.explain(0.3, Context())["decided_by"] is None


def test_a_list_without_policies_is_refused() -> None:
    """There must be somebody to ask, and `skip` must be one of two words."""
    with pytest.raises(ValueError, match="at least one"):
        FirstOf([])
    with pytest.raises(ValueError, match="skip must be"):
        FirstOf([AlwaysAccept()], "defer")  # type: ignore[arg-type]


def nested(depth: int) -> st.SearchStrategy[Policy]:
    base = st.sampled_from([Threshold(0.5), AlwaysEscalate(), AlwaysAccept(), Thirds()])
    if not depth:
        return base
    inner = nested(depth - 1)
    return st.one_of(
        st.builds(Explore, inner, st.sampled_from([0.0, 0.1, 0.4])),
        st.builds(
            lambda one, two, skip: FirstOf([one, two], skip), inner, inner, st.sampled_from(["escalate", "accept"])
        ),
        st.builds(lambda one: DeadlineAware(one, margin_ms=50), inner),
        inner,
    )


@given(nested(2), st.sampled_from([0.9, 0.5, 0.2, float("-inf")]), st.sampled_from([10.0, 90.0]))
def test_propensities_are_right_however_policies_are_nested(policy: Policy, score: float, remaining_ms: float) -> None:
    """Each action's share over the random number is the propensity that is stated with it."""
    draws = 4096
    rng = np.random.default_rng(0)
    uniform = (rng.permutation(draws) + rng.random(draws)) / draws
    batch = Batch.of(np.full(draws, score), uniform=uniform, remaining_ms=remaining_ms, upstream_ms=0.0)
    decided = policy.decide(batch)
    for action in range(4):
        taken = decided.action == action
        share = taken.mean()
        stated = decided.propensity[taken]
        if taken.any():
            assert np.ptp(stated) < 1e-12
            assert abs(share - stated[0]) <= 5 * np.sqrt(max(stated[0] * (1 - stated[0]), 1e-6) / draws)
    table = probabilities(policy, replace(batch.take(slice(0, 1)), uniform=np.array([0.123])))
    assert table.sum() == pytest.approx(1.0)


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.1, 0.55, 0.9])), max_size=60))
def test_hysteresis_holds_each_device_by_itself(hold: int, inputs: list[tuple[int, float]]) -> None:
    """The decisions on one device's inputs are those that it would get alone; batch and loop agree."""
    policy = Hysteresis(Threshold(0.5), margin=0.1, hold=hold)
    device, score = [one[0] for one in inputs], [one[1] for one in inputs]
    batch = Batch.of(np.array(score, np.float32), device=np.array(device, np.int64))
    action = policy.decide(batch).action
    for number in range(3):
        own = np.array(device, int) == number
        assert policy.decide(batch.take(own)).action.tolist() == action[own].tolist()
    for row in range(len(batch)):
        assert policy.decide_one(*batch.row(row)) == action[row]
        policy.commit_one(*batch.row(row), Action(int(action[row])))


def test_hysteresis_switches_on_below_the_threshold_and_off_above_the_margin() -> None:
    """A score within the margin is answered as the ones before it were."""
    scores = [0.6, 0.4, 0.6, 0.7, 0.8, 0.6, 0.4, 0.8]
    steady = Hysteresis(Threshold(0.5), margin=0.25).decide(Batch.of(scores)).action
    assert steady.tolist() == [0, 1, 1, 1, 0, 0, 1, 0]


def test_hysteresis_holds_inputs_after_an_escalation() -> None:
    """`hold` further inputs go up, counted anew from each that the policy itself sends up."""
    scores = [0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.9, 0.9, 0.9]
    held = Hysteresis(Threshold(0.5), hold=2).decide(Batch.of(scores)).action
    assert held.tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0]


def test_an_escalation_that_could_not_be_made_alarms_nobody() -> None:
    """What counts is what was done."""
    policy = Hysteresis(Threshold(0.5), hold=3)
    policy.commit(Batch.of([0.1, 0.1]), np.zeros(2, np.int8))
    assert policy.decide_one(0.9, Context()) is Action.ACCEPT


@pytest.mark.parametrize(
    "state",
    [
        {"device": np.array([1])},
        {"device": np.array([1]), "held": np.array([9])},
        {"device": np.array([1.5]), "held": np.array([1])},
        {"device": np.array([1, 2]), "held": np.array([1])},
    ],
)
def test_alarms_that_are_none_are_refused(state: dict[str, Any]) -> None:
    """Columns missing, of two lengths, or out of range raise ValueError."""
    with pytest.raises(ValueError, match=r"held|device"):
        Hysteresis(Threshold(0.5), hold=2).load_state_dict(state)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_a_share_of_chance_out_of_range_is_refused(epsilon: float) -> None:
    """It is at least 0 and below 1."""
    with pytest.raises(ValueError, match="epsilon must be"):
        Explore(Threshold(0.5), epsilon)


def test_a_steadiness_of_nothing_is_refused() -> None:
    """Hysteresis needs a margin or a hold."""
    with pytest.raises(ValueError, match="margin"):
        Hysteresis(Threshold(0.5))
