"""The heart: a tier is a model, a policy and perhaps an upstream.

The way of a request::

    begin ─► _admit ─► model ─► _settle: score, decide ─► accepted ─► Answer
                                             └─ escalated ─► _escalate ─► the tier above's Answer,
                                                                          or this one's, degraded

A fast model runs on the event loop, and a request that it answers with confidence returns without
ever being suspended. A slow one runs on the batcher's threads. Nothing here knows which of the three
tiers it serves, nor how bytes reach it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from escalade.policies import Action, Batch, Context, Policy
from escalade.tiers.answer import Answer, Hop, merge_rows
from escalade.tiers.batcher import Batcher
from escalade.tiers.config import BatchingConfig, LimitsConfig
from escalade.tiers.deadline import upstream_budget_s
from escalade.tiers.errors import (
    DeadlineError,
    DrainingError,
    EscaladeError,
    InputError,
    OverloadedError,
    TooLargeError,
    UpstreamError,
)
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.upstream import Gatherer, Upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    from escalade.tiers.head import Head
    from escalade.tiers.model import OnnxModel

log = structlog.get_logger(__name__)

FOREVER = float("inf")
ACCEPT, ESCALATE, DEFER, ABSTAIN = Action.ACCEPT, Action.ESCALATE, Action.DEFER, Action.ABSTAIN
_ACTION_NAMES = {action: action.name.lower() for action in Action}


class Tier:
    """Answers each input itself or with the tier above, as its policy decides.

    Parameters
    ----------
    name:
        What the tier calls itself in answers.
    model, head:
        The model and the reader of its outputs.
    policy:
        Decides on scores.
    upstream:
        The tier above; None at the top.
    upstream_reserve_s, upstream_timeout_s, upstream_max_batch:
        See `UpstreamConfig`.
    clock:
        Seconds, monotonic. Deadlines are given in its time.
    uniform:
        The random number that a policy may use.
    """

    def __init__(
        self,
        name: str,
        model: OnnxModel,
        head: Head,
        policy: Policy,
        upstream: Upstream | None = None,
        *,
        batching: BatchingConfig = BatchingConfig(),  # noqa: B008  # frozen
        limits: LimitsConfig = LimitsConfig(),  # noqa: B008  # frozen
        metrics: TierMetrics | None = None,
        upstream_reserve_s: float = 0.010,
        upstream_timeout_s: float = 1.0,
        upstream_max_batch: int = 64,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.model, self.policy = name, model, policy
        self.metrics = metrics or TierMetrics(name, model.name)
        self.metrics.queue_depth = lambda: self._pending
        self.draining = False
        head.on_score_error = self._policy_failed
        self._head, self._clock, self._uniform = head, clock, uniform
        self._reserve_s, self._timeout_s = upstream_reserve_s, upstream_timeout_s
        self._max_queue, self._max_rows = limits.max_queue, limits.max_rows
        self._epoch = time.time() - clock()  # policies see the time of day, but never a jump of it
        self._pending = 0
        self._drained = asyncio.Event()
        # How many rows the loop may run at once without being held longer than one inline run may take.
        self._inline_rows = int(min(batching.inline_below_us / model.run_us, batching.max_batch))
        self._batcher = Batcher(
            model.run,
            max_batch=1 if model.one_row_only else batching.max_batch,
            max_delay_s=batching.max_delay_ms / 1e3,
            workers=batching.workers,
            clock=clock,
            on_batch=self.metrics.batch_rows.observe,
        )
        self._gatherer = Gatherer(upstream, max_batch=upstream_max_batch, clock=clock) if upstream else None
        self._row_shape, self._dtype = model.input.row_shape, model.input.dtype
        self._rank = 1 + len(self._row_shape)
        self._fixed_shape = -1 not in self._row_shape

    @property
    def runs_inline(self) -> bool:
        """Whether a single row is computed on the event loop."""
        return self._inline_rows >= 1

    @property
    def pending(self) -> int:
        """Requests that wait for the model or for the tier above."""
        return self._pending

    async def infer(self, x: NDArray[Any], deadline: float = FOREVER) -> Answer:
        """Return the answer to `x`, `[B, *row_shape]`, by `deadline` in the clock's seconds.

        Raises
        ------
        CallerError, TierError
            See `escalade.tiers.errors`. The tier above never makes a request fail.
        """
        result = self.begin(x, deadline)
        return result if isinstance(result, Answer) else await result

    def begin(self, x: NDArray[Any], deadline: float = FOREVER) -> Answer | Awaitable[Answer]:
        """Return the answer itself when it is ready at once, else an awaitable of it; raises as `infer`."""
        started = self._clock()
        try:
            rows = self._admit(x, started, deadline)
            if rows > self._inline_rows:
                return self._run_later(x, started, deadline)
            self.metrics.batch_rows.observe(rows)
            return self._settle(x, self.model.run(x), started, deadline)
        except EscaladeError as error:
            self.metrics.requests[error.outcome] += 1
            raise

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new and wait, at most so long, until what was accepted is answered."""
        self.draining = True
        if self._pending:
            try:
                await asyncio.wait_for(self._drained.wait(), timeout_s)
            except TimeoutError:
                log.warning("drain time is over", tier=self.name, unanswered=self._pending)

    async def close(self) -> None:
        """Stop the worker threads and the link to the tier above."""
        if self._gatherer:
            await self._gatherer.close()
        self._batcher.close()

    def _admit(self, x: NDArray[Any], now: float, deadline: float) -> int:
        """Return the rows of a request that may enter; raise for one that may not."""
        if x.ndim != self._rank or x.dtype != self._dtype or not self._row_fits(x.shape[1:]) or not len(x):
            raise InputError(
                f"input {self.model.input.name!r} must be {self.model.input.datatype} of shape "
                f"{[-1, *self._row_shape]} with at least one row; got {x.dtype} of shape {list(x.shape)}"
            )
        rows = len(x)
        if rows > self._max_rows:
            raise TooLargeError(f"the request has {rows} rows; this tier takes at most {self._max_rows}: send less")
        if self.draining:
            raise DrainingError(f"{self.name} is stopping and takes no new requests")
        if self._pending >= self._max_queue:
            raise OverloadedError(f"{self.name} already holds {self._pending} requests; try again later")
        if deadline <= now:
            raise DeadlineError("the deadline had passed when the request arrived")
        return rows

    def _leave(self) -> None:
        self._pending -= 1
        if self.draining and not self._pending:
            self._drained.set()

    def _row_fits(self, shape: tuple[int, ...]) -> bool:
        return shape == self._row_shape or (
            not self._fixed_shape and all(want in (-1, got) for want, got in zip(self._row_shape, shape, strict=True))
        )

    async def _run_later(self, x: NDArray[Any], started: float, deadline: float) -> Answer:
        """Answer by way of the batcher."""
        self._pending += 1
        try:
            outputs = await self._batcher.submit(x, deadline)
        except EscaladeError as error:
            self.metrics.requests[error.outcome] += 1
            raise
        except asyncio.CancelledError:
            self.metrics.requests["cancelled"] += 1
            raise
        finally:
            self._leave()
        result = self._settle(x, outputs, started, deadline)
        return result if isinstance(result, Answer) else await result

    def _settle(
        self, x: NDArray[Any], outputs: list[NDArray[Any]], started: float, deadline: float
    ) -> Answer | Awaitable[Answer]:
        """Score and decide; return the answer, or the way upward."""
        now = self._clock()
        metrics = self.metrics
        metrics.local_s.observe(now - started)
        if len(x) == 1:
            answer, action = self._decide_one(x, outputs, now, deadline)
            if action is ACCEPT:
                metrics.actions["accept"] += 1
                return self._finish(answer, started)
            actions = np.array([action], np.int8)
        else:
            answer, actions = self._decide_many(x, outputs, now, deadline)
        for action in Action:
            metrics.actions[_ACTION_NAMES[action]] += int(np.count_nonzero(actions == action))
        if answer.label is not None:
            answer.label[actions == ABSTAIN] = -1
        if (deferred := actions == DEFER).any():
            self._degrade(answer, deferred, "no_outbox")
        up = actions == ESCALATE
        if not up.any():
            return self._finish(answer, started)
        if answer.outputs is not None:
            up[:] = True  # the parts of two raw answers need not fit together: a request goes whole
        if self._gatherer is None:
            self._degrade(answer, up, "no_upstream")
            return self._finish(answer, started)
        return self._escalate(x, up, answer, started, deadline, self._gatherer)

    def _decide_one(
        self, x: NDArray[Any], outputs: list[NDArray[Any]], now: float, deadline: float
    ) -> tuple[Answer, Action]:
        """Decide on a single row in plain Python numbers."""
        posterior, label, score = self._head.one(outputs)
        if score > -FOREVER:
            self.metrics.score.observe(score)
        answer = Answer(
            score=np.array([score], np.float32),
            tier=[self.name],
            degraded=np.array([False]),
            posterior=None if posterior is None else np.array([posterior], np.float32),
            label=None if posterior is None else np.array([label]),
            outputs=None if posterior is not None else dict(zip(self.model.output_names, outputs, strict=True)),
        )
        above_ms = self._gatherer.latency_ms if self._gatherer else FOREVER
        # Positional: time_s, uniform, remaining_ms, bytes_up, upstream_ms, posterior.
        context = Context(self._epoch + now, self._uniform(), (deadline - now) * 1e3, x.nbytes, above_ms, posterior)
        try:
            action = self.policy.decide_one(score, context)
            return answer, action if action is ACCEPT else Action(action)
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the tier
            return answer, self._policy_failed(error)

    def _decide_many(
        self, x: NDArray[Any], outputs: list[NDArray[Any]], now: float, deadline: float
    ) -> tuple[Answer, NDArray[np.int8]]:
        """Decide on the rows of a request as arrays."""
        posterior, label, score = self._head.many(outputs)
        rows = len(x)
        for value in score[np.isfinite(score)].tolist():
            self.metrics.score.observe(value)
        answer = Answer(
            score=score,
            tier=[self.name] * rows,
            degraded=np.zeros(rows, np.bool_),
            posterior=posterior,
            label=label,
            outputs=None if posterior is not None else dict(zip(self.model.output_names, outputs, strict=True)),
        )
        batch = Batch.of(
            score,
            posterior,
            time_s=self._epoch + now,
            uniform=[self._uniform() for _ in range(rows)],
            remaining_ms=(deadline - now) * 1e3,
            bytes_up=x.nbytes // rows,
            upstream_ms=self._gatherer.latency_ms if self._gatherer else FOREVER,
        )
        try:
            actions = np.asarray(self.policy.decide(batch).action)
            if actions.shape != (rows,) or not np.isin(actions, list(Action)).all():
                raise ValueError(f"decide returned actions {actions!r} for {rows} rows")
        except Exception as error:  # noqa: BLE001  # as above
            return answer, np.full(rows, self._policy_failed(error), np.int8)
        return answer, actions

    def _policy_failed(self, error: Exception) -> Action:
        """Count it, say it once in a while, and trust the tier above more than a broken policy."""
        self.metrics.policy_errors += 1
        count = self.metrics.policy_errors
        if count & (count - 1) == 0:
            log.error("policy failed; escalating", tier=self.name, error=repr(error), errors_so_far=count)
        return ESCALATE

    async def _escalate(
        self,
        x: NDArray[Any],
        up: NDArray[np.bool_],
        answer: Answer,
        started: float,
        deadline: float,
        gatherer: Gatherer,
    ) -> Answer:
        """Ask the tier above about the rows `up`; keep this tier's answer, degraded, where it gives none."""
        now = self._clock()
        budget_s = upstream_budget_s(deadline - now, self._reserve_s, self._timeout_s)
        self._pending += 1
        try:
            if budget_s <= 0:
                raise UpstreamError("deadline")
            parts = await gatherer.infer(x if up.all() else x[up], now + budget_s)
            path = merge_rows(answer, np.flatnonzero(up), parts)
        except UpstreamError as error:
            self._degrade(answer, up, error.reason)
            path = ()
        except asyncio.CancelledError:
            self.metrics.requests["cancelled"] += 1
            raise
        finally:
            self._leave()
            self.metrics.upstream_s.observe(self._clock() - now)
        return self._finish(answer, started, path)

    def _degrade(self, answer: Answer, rows: NDArray[np.bool_], reason: str) -> None:
        answer.degraded[rows] = True
        answer.reason = reason
        self.metrics.degraded[reason] = self.metrics.degraded.get(reason, 0) + int(np.count_nonzero(rows))

    def _finish(self, answer: Answer, started: float, above: tuple[Hop, ...] = ()) -> Answer:
        """Note this hop's time and count the request."""
        elapsed_s = self._clock() - started
        answer.path = (Hop(self.name, elapsed_s * 1e3), *above)
        self.metrics.total_s.observe(elapsed_s)
        self.metrics.requests["degraded" if answer.reason else "answered"] += 1
        return answer
