"""The heart: a tier is a model, a policy and perhaps an upstream.

The way of a request::

    begin ─► _admit ─► model ─► _settle: score, decide ─► accepted ─► Row or Answer
                                             ├─ escalated ─► _ask ─► the tier above's Answer,
                                             │                       or this one's, degraded ─► _keep
                                             └─ deferred ──────────► this one's, provisional ─► _keep

A fast model runs on the event loop, and a request that it answers with confidence returns without
ever being suspended. A slow one runs on the batcher's threads. Nothing here knows which of the three
tiers it serves, nor how bytes reach it.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from escalade.policies import Action, Batch, Context, Decisions, Feedback, Policy
from escalade.tiers.answer import NO_LABEL, Answer, Hop, Row, merge_rows
from escalade.tiers.batcher import Batcher
from escalade.tiers.caller import PLAIN, Caller
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
from escalade.tiers.followers import Followers, Watch
from escalade.tiers.keeper import NotKeptError
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.upstream import Gatherer, Upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from numpy.typing import NDArray

    from escalade.tiers.head import Head
    from escalade.tiers.keeper import Keeper
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.outbox import Priority
    from escalade.tiers.record import Recorder
    from escalade.tiers.reports import Reports

log = structlog.get_logger(__name__)

FOREVER = float("inf")
ACCEPT, ESCALATE, DEFER, ABSTAIN = Action.ACCEPT, Action.ESCALATE, Action.DEFER, Action.ABSTAIN
ONLY_ROW = np.zeros(1, np.intp)
FINAL = frozenset({"no_upstream", "rejected"})
"""Reasons that asking again would not change."""
_ACTION_NAMES = {action: action.name.lower() for action in Action}


class _Request:
    """One request on its way through the tier."""

    __slots__ = ("caller", "deadline", "id", "shared", "started", "watch", "x")

    def __init__(self, x: NDArray[Any], started: float, deadline: float, caller: Caller, request_id: str) -> None:
        self.x, self.started, self.deadline, self.caller, self.id = x, started, deadline, caller, request_id
        self.shared = False  # whether it went through the batcher, and is counted as pending there
        self.watch: Watch | None = None


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
    recorder:
        Keeps what was decided and what came of it; closed by who made it.
    keeper:
        Puts what stays unanswered into an outbox.
    reports:
        Reports every answer upward.
    device:
        This device's name towards the tier above.
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
        recorder: Recorder | None = None,
        keeper: Keeper | None = None,
        reports: Reports | None = None,
        device: str = "",
    ) -> None:
        self.name, self.model, self.policy = name, model, policy
        self._followers = Followers.of(policy, recorder, self.policy_failed, reports)
        self.metrics = metrics or TierMetrics(name, model.name)
        self.metrics.queue_depth = lambda: self._pending
        self.draining = False
        head.on_score_error = self.policy_failed
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
        self._keeper = keeper
        self._device = device
        self._asks: dict[tuple[Priority, bool, int], Caller] = {}
        self._one_row, self._dtype = (1, *model.input.row_shape), model.input.dtype

    @property
    def runs_inline(self) -> bool:
        """Whether a single row is computed on the event loop."""
        return self._inline_rows >= 1

    @property
    def pending(self) -> int:
        """Requests that wait for the model or for the tier above."""
        return self._pending

    async def infer(
        self, x: NDArray[Any], deadline: float = FOREVER, caller: Caller = PLAIN, request_id: str = ""
    ) -> Answer:
        """Return the answer to `x`, `[B, *row_shape]`, by `deadline` in the clock's seconds.

        Raises
        ------
        CallerError, TierError
            See `escalade.tiers.errors`. The tier above never makes a request fail.
        """
        result = self.begin(x, deadline, caller, request_id)
        if not isinstance(result, (Row, Answer)):
            result = await result
        return result.answer() if isinstance(result, Row) else result

    def begin(
        self, x: NDArray[Any], deadline: float = FOREVER, caller: Caller = PLAIN, request_id: str = ""
    ) -> Row | Answer | Awaitable[Row | Answer]:
        """Return the answer itself when it is ready at once, else an awaitable of it; raises as `infer`."""
        request = _Request(x, self._clock(), deadline, caller, request_id)
        try:
            rows = self._admit(x, request.started, deadline)
            if rows > self._inline_rows:
                return self._run_later(request)
            self.metrics.batch_rows.observe(rows)
            return self._settle(request, self.model.run(x))
        except EscaladeError as error:
            self.metrics.requests[error.outcome] += 1
            raise

    def observe(self, feedback: Feedback) -> None:
        """Give the policy feedback from elsewhere, such as the labels of an audit; what it raises is counted."""
        if self._followers is not None:
            self._followers.observe(feedback)

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
        if not (x.shape == self._one_row or self._fits(x.shape)) or x.dtype != self._dtype:
            raise InputError(
                f"input {self.model.input.name!r} must be {self.model.input.datatype} of shape "
                f"{[-1, *self._one_row[1:]]} with at least one row; got {x.dtype} of shape {list(x.shape)}"
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

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an input's shape is `[B, *row]` with rows in it; a size of -1 in `row` is open."""
        if len(shape) != len(self._one_row) or not shape[0]:
            return False
        return all(want in (-1, got) for want, got in zip(self._one_row[1:], shape[1:], strict=True))

    async def _run_later(self, request: _Request) -> Row | Answer:
        """Answer by way of the batcher."""
        request.shared = True
        self._pending += 1  # until it is answered: on its way upward too
        try:
            outputs = await self._batcher.submit(request.x, request.deadline)
            result = self._settle(request, outputs)
            return result if isinstance(result, (Row, Answer)) else await result
        except EscaladeError as error:
            self.metrics.requests[error.outcome] += 1
            raise
        except asyncio.CancelledError:
            self.metrics.requests["cancelled"] += 1
            raise
        finally:
            self._leave()

    def _settle(self, request: _Request, outputs: list[NDArray[Any]]) -> Row | Answer | Awaitable[Row | Answer]:
        """Score and decide; return the answer, or the way upward."""
        x, metrics = request.x, self.metrics
        if len(x) == 1:
            posterior, label, score = self._head.one(outputs)
            action, now = self._decide_one(request, posterior, label, score)
            elapsed_s = now - request.started
            if action is ACCEPT and posterior is not None:
                metrics.accepted_row(elapsed_s, score)
                row = Row(self.name, posterior, label, score, (Hop(self.name, elapsed_s * 1e3),))
                if request.watch is not None:
                    request.watch.finished(row, elapsed_s * 1e3, request.id)
                return row
            metrics.local_s.observe(elapsed_s)
            if score > -FOREVER:
                metrics.score.observe(score)
            if action is DEFER and request.caller.delivery:
                action = ESCALATE
            if action is ESCALATE and posterior is not None and self._gatherer is not None:
                metrics.actions["escalate"] += 1
                return self._escalate_row(request, Row(self.name, posterior, label, score, ()), self._gatherer)
            answer = self._answer_one(posterior, label, score, outputs)
            actions = np.array([action], np.int8)
        else:
            answer, actions = self._decide_many(request, outputs)
            if request.caller.delivery:
                actions = np.where(actions == DEFER, ESCALATE, actions)
        for action in Action:
            metrics.actions[_ACTION_NAMES[action]] += int(np.count_nonzero(actions == action))
        if answer.label is not None:
            answer.label[actions == ABSTAIN] = NO_LABEL
        up = self._going_up(actions, answer)
        deferred = (actions == DEFER) & ~up
        if deferred.any() and (self._keeper is None or request.caller.keeps):
            self._degrade(answer, deferred, "deferred" if request.caller.keeps else "no_outbox")
            deferred[:] = False
        if self._gatherer is None and up.any():
            self._degrade(answer, up, "no_upstream")
            up[:] = False
        if up.any() or deferred.any():
            return self._escalate(request, up, deferred, answer)
        return self._finish(request, answer)

    def _going_up(self, actions: NDArray[np.int8], answer: Answer) -> NDArray[np.bool_]:
        """Return which rows go up: all or none of a raw model's, since parts of two such answers need not fit."""
        up: NDArray[np.bool_] = actions == ESCALATE
        if answer.outputs is not None and up.any():
            up[:] = True
        return up

    def _decide_one(
        self, request: _Request, posterior: list[float] | None, label: int, score: float
    ) -> tuple[Action, float]:
        """Decide on a single row in plain Python numbers; return the action and the time."""
        now = self._clock()
        above_ms = self._gatherer.latency_ms if self._gatherer else FOREVER
        remaining_ms = (request.deadline - now) * 1e3
        # Positional: time_s, uniform, remaining_ms, bytes_up, upstream_ms, posterior.
        context = Context(self._epoch + now, self._uniform(), remaining_ms, request.x.nbytes, above_ms, posterior)
        try:
            action = self.policy.decide_one(score, context)
            if action is not ACCEPT:
                action = Action(action)
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the tier
            action = self.policy_failed(error)
        if self._followers is not None:
            can_ask = self._gatherer is not None and remaining_ms > 0
            request.watch = self._followers.decided_one(score, context, action, can_ask=can_ask, label=label, at=now)
        return action, now

    def _answer_one(
        self, posterior: list[float] | None, label: int, score: float, outputs: list[NDArray[Any]]
    ) -> Answer:
        if posterior is not None:
            return Row(self.name, posterior, label, score, ()).answer()
        outputs_by_name = dict(zip(self.model.output_names, outputs, strict=True))
        return Answer(np.array([score], np.float32), [self.name], np.array([False]), outputs=outputs_by_name)

    def _decide_many(self, request: _Request, outputs: list[NDArray[Any]]) -> tuple[Answer, NDArray[np.int8]]:
        """Decide on the rows of a request as arrays."""
        posterior, label, score = self._head.many(outputs)
        rows, deadline = len(request.x), request.deadline
        now = self._clock()
        self.metrics.local_s.observe(now - request.started)
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
            _read_only(score),
            None if posterior is None else _read_only(posterior),
            time_s=self._epoch + now,
            uniform=[self._uniform() for _ in range(rows)],
            remaining_ms=(deadline - now) * 1e3,
            bytes_up=request.x.nbytes // rows,
            upstream_ms=self._gatherer.latency_ms if self._gatherer else FOREVER,
        )
        try:
            decided = self.policy.decide(batch)
            actions = np.asarray(decided.action)
            if actions.shape != (rows,) or not np.isin(actions, list(Action)).all():
                raise ValueError(f"decide returned actions {actions!r} for {rows} rows")
        except Exception as error:  # noqa: BLE001  # as above
            actions = np.full(rows, self.policy_failed(error), np.int8)
            decided = Decisions.of(actions)
        if self._followers is not None:
            up = self._going_up(actions, answer) & (self._gatherer is not None and deadline > now)
            request.watch = self._followers.decided_many(batch, decided, up, label, now)
        return answer, actions

    def policy_failed(self, error: Exception) -> Action:
        """Count it, say it once in a while, and return what to do: trust the tier above more than a broken policy."""
        self.metrics.policy_errors += 1
        count = self.metrics.policy_errors
        if count & (count - 1) == 0:
            log.error("policy failed", tier=self.name, error=repr(error), errors_so_far=count)
        return ESCALATE

    async def _escalate(
        self, request: _Request, up: NDArray[np.bool_], deferred: NDArray[np.bool_], answer: Answer
    ) -> Answer:
        """Ask the tier above about the rows `up`, and keep what is left unanswered and what was `deferred`."""
        path: tuple[Hop, ...] = ()
        with self._suspended(request):
            if self._gatherer is not None and up.any():
                path = await self._ask(request, up, answer, self._gatherer)
            await self._keep(request, deferred, up, answer)
        return self._finish(request, answer, path)

    async def _ask(
        self, request: _Request, up: NDArray[np.bool_], answer: Answer, gatherer: Gatherer
    ) -> tuple[Hop, ...]:
        """Write the tier above's answer over the rows `up`; where it gives none they stay this one's, degraded."""
        path: tuple[Hop, ...] = ()
        try:
            with self._asking(request) as last:
                x = request.x if up.all() else request.x[up]
                parts = await gatherer.infer(x, last, self._as_caller(request.caller))
            path, unused = merge_rows(answer, np.flatnonzero(up), parts)
            if unused.any():
                self._degrade(answer, unused, "bad_answer")
            if request.watch is not None:
                request.watch.answered_above(answer, path, self._clock(), up, unused)
        except UpstreamError as error:
            self._degrade(answer, up, error.reason)
            if request.watch is not None:
                request.watch.unanswered()
        return path

    async def _escalate_row(self, request: _Request, own: Row, gatherer: Gatherer) -> Row | Answer:
        """The same for a request of one row, and nothing to merge when all goes well."""
        with self._suspended(request):
            return await self._ask_row(request, own, gatherer)

    async def _ask_row(self, request: _Request, own: Row, gatherer: Gatherer) -> Row | Answer:
        path: tuple[Hop, ...] = ()
        caller = self._as_caller(request.caller)
        try:
            with self._asking(request) as last:
                above: Row | Answer
                if request.shared:
                    (above,) = await gatherer.infer(request.x, last, caller)
                else:
                    above = await gatherer.infer_now(request.x, last, caller)
            if isinstance(above, Row) and len(above.posterior) == len(own.posterior):
                if request.watch is not None:
                    request.watch.row_answered_above(above, self._clock())
                return self._finish_row(request, above)
            answer = own.answer()
            path, unused = merge_rows(answer, ONLY_ROW, [above.answer() if isinstance(above, Row) else above])
            if unused.any():
                self._degrade(answer, unused, "bad_answer")
            if request.watch is not None:
                request.watch.answered_above(answer, path, self._clock(), np.array([True]), unused)
        except UpstreamError as error:
            answer = own.answer()
            self._degrade(answer, np.array([True]), error.reason)
            if request.watch is not None:
                request.watch.unanswered()
        if answer.degraded[0]:
            await self._keep(request, np.array([False]), answer.degraded, answer)
        return self._finish(request, answer, path)

    def _as_caller(self, caller: Caller) -> Caller:
        """Return as whom this tier asks the one above on behalf of a caller."""
        if caller.delivery:
            return caller
        terms = (caller.priority, caller.keeps or self._keeper is not None, caller.hops)
        if terms not in self._asks:  # one object for all requests of the same terms: a link recognises it at once
            priority, keeps, hops = terms
            self._asks[terms] = Caller(self._device, priority, keeps, hops=hops)
        return self._asks[terms]

    async def _keep(
        self, request: _Request, deferred: NDArray[np.bool_], up: NDArray[np.bool_], answer: Answer
    ) -> None:
        """Put the rows that wait for a better answer into the outbox, unless somebody below keeps them."""
        keeper, caller, rows = self._keeper, request.caller, deferred
        if keeper is None or caller.keeps or caller.delivery:
            return
        if keeper.everything and answer.reason not in FINAL:
            rows = deferred | (up & answer.degraded)
        index = np.flatnonzero(rows)
        if not len(index):
            return
        left_s = request.deadline - self._clock()
        try:
            part = answer.take(index)
            answer.kept = await keeper.keep(request.x[index], index, part, caller, request.id, left_s)
        except NotKeptError as error:
            if deferred.any():
                self._degrade(answer, deferred, error.reason)

    @contextmanager
    def _suspended(self, request: _Request) -> Iterator[None]:
        """Count a request that waits for something, unless it is counted already."""
        counted = request.shared
        self._pending += not counted
        try:
            yield
        except asyncio.CancelledError:
            self.metrics.requests["cancelled"] += not counted
            raise
        finally:
            if not counted:
                self._leave()

    @contextmanager
    def _asking(self, request: _Request) -> Iterator[float]:
        """Time a request's way upward; gives the latest time for the answer."""
        now = self._clock()
        budget_s = upstream_budget_s(request.deadline - now, self._reserve_s, self._timeout_s)
        try:
            if budget_s <= 0:
                raise UpstreamError("deadline")
            yield now + budget_s
        finally:
            self.metrics.upstream_s.observe(self._clock() - now)

    def _degrade(self, answer: Answer, rows: NDArray[np.bool_], reason: str) -> None:
        answer.degraded[rows] = True
        answer.reason = reason
        self.metrics.degraded[reason] = self.metrics.degraded.get(reason, 0) + int(np.count_nonzero(rows))

    def _finish(self, request: _Request, answer: Answer, above: tuple[Hop, ...] = ()) -> Answer:
        """Note this hop's time and count the request."""
        elapsed_s = self._clock() - request.started
        answer.path = (Hop(self.name, elapsed_s * 1e3), *above)
        self.metrics.total_s.observe(elapsed_s)
        self.metrics.requests["degraded" if answer.reason else "answered"] += 1
        if request.watch is not None:
            request.watch.finished(answer, elapsed_s * 1e3, request.id)
        return answer

    def _finish_row(self, request: _Request, above: Row) -> Row:
        """The same for a row that the tier above answered."""
        elapsed_s = self._clock() - request.started
        self.metrics.total_s.observe(elapsed_s)
        self.metrics.requests["answered"] += 1
        if request.watch is not None:
            request.watch.finished(above, elapsed_s * 1e3, request.id)
        return above._replace(path=(Hop(self.name, elapsed_s * 1e3), *above.path))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that a policy cannot write to: the array becomes the answer."""
    view = array.view()
    view.flags.writeable = False
    return view
