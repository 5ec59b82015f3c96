"""A tier tells its policy what was really done, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import UNKNOWN, Action, Batch, Budgeted, Context, Decisions, Explore, Feedback, Policy, Threshold
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.followers import Followers
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock
from escalade.tiers.tier import Tier

pytestmark = pytest.mark.asyncio

MakeTier = Callable[..., Tier]
SURE, UNSURE = [9.0, 0.0], [0.2, 0.0]


def rows(*logits: list[float]) -> NDArray[np.float32]:
    return np.array(logits, np.float32)


class Listens(Threshold):
    """A threshold that keeps what it is told; it raises when told to."""

    def __init__(self, action: Action | None = None) -> None:
        super().__init__(0.9)
        self.fixed, self.done, self.seen = action, list[str](), list[Feedback]()
        self.raises = False

    def decide(self, batch: Batch) -> Decisions:
        if self.fixed is None:
            return super().decide(batch)
        return Decisions.of(np.full(len(batch), self.fixed, np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        return super().decide_one(score, context) if self.fixed is None else self.fixed

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        if self.raises:
            raise ZeroDivisionError("a bug of the user's")
        self.done += [Action(int(one)).name for one in action]

    def observe(self, feedback: Feedback) -> None:
        if self.raises:
            raise ZeroDivisionError("a bug of the user's")
        self.seen.append(feedback)


class SlowUpstream(FakeUpstream):
    """Takes a quarter of a second on the tier's clock."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        super().__init__(**options)
        self.clock = clock

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Any:
        self.clock.advance(0.25)
        return await super().infer(x, timeout_s)


async def test_a_plain_policy_costs_nothing(make_tier: MakeTier) -> None:
    """For a policy that wants to be told nothing there is nobody who would tell it."""
    assert make_tier(FakeUpstream(), Threshold(0.9))._deciding._followers is None
    assert make_tier(FakeUpstream(), Explore(Threshold(0.9), 0.1))._deciding._followers is None
    assert isinstance(make_tier(FakeUpstream(), Budgeted(Threshold(0.9), share=0.1))._deciding._followers, Followers)


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "batched"])
async def test_a_budget_holds_in_a_tier(make_tier: MakeTier, inline: bool) -> None:
    """Of eight unsure inputs, one by one and in one request, as many go up as the budget lets."""
    for requests in ([rows(UNSURE)] * 8, [rows(*[UNSURE] * 8)]):
        upstream = FakeUpstream()
        tier = make_tier(upstream, Budgeted(Threshold(0.9), share=0.25, burst=1), inline=inline)
        answered = [name for x in requests for name in (await tier.infer(x)).tier]
        assert answered == ["edge_server", "edge_node", "edge_node", "edge_node"] * 2
        assert sum(len(call) for call in upstream.calls) == 2


