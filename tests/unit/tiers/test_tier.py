from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import Action, AlwaysEscalate, Batch, Context, Decisions, Policy
from escalade.tiers.answer import Answer, Row
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import (
    DeadlineError,
    DrainingError,
    InputError,
    OverloadedError,
    TooLargeError,
)
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock
from escalade.tiers.tier import Tier

pytestmark = pytest.mark.asyncio

MakeTier = Callable[..., Tier]
SURE, UNSURE = [9.0, 0.0], [0.2, 0.0]
both_ways = pytest.mark.parametrize("inline", [True, False], ids=["inline", "batched"])


def rows(*logits: list[float]) -> NDArray[np.float32]:
    return np.array(logits, np.float32)


class Fixed(Policy):
    """Always the same action, or whatever else it is told to return."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.full(len(batch), self.action, np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        return self.action  # type: ignore[no-any-return]


class Broken(Policy):
    def decide(self, batch: Batch) -> Decisions:
        raise ZeroDivisionError("a bug of the user's")


@both_ways
async def test_a_sure_input_is_answered_here(make_tier: MakeTier, inline: bool) -> None:
    """The tier's own answer comes with posterior, label, score and its name; nobody above is asked."""
    upstream = FakeUpstream()
    answer = await make_tier(upstream, inline=inline).infer(rows(SURE))
    assert answer.tier == ["edge_node"]
    assert answer.label is not None
    assert answer.label.tolist() == [0]
    assert answer.score[0] > 0.99
    assert [hop.tier for hop in answer.path] == ["edge_node"]
    assert not answer.degraded.any()
    assert upstream.calls == []


async def test_a_sure_input_on_a_fast_model_is_answered_without_suspending(make_tier: MakeTier) -> None:
    """`begin` returns the answer itself: no task, no future, no turn of the loop."""
    assert isinstance(make_tier().begin(rows(SURE)), Row)


@both_ways
async def test_an_unsure_input_is_answered_above(make_tier: MakeTier, inline: bool) -> None:
    """The upper tier's posterior, label, score and name replace this tier's, and both hops are in the path."""
    upstream = FakeUpstream(posterior=(0.01, 0.99))
    answer = await make_tier(upstream, inline=inline).infer(rows(UNSURE))
    assert answer.tier == ["edge_server"]
    assert answer.label is not None
    assert answer.label.tolist() == [1]
    assert answer.score.tolist() == [np.float32(0.99)]
    assert [hop.tier for hop in answer.path] == ["edge_node", "edge_server"]


@both_ways
async def test_only_the_unsure_rows_of_a_request_go_up_and_together(make_tier: MakeTier, inline: bool) -> None:
    """Rows of one request end at different tiers, in their places, by one call upward."""
    upstream = FakeUpstream(posterior=(0.01, 0.99))
    answer = await make_tier(upstream, inline=inline).infer(rows(SURE, UNSURE, SURE, UNSURE))
    assert answer.tier == ["edge_node", "edge_server", "edge_node", "edge_server"]
    assert answer.label is not None
    assert answer.label.tolist() == [0, 1, 0, 1]
    assert [call.tolist() for call in upstream.calls] == [rows(UNSURE, UNSURE).tolist()]


async def test_unsure_requests_of_one_batch_share_a_call_and_sure_ones_do_not_wait(make_tier: MakeTier) -> None:
    """The sure one runs alone; those that gathered meanwhile run together, and go up together."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream, inline=False)
    unsure = [asyncio.create_task(tier.infer(rows(UNSURE))) for _ in range(4)]
    sure = await tier.infer(rows(SURE))
    assert sure.tier == ["edge_node"]
    assert not any(task.done() for task in unsure)
    upstream.hold.set()
    answers = await asyncio.gather(*unsure)
    assert [len(call) for call in upstream.calls] == [4]
    assert all(answer.tier == ["edge_server"] and len(answer) == 1 for answer in answers)


async def test_a_row_that_ran_on_the_loop_goes_up_alone_and_at_once(make_tier: MakeTier) -> None:
    """Nothing shared its run, so it waits for no company."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream)
    unsure = [asyncio.create_task(tier.infer(rows(UNSURE))) for _ in range(2)]
    await asyncio.sleep(0)
    assert [len(call) for call in upstream.calls] == [1, 1]
    assert tier.pending == 2
    upstream.hold.set()
    assert [answer.tier for answer in await asyncio.gather(*unsure)] == [["edge_server"]] * 2


