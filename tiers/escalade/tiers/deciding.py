"""What a tier makes of its model's outputs: scores, the policy's decision, and its own answer."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from escalade.policies import Action, Batch, Context, Decisions
from escalade.tiers.answer import Answer, Row
from escalade.tiers.followers import Followers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Feedback, Policy
    from escalade.tiers.head import Head
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.record import Recorder
    from escalade.tiers.reports import Reports
    from escalade.tiers.upstream import Gatherer
    from escalade.tiers.upward import Request

log = structlog.get_logger(__name__)

FOREVER = float("inf")
ACCEPT, ESCALATE = Action.ACCEPT, Action.ESCALATE


class Deciding:
    """Lets a tier's policy decide, and tells those who follow what was decided.

    Parameters
    ----------
    name:
        What the tier calls itself.
    outputs:
        The names of the model's outputs.
    head:
        Reads them.
    gatherer:
        The way upward: its latency and load are part of what a policy sees. None at the top.
    """

    def __init__(
        self,
        name: str,
        outputs: Sequence[str],
        head: Head,
        policy: Policy,
        metrics: TierMetrics,
        gatherer: Gatherer | None,
        recorder: Recorder | None,
        reports: Reports | None,
        *,
        clock: Callable[[], float],
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._name, self._outputs, self._head, self._policy, self._metrics = name, outputs, head, policy, metrics
        self._gatherer, self._clock, self._uniform = gatherer, clock, uniform
        self._epoch = time.time() - clock()  # policies see the time of day, but never a jump of it
        self._followers = Followers.of(policy, recorder, self.policy_failed, reports)
        head.on_score_error = self.policy_failed

    def observe(self, feedback: Feedback) -> None:
        """Give the policy feedback from elsewhere; what it raises is counted."""
        if self._followers is not None:
            self._followers.observe(feedback)

    def one(
        self, request: Request, outputs: list[NDArray[Any]]
    ) -> tuple[list[float] | None, int, float, Action, float]:
        """Decide on a single row in plain Python numbers; return posterior, label, score, the action and the time."""
        posterior, label, score = self._head.one(outputs)
        now = self._clock()
        gatherer, above_ms, load = self._gatherer, FOREVER, 0.0
        if gatherer is not None:
            above_ms, load = gatherer.latency_ms, gatherer.load_at(now)
        remaining_ms = (request.deadline - now) * 1e3
        # Positional: time_s, uniform, remaining_ms, bytes_up, upstream_ms, posterior, device, upstream_load.
        context = Context(
            self._epoch + now, self._uniform(), remaining_ms, request.x.nbytes, above_ms, posterior, 0, load
        )
        try:
            action = self._policy.decide_one(score, context)
            if action is not ACCEPT:
                action = Action(action)
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the tier
            action = self.policy_failed(error)
        if self._followers is not None:
            can_ask = self._gatherer is not None and remaining_ms > 0
            request.watch = self._followers.decided_one(score, context, action, can_ask=can_ask, label=label, at=now)
        return posterior, label, score, action, now

    def answer_one(
        self, posterior: list[float] | None, label: int, score: float, outputs: list[NDArray[Any]]
    ) -> Answer:
        """Return this tier's own answer to a single row."""
        if posterior is not None:
            return Row(self._name, posterior, label, score, ()).answer()
        outputs_by_name = dict(zip(self._outputs, outputs, strict=True))
        return Answer(np.array([score], np.float32), [self._name], np.array([False]), outputs=outputs_by_name)

    def many(self, request: Request, outputs: list[NDArray[Any]]) -> tuple[Answer, NDArray[np.int8]]:
        """Decide on the rows of a request as arrays."""
        posterior, label, score = self._head.many(outputs)
        rows, deadline = len(request.x), request.deadline
        now = self._clock()
        self._metrics.local_s.observe(now - request.started)
        for value in score[np.isfinite(score)].tolist():
            self._metrics.score.observe(value)
        answer = Answer(
            score=score,
            tier=[self._name] * rows,
            degraded=np.zeros(rows, np.bool_),
            posterior=posterior,
            label=label,
            outputs=None if posterior is not None else dict(zip(self._outputs, outputs, strict=True)),
        )
        batch = Batch.of(
            _read_only(score),
            None if posterior is None else _read_only(posterior),
            time_s=self._epoch + now,
            uniform=[self._uniform() for _ in range(rows)],
            remaining_ms=(deadline - now) * 1e3,
            bytes_up=request.x.nbytes // rows,
            upstream_ms=self._gatherer.latency_ms if self._gatherer else FOREVER,
            upstream_load=self._gatherer.load_at(now) if self._gatherer else 0.0,
        )
        try:
            decided = self._policy.decide(batch)
            actions = np.asarray(decided.action)
            if actions.shape != (rows,) or not np.isin(actions, list(Action)).all():
                raise ValueError(f"decide returned actions {actions!r} for {rows} rows")
        except Exception as error:  # noqa: BLE001  # as above
            actions = np.full(rows, self.policy_failed(error), np.int8)
            decided = Decisions.of(actions)
        if self._followers is not None:
            up = going_up(actions, answer) & (self._gatherer is not None and deadline > now)
            request.watch = self._followers.decided_many(batch, decided, up, label, now)
        return answer, actions

    def policy_failed(self, error: Exception) -> Action:
        """Count it, say it once in a while, and return what to do: trust the tier above more than a broken policy."""
        self._metrics.policy_errors += 1
        count = self._metrics.policy_errors
        if count & (count - 1) == 0:
            log.error("policy failed", tier=self._name, error=repr(error), errors_so_far=count)
        return ESCALATE


def going_up(actions: NDArray[np.int8], answer: Answer) -> NDArray[np.bool_]:
    """Return which rows go up: all or none of a raw model's, since parts of two such answers need not fit."""
    up: NDArray[np.bool_] = actions == ESCALATE
    if answer.outputs is not None and up.any():
        up[:] = True
    return up


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that a policy cannot write to: the array becomes the answer."""
    view = array.view()
    view.flags.writeable = False
    return view