async def test_an_escalation_under_way_is_already_charged(make_tier: MakeTier) -> None:
    """The budget is spent when an input goes up, not when its answer comes back."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream, Budgeted(Threshold(0.9), share=0.1, burst=1))
    first = asyncio.create_task(tier.infer(rows(UNSURE)))
    await asyncio.sleep(0)
    assert (await tier.infer(rows(UNSURE))).tier == ["edge_node"]
    upstream.hold.set()
    assert (await first).tier == ["edge_server"]


@pytest.mark.parametrize("count", [1, 2])
async def test_it_is_told_what_was_done_after_what_cannot_be_was_masked(make_tier: MakeTier, count: int) -> None:
    """Without a tier above an escalation is an answer here; a deferral is one too while there is no outbox."""
    for action, upstream, done in (
        (Action.ACCEPT, FakeUpstream(), "ACCEPT"),
        (Action.ESCALATE, FakeUpstream(), "ESCALATE"),
        (Action.ESCALATE, None, "ACCEPT"),
        (Action.DEFER, FakeUpstream(), "ACCEPT"),
        (Action.ABSTAIN, FakeUpstream(), "ABSTAIN"),
    ):
        policy = Listens(action)
        await make_tier(upstream, policy).infer(rows(*[SURE] * count))
        assert policy.done == [done] * count


async def test_an_escalation_that_has_no_time_left_is_not_one(make_tier: MakeTier) -> None:
    """The deadline passed while the model ran: the input is answered here, and that is what was done."""

    class Late(Listens):
        def __init__(self, clock: ManualClock) -> None:
            super().__init__(Action.ESCALATE)
            self.clock = clock

    clock = ManualClock()
    upstream, policy = FakeUpstream(), Late(clock)
    tier = make_tier(upstream, policy, clock=clock)
    run = tier.model.run

    def slow(x: NDArray[Any]) -> list[NDArray[Any]]:
        clock.advance(1.0)
        return run(x)

    tier.model.run = slow  # type: ignore[method-assign]
    for count in (1, 2):
        answer = await tier.infer(rows(*[SURE] * count), clock() + 0.5)
        assert answer.reason == "deadline"
    assert policy.done == ["ACCEPT"] * 3
    assert upstream.calls == []
    assert [seen.action.tolist() for seen in policy.seen] == [[0], [0, 0]]
    assert all((seen.upper == UNKNOWN).all() for seen in policy.seen)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "gathered"])
async def test_what_the_tier_above_said_comes_back(make_tier: MakeTier, shared: bool) -> None:
    """Score, both labels, posterior, time taken and how many tiers up the label comes from."""
    clock, policy = ManualClock(), Listens()
    tier = make_tier(SlowUpstream(clock, posterior=(0.01, 0.99)), policy, clock=clock, inline=not shared)
    await tier.infer(rows(UNSURE))
    (seen,) = policy.seen
    assert seen.local.tolist() == [0]
    assert seen.upper.tolist() == [1]
    assert seen.truth.tolist() == [UNKNOWN]
    assert seen.hops.tolist() == [1]
    assert seen.action.tolist() == [Action.ESCALATE]
    assert seen.propensity.tolist() == [1.0]
    assert seen.upstream_ms.tolist() == pytest.approx([250.0])
    assert seen.score[0] == pytest.approx(0.55, abs=0.01)
    assert seen.posterior is not None
    assert seen.posterior.shape == (1, 2)


async def test_of_a_request_of_many_rows_those_that_went_up_come_back(make_tier: MakeTier) -> None:
    """Each with its own numbers, in one feedback."""
    policy = Listens()
    await make_tier(FakeUpstream(), policy).infer(rows(SURE, UNSURE, SURE, [0.0, 0.1]))
    stayed, went = policy.seen
    assert went.local.tolist() == [0, 1]
    assert went.upper.tolist() == [1, 1]
    assert stayed.upper.tolist() == [UNKNOWN, UNKNOWN]
    assert stayed.action.tolist() == [Action.ACCEPT, Action.ACCEPT]
    assert policy.done == ["ACCEPT", "ESCALATE", "ACCEPT", "ESCALATE"]


class Nothing(FakeUpstream):
    """A tier above whose model answers NaN to everything."""

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Any:
        answer = await super().infer(x, timeout_s)
        assert answer.posterior is not None
        assert answer.label is not None
        answer.posterior[:], answer.label[:], answer.score[:] = np.nan, -1, -np.inf
        return answer


@pytest.mark.parametrize("count", [1, 2])
async def test_a_tier_above_that_makes_nothing_of_an_input_is_no_witness(make_tier: MakeTier, count: int) -> None:
    """Its NaN comes back as no answer, and never as this tier's own label."""
    policy = Listens()
    answer = await make_tier(Nothing(), policy).infer(rows(*[UNSURE] * count))
    assert answer.reason == "bad_answer"
    (seen,) = policy.seen
    assert seen.upper.tolist() == [UNKNOWN] * count
    assert seen.hops.tolist() == [0] * count
    assert np.isnan(seen.upstream_ms).all()