async def test_a_call_upward_has_at_most_the_configured_rows(make_tier: MakeTier) -> None:
    """More uncertain rows than upstream.max_batch are split, and put together again in order."""
    upstream = FakeUpstream()
    answer = await make_tier(upstream, upstream_max_batch=2).infer(rows(*[UNSURE] * 5))
    assert [len(call) for call in upstream.calls] == [2, 2, 1]
    assert answer.tier == ["edge_server"] * 5


@pytest.mark.parametrize("reason", ["unavailable", "timeout", "overloaded", "rejected", "bad_answer"])
@both_ways
async def test_when_the_tier_above_fails_this_one_answers_and_says_so(
    make_tier: MakeTier, inline: bool, reason: str
) -> None:
    """The local answer is returned, degraded, with the reason; sure rows of the request are not degraded."""
    upstream = FakeUpstream()
    upstream.failure = reason
    tier = make_tier(upstream, inline=inline)
    answer = await tier.infer(rows(SURE, UNSURE))
    assert answer.tier == ["edge_node", "edge_node"]
    assert answer.degraded.tolist() == [False, True]
    assert answer.reason == reason
    assert tier.metrics.degraded == {reason: 1}
    assert tier.metrics.requests["degraded"] == 1


async def test_the_deadline_shrinks_on_its_way_up(make_tier: MakeTier) -> None:
    """The tier above gets what is left, less the reserve, and never more than the timeout."""
    clock = ManualClock()
    upstream = FakeUpstream()
    tier = make_tier(upstream, clock=clock, upstream_reserve_s=0.010, upstream_timeout_s=0.5)
    await tier.infer(rows(UNSURE), deadline=clock() + 0.1)
    await tier.infer(rows(UNSURE), deadline=clock() + 60)
    assert upstream.timeouts_s == pytest.approx([0.09, 0.5])


async def test_one_requests_short_deadline_does_not_cut_anothers_and_is_kept(make_tier: MakeTier) -> None:
    """Requests that share a call upward each wait until their own deadline."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream, upstream_reserve_s=0.0, upstream_timeout_s=60.0)
    now = tier._clock()
    hasty = asyncio.create_task(tier.infer(rows(UNSURE, UNSURE), now + 0.05))
    patient = asyncio.create_task(tier.infer(rows(UNSURE, UNSURE), now + 60))
    answer = await hasty
    assert answer.reason == "timeout"
    assert len(upstream.calls) == 1
    assert not patient.done()
    upstream.hold.set()
    assert (await patient).tier == ["edge_server"] * 2


async def test_without_an_upstream_the_tier_answers_and_says_so(make_tier: MakeTier) -> None:
    """A policy that escalates at the top gets a degraded answer, not an error."""
    answer = await make_tier(None).infer(rows(UNSURE))
    assert answer.degraded.tolist() == [True]
    assert answer.reason == "no_upstream"


@pytest.mark.parametrize("bad", [Broken(), Fixed("up"), Fixed(None), Fixed(7)], ids=["raises", "text", "none", "7"])
@pytest.mark.parametrize("count", [1, 3])
async def test_a_broken_policy_escalates_and_is_counted(make_tier: MakeTier, bad: Policy, count: int) -> None:
    """A policy that raises or returns nonsense does not take the tier down: the tier above is asked."""
    tier = make_tier(FakeUpstream(), bad)
    answer = await tier.infer(rows(*[SURE] * count))
    assert answer.tier == ["edge_server"] * count
    assert tier.metrics.policy_errors == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_a_broken_policy_without_an_upstream_gives_a_degraded_answer(make_tier: MakeTier, count: int) -> None:
    """Where nobody can be asked the local answer is still given."""
    answer = await make_tier(None, Broken()).infer(rows(*[SURE] * count))
    assert answer.tier == ["edge_node"] * count
    assert answer.degraded.all()


@pytest.mark.parametrize("count", [1, 2])
async def test_an_abstained_row_has_no_label(make_tier: MakeTier, count: int) -> None:
    """ABSTAIN answers with label -1; the posterior is still there for who wants it."""
    answer = await make_tier(FakeUpstream(), Fixed(Action.ABSTAIN)).infer(rows(*[SURE] * count))
    assert answer.label is not None
    assert answer.label.tolist() == [-1] * count
    assert not answer.degraded.any()


async def test_a_deferred_row_is_answered_here_and_marked(make_tier: MakeTier) -> None:
    """Without an outbox DEFER cannot be kept, and the answer says so."""
    answer = await make_tier(FakeUpstream(), Fixed(Action.DEFER)).infer(rows(SURE))
    assert (answer.tier, answer.reason) == (["edge_node"], "no_outbox")


@pytest.mark.parametrize("count", [1, 2])
async def test_a_model_that_answers_nan_is_never_confident(make_tier: MakeTier, count: int) -> None:
    """NaN gets no label and the lowest score, and is escalated even by a threshold of zero."""
    upstream = FakeUpstream()
    tier = make_tier(upstream)
    answer = await tier.infer(rows(*[[float("nan"), 1.0]] * count))
    assert answer.tier == ["edge_server"] * count
    upstream.failure = "unavailable"
    alone = await tier.infer(rows(*[[float("nan"), 1.0]] * count))
    assert alone.label is not None
    assert alone.label.tolist() == [-1] * count
    assert (alone.score == -np.inf).all()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 3), np.float32), r"\[-1, 2\].*got float32 of shape \[1, 3\]"),
        (np.zeros(2, np.float32), r"got float32 of shape \[2\]"),
        (np.zeros((1, 2)), "FP32.*got float64"),
        (np.zeros((0, 2), np.float32), "at least one row"),
    ],
)
async def test_a_wrong_input_is_refused_with_what_was_expected(make_tier: MakeTier, x: NDArray[Any], says: str) -> None:
    """Wrong width, rank, type or no row at all: the message gives the expected and the received."""
    tier = make_tier()
    with pytest.raises(InputError, match=says):
        await tier.infer(x)
    assert tier.metrics.requests["invalid"] == 1


async def test_too_many_rows_are_refused(make_tier: MakeTier) -> None:
    """limits.max_rows bounds one request."""
    with pytest.raises(TooLargeError, match="3 rows; this tier takes at most 2"):
        await make_tier(limits={"max_rows": 2}).infer(rows(SURE, SURE, SURE))


async def test_a_full_tier_refuses_at_once(make_tier: MakeTier) -> None:
    """Over limits.max_queue the next request fails immediately; those inside are still answered."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream, AlwaysEscalate(), limits={"max_queue": 2})
    inside = [asyncio.create_task(tier.infer(rows(SURE))) for _ in range(2)]
    await asyncio.sleep(0)
    assert tier.pending == 2
    with pytest.raises(OverloadedError):
        await tier.infer(rows(SURE))
    upstream.hold.set()
    assert [answer.tier for answer in await asyncio.gather(*inside)] == [["edge_server"]] * 2
    assert tier.pending == 0


