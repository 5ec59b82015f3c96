"""What the policy makes of a fused answer: accepted, or given to the edge server's own model.

To the policy the aggregator is a tier like any other: it is told a score and a context, what it decides is
recorded, and what came of it is fed back. Data that the nodes did not send cannot be escalated: a policy
that escalates an event without `raw` inputs is overruled, and the answer says `no_raw`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Action, Context
from escalade.tiers.aggregator.event import Answer, Event
from escalade.tiers.answer import NO_LABEL, Hop, Row
from escalade.tiers.config_types import DTYPES
from escalade.tiers.errors import DeadlineError, EscaladeError
from escalade.tiers.followers import Followers, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.policies import Policy, Score
    from escalade.tiers.record import Recorder
    from escalade.tiers.tier import Tier

NAME = "aggregator"
REASONS = {
    "no_raw": "the policy escalated, but no node sent its input",
    "no_model": "the policy escalated, but the aggregator runs without a model",
    "no_outbox": "the policy deferred, but there is nothing to wait for",
    "timeout": "the edge server's model did not answer in time",
    "overloaded": "the edge server is overloaded or draining",
    "failed": "the edge server's model failed on these inputs",
}
"""Why an answer is not what the policy asked for."""
AGREEMENT = "agreement"


class Decider:
    """Decides on fused answers and asks the edge server's own model.

    Parameters
    ----------
    score:
        Of the fused posterior; None: the score is 1 - conflict.
    tier:
        The edge server's own; None: nothing can be escalated.
    failed:
        Told what the policy raises; returns what to do.
    clock:
        Monotonic seconds: the tier's.
    """

    def __init__(
        self,
        policy: Policy,
        score: Score | None,
        tier: Tier | None,
        *,
        escalate_s: float,
        failed: Callable[[Exception], Action],
        uniform: Callable[[], float],
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._score, self._tier, self._escalate_s = policy, score, tier, escalate_s
        self._failed, self._uniform, self._clock = failed, uniform, clock
        self._followers = Followers.of(policy, recorder, failed)
        self._latency_ms = float("nan")

    def decide(
        self,
        event: Event,
        cause: str,
        posterior: NDArray[np.float32],
        conflict: float,
        used: NDArray[np.bool_],
        now: float,
    ) -> Decided:
        """Return what to do with a fused answer."""
        known = bool(used.any())
        values = posterior.tolist()
        label = values.index(max(values)) if known else NO_LABEL
        score = self._score_of(values, conflict) if known else -float("inf")
        bytes_up = sum(len(raw.content) for raw in event.raws.values())
        context = Context(now, self._uniform(), self._escalate_s * 1e3, bytes_up, self._latency_ms, values)
        try:
            action = Action(self._policy.decide_one(score, context))
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the aggregator
            action = self._failed(error)
        can_ask = self._tier is not None and bool(event.raws)
        started = self._clock()
        watch = None
        if self._followers is not None:
            watch = self._followers.decided_one(score, context, action, can_ask=can_ask, label=label, at=started)
        reason = ""
        if action is Action.ESCALATE and not can_ask:
            reason = "no_raw" if self._tier else "no_model"
        elif action is Action.DEFER:
            reason = "no_outbox"
        answer = Answer(
            sequence=0,
            event=event.key,
            zone=event.zone,
            revision=event.revision + 1,
            cause=cause,
            posterior=posterior,
            label=NO_LABEL if action is Action.ABSTAIN else label,
            score=score,
            conflict=conflict,
            reported=event.places(),
            used=tuple(np.flatnonzero(used).tolist()),
            action=action.name.lower(),
            tier=NAME,
            reason=reason,
            opened_s=event.opened_s,
            closed_s=now,
        )
        return Decided(answer, label, watch, started, asks=action is Action.ESCALATE and can_ask)

    def finished(self, decided: Decided) -> Answer:
        """Return the answer of what is not escalated, and tell the followers."""
        self._tell(decided, decided.answer, ())
        return decided.answer

    async def ask(self, event: Event, decided: Decided) -> Answer:
        """Return the answer of the edge server's own model: the mean over the inputs that it made something of."""
        assert self._tier is not None
        answer, deadline = decided.answer, self._clock() + self._escalate_s
        rows = [np.frombuffer(raw.content, DTYPES[raw.datatype]).reshape(1, *raw.shape) for raw in event.raws.values()]
        try:
            parts = await asyncio.gather(*(self._tier.infer(x, deadline) for x in rows), return_exceptions=True)
            posterior = _mean(parts, len(answer.posterior))
        except EscaladeError as error:
            if decided.watch is not None:
                decided.watch.unanswered()
            answer = answer._replace(reason=_reason(error))
            self._tell(decided, answer, ())
            return answer
        took_ms = (self._clock() - decided.started) * 1e3
        known = self._latency_ms == self._latency_ms
        self._latency_ms = self._latency_ms + 0.1 * (took_ms - self._latency_ms) if known else took_ms
        values = posterior.tolist()
        label = values.index(max(values))
        above = (Hop(self._tier.name, took_ms),)
        row = Row(self._tier.name, values, label, max(values), above)
        if decided.watch is not None:
            decided.watch.row_answered_above(row, self._clock())
        answer = answer._replace(posterior=posterior, label=label, tier=self._tier.name)
        self._tell(decided, answer, above)
        return answer

    def _score_of(self, values: list[float], conflict: float) -> float:
        return 1.0 - conflict if self._score is None else float(self._score.one(values))

    def _tell(self, decided: Decided, answer: Answer, above: tuple[Hop, ...]) -> None:
        if decided.watch is None:
            return
        elapsed_ms = (self._clock() - decided.started) * 1e3
        row = Row(answer.tier, answer.posterior.tolist(), answer.label, answer.score, (Hop(NAME, elapsed_ms), *above))
        whole = row.answer()
        if answer.reason:
            whole.degraded[:], whole.reason = True, answer.reason
        decided.watch.finished(whole, elapsed_ms, answer.event)


class Decided:
    """A fused answer on its way out."""

    __slots__ = ("answer", "asks", "guess", "started", "watch")

    def __init__(self, answer: Answer, guess: int, watch: Watch | None, started: float, *, asks: bool) -> None:
        self.answer, self.guess, self.watch, self.started, self.asks = answer, guess, watch, started, asks


def _mean(parts: list[Any], classes: int) -> NDArray[np.float32]:
    """Return the mean posterior of the parts that have one; raises the first error where none has."""
    posteriors = [
        part.posterior[0] for part in parts if not isinstance(part, BaseException) and part.posterior is not None
    ]
    usable = [one for one in posteriors if len(one) == classes and np.isfinite(one).all()]
    if not usable:
        raise next((part for part in parts if isinstance(part, EscaladeError)), EscaladeError("no usable posterior"))
    mean: NDArray[np.float32] = np.stack(usable).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _reason(error: EscaladeError) -> str:
    if isinstance(error, DeadlineError):
        return "timeout"
    return "overloaded" if error.outcome in ("overloaded", "draining") else "failed"