async def test_a_policy_hears_of_what_stayed_here_too(make_tier: MakeTier) -> None:
    """Its score and its own label; nobody above said anything."""
    policy = Listens()
    await make_tier(FakeUpstream(), policy).infer(rows(SURE))
    (seen,) = policy.seen
    assert (seen.local.tolist(), seen.upper.tolist(), seen.action.tolist()) == ([0], [UNKNOWN], [Action.ACCEPT])
    assert seen.score[0] > 0.9


@pytest.mark.parametrize("count", [1, 2])
async def test_an_escalation_that_nobody_answered_comes_back_without_a_label(make_tier: MakeTier, count: int) -> None:
    """So that a policy can learn that the tier above is slow or gone."""
    upstream, policy = FakeUpstream(), Listens()
    upstream.failure = "timeout"
    await make_tier(upstream, policy).infer(rows(*[UNSURE] * count))
    (seen,) = policy.seen
    assert seen.upper.tolist() == [UNKNOWN] * count
    assert seen.hops.tolist() == [0] * count
    assert np.isnan(seen.upstream_ms).all()
    assert policy.done == ["ESCALATE"] * count


async def test_the_propensity_of_a_random_policy_comes_back(make_tier: MakeTier) -> None:
    """A sure input that chance sent up has the probability of that."""
    policy = Listens()
    tier = make_tier(FakeUpstream(), Explore(policy, epsilon=0.125), uniform=lambda: 0.1)
    await tier.infer(rows(SURE))
    await tier.infer(rows(SURE, SURE))
    assert [seen.propensity.tolist() for seen in policy.seen] == [[0.125], [0.125, 0.125]]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_policy_that_cannot_bear_to_be_told_does_not_stop_the_tier(make_tier: MakeTier, count: int) -> None:
    """What `commit` and `observe` raise is counted as a failure of the policy; the answer is as it was decided."""
    policy = Listens()
    policy.raises = True
    tier = make_tier(FakeUpstream(), policy)
    assert (await tier.infer(rows(*[UNSURE] * count))).tier == ["edge_server"] * count
    assert tier.metrics.policy_errors == 2
    assert (await tier.infer(rows(*[SURE] * count))).tier == ["edge_node"] * count
    tier.observe(Feedback.of([0.5], local=0, action=0, truth=1))
    assert tier.metrics.policy_errors == 4


async def test_an_audit_can_be_given_from_outside(make_tier: MakeTier) -> None:
    """`Tier.observe` hands it to a policy that learns, and does nothing for others."""
    policy = Listens()
    audit = Feedback.of([0.5], local=0, action=0, truth=1)
    make_tier(None, policy).observe(audit)
    make_tier(None, Threshold(0.5)).observe(audit)
    assert policy.seen == [audit]


async def test_a_raw_models_request_goes_whole_and_is_told_so(
    make_tier: MakeTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both rows went up though one was accepted; there is no label."""
    import sys
    import types

    module = types.ModuleType("users_raw_score")
    module.lowest = lambda outputs: outputs["logits"].min(axis=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_raw_score", module)
    upstream, policy = FakeUpstream(), Listens()
    upstream.failure = "unavailable"
    tier = make_tier(upstream, policy, score="users_raw_score:lowest", output_kind="raw")
    await tier.infer(rows([5.0, 3.0], [7.0, 0.5]))
    assert policy.done == ["ESCALATE", "ESCALATE"]
    (seen,) = policy.seen
    assert seen.local.tolist() == [UNKNOWN, UNKNOWN]
    assert seen.posterior is None


class Forgetful(Policy):
    """Overrides nothing but `decide`."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.zeros(len(batch), np.int8))


async def test_a_policy_of_ones_own_is_told_only_what_it_overrides(make_tier: MakeTier) -> None:
    """A method that is not there is not called."""
    assert make_tier(None, Forgetful())._deciding._followers is None