async def test_a_request_that_arrives_late_is_dropped(make_tier: MakeTier) -> None:
    """A deadline in the past is DeadlineError, and the model does not run."""
    clock = ManualClock()
    tier = make_tier(clock=clock)
    with pytest.raises(DeadlineError):
        await tier.infer(rows(SURE), clock() - 1)
    assert tier.metrics.batch_rows.total == 0


async def test_a_draining_tier_takes_nothing_new(make_tier: MakeTier) -> None:
    """After draining began a new request is refused."""
    tier = make_tier()
    tier.draining = True
    with pytest.raises(DrainingError):
        await tier.infer(rows(SURE))


async def test_a_raw_model_answers_its_outputs_scored_by_the_users_function(
    make_tier: MakeTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No classifier needed: the user's callable turns outputs into confidence, requests escalate whole."""
    module = types.ModuleType("users_score")
    module.lowest = lambda outputs: outputs["logits"].min(axis=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_score", module)
    tier = make_tier(None, score="users_score:lowest", output_kind="raw")
    answer = await tier.infer(rows([5.0, 3.0], [7.0, 0.5]))
    assert answer.posterior is None
    assert answer.label is None
    assert answer.outputs is not None
    assert answer.outputs["logits"].tolist() == [[5.0, 3.0], [7.0, 0.5]]
    assert answer.score.tolist() == [3.0, 0.5]
    assert answer.degraded.all()


async def test_a_score_that_raises_means_not_confident(make_tier: MakeTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the user's score is counted and the input escalated."""
    module = types.ModuleType("broken_score")
    module.score = lambda outputs: outputs["no such output"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_score", module)
    tier = make_tier(FakeUpstream(), score="broken_score:score")
    answer = await tier.infer(rows(SURE))
    assert answer.tier == ["edge_server"]
    assert tier.metrics.policy_errors == 1


async def test_an_upstream_of_other_classes_is_a_bad_answer(make_tier: MakeTier) -> None:
    """Nothing of an answer that does not fit is taken over."""
    answer = await make_tier(FakeUpstream(posterior=(0.2, 0.3, 0.5))).infer(rows(SURE, UNSURE))
    assert answer.reason == "bad_answer"
    assert answer.tier == ["edge_node", "edge_node"]
    assert answer.posterior is not None
    assert answer.posterior.shape == (2, 2)


class NanForNan(FakeUpstream):
    """Answers NaN to a row of NaN, as a model does, or always."""

    always = False

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        answer = await super().infer(x, timeout_s)
        assert answer.posterior is not None
        assert answer.label is not None
        nothing = np.isnan(x).any(axis=1) | self.always
        answer.posterior[nothing], answer.label[nothing], answer.score[nothing] = np.nan, -1, -np.inf
        return answer


async def test_one_callers_nan_costs_nobody_else_an_answer(make_tier: MakeTier) -> None:
    """Rows that travel together end apart: the NaN without a class, the others at the tier above."""
    answer = await make_tier(NanForNan()).infer(rows(UNSURE, [np.nan, np.nan], UNSURE))
    assert answer.tier == ["edge_server"] * 3
    assert answer.label is not None
    assert answer.label.tolist() == [1, -1, 1]
    assert not answer.degraded.any()


@pytest.mark.parametrize("count", [1, 2])
async def test_where_the_tier_above_makes_nothing_of_an_input_this_ones_class_stands(
    make_tier: MakeTier, count: int
) -> None:
    """Degraded, for that reason, and counted."""
    upstream = NanForNan()
    upstream.always = True
    tier = make_tier(upstream)
    answer = await tier.infer(rows(*[UNSURE] * count))
    assert answer.tier == ["edge_node"] * count
    assert answer.label is not None
    assert answer.label.tolist() == [0] * count
    assert answer.reason == "bad_answer"
    assert tier.metrics.degraded == {"bad_answer": count}


class RawAbove(FakeUpstream):
    """A raw model above, with an output of that name and a width that differs from call to call."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        answer = await super().infer(x, timeout_s)
        answer.posterior = answer.label = None
        answer.outputs = {self.name: np.zeros((len(x), len(self.calls)), np.float32)}
        return answer


@pytest.mark.parametrize(("name", "max_batch"), [("boxes", 64), ("logits", 1)])
async def test_raw_outputs_of_the_tier_above_that_do_not_fit_are_a_bad_answer(
    make_tier: MakeTier, monkeypatch: pytest.MonkeyPatch, name: str, max_batch: int
) -> None:
    """Others than this one's, or parts that cannot be put together: this tier's own are answered."""
    module = types.ModuleType("never_sure")
    module.score = lambda outputs: outputs["logits"].min(axis=1) * 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "never_sure", module)
    tier = make_tier(RawAbove(name), score="never_sure:score", output_kind="raw", upstream_max_batch=max_batch)
    answer = await tier.infer(rows(UNSURE, UNSURE))
    assert answer.reason == "bad_answer"
    assert answer.outputs is not None
    assert answer.outputs["logits"].tolist() == rows(UNSURE, UNSURE).tolist()


async def test_draining_waits_for_a_request_that_is_between_the_model_and_the_tier_above(make_tier: MakeTier) -> None:
    """It was accepted, so it is pending until it is answered, whatever it waits for."""
    upstream = FakeUpstream()
    upstream.hold = asyncio.Event()
    tier = make_tier(upstream, inline=False)
    request = asyncio.create_task(tier.infer(rows(UNSURE)))
    await asyncio.sleep(0)
    draining = asyncio.create_task(tier.drain(30))
    while not upstream.calls:
        assert tier.pending == 1
        assert not draining.done()
        await asyncio.sleep(0)
    assert tier.pending == 1
    upstream.hold.set()
    assert (await request).tier == ["edge_server"]
    await draining
    assert tier.pending == 0


class Scribbler(Policy):
    def decide(self, batch: Batch) -> Decisions:
        batch.score[:] = 1.0
        return Decisions.of(np.zeros(len(batch), np.int8))


async def test_a_policy_that_writes_to_its_batch_cannot_change_the_answer(make_tier: MakeTier) -> None:
    """It fails, as any broken policy."""
    tier = make_tier(None, Scribbler())
    answer = await tier.infer(rows(UNSURE, UNSURE))
    assert answer.score[0] < 0.6
    assert tier.metrics.policy_errors == 1


async def test_metrics_count_every_row_once(make_tier: MakeTier) -> None:
    """Actions are counted by row, requests by how they ended."""
    tier = make_tier(FakeUpstream())
    await tier.infer(rows(SURE, UNSURE, SURE))
    await tier.infer(rows(UNSURE))
    assert tier.metrics.actions == {"accept": 2, "escalate": 2, "defer": 0, "abstain": 0}
    assert tier.metrics.requests["answered"] == 2
