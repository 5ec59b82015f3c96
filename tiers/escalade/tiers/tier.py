"""The heart: a tier is a model, a policy and perhaps an upstream.

The way of a request::

    begin ─► _rows_of ─► model ─► _settle: score, decide ─► accepted ─► Row or Answer
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

from escalade.policies import Action, Feedback, Policy
from escalade.tiers.admission import Admission, RunTimes, class_of, late_on_arrival, rank_of
from escalade.tiers.answer import NO_LABEL, Answer, Hop, Row
from escalade.tiers.batcher import Batcher
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.config import BatchingConfig, LimitsConfig
from escalade.tiers.deciding import Deciding, going_up
from escalade.tiers.errors import DrainingError, EscaladeError, InputError, TooLargeError
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.upstream import Gatherer, Upstream
from escalade.tiers.upward import Request, Upward

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from numpy.typing import NDArray

    from escalade.tiers.head import Head
    from escalade.tiers.keeper import Keeper
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.record import Recorder
    from escalade.tiers.reports import Reports

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
        self.metrics = metrics or TierMetrics(name, model.name)
        self.metrics.queue_depth, self.metrics.load = lambda: self._pending, lambda: self.load
        self.draining = False
        self._clock = clock
        self._max_queue, self._max_rows = limits.max_queue, limits.max_rows
        self._pending = 0
        self._drained = asyncio.Event()
        # How many rows the loop may run at once without being held longer than one inline run may take.
        self._inline_rows = inline_rows(batching, model)
        max_batch = 1 if model.one_row_only else batching.max_batch
        times = RunTimes(model.run_us / 1e6, max_rows=max(limits.max_rows, max_batch))
        self.admission = Admission(
            name, times, max_queue=limits.max_queue, max_batch=max_batch, workers=batching.workers
        )
        self._batcher = Batcher(
            model.run,
            max_batch=max_batch,
            max_delay_s=batching.max_delay_ms / 1e3,
            workers=batching.workers,
            clock=clock,
            admission=self.admission,
            on_batch=self.metrics.batch_rows.observe,
        )
        self._gatherer = Gatherer(upstream, max_batch=upstream_max_batch, clock=clock) if upstream else None
        self._deciding = Deciding(
            name,
            model.output_names,
            head,
            policy,
            self.metrics,
            self._gatherer,
            recorder,
            reports,
            clock=clock,
            uniform=uniform,
        )
        self._upward = Upward(
            self._gatherer,
            keeper,
            self.metrics,
            reserve_s=upstream_reserve_s,
            timeout_s=upstream_timeout_s,
            device=device,
            clock=clock,
        )
        self._one_row, self._dtype = (1, *model.input.row_shape), model.input.dtype

    @property
    def runs_inline(self) -> bool:
        """Whether a single row is computed on the event loop."""
        return self._inline_rows >= 1

    @property
    def pending(self) -> int:
        """Requests that wait for the model or for the tier above."""
        return self._pending

    @property
    def load(self) -> float:
        """How full the tier is: 0 to 1, in eighths."""
        return self.admission.load(self._pending, self._batcher.waiting_rows)

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
        request = Request(x, self._clock(), deadline, caller, request_id)
        try:
            rows = self._rows_of(x)
            if rows > self._inline_rows:
                return self._run_later(request)
            if self._pending >= self._max_queue:
                raise self.admission.full(self._pending)
            if deadline <= request.started:
                raise late_on_arrival()
            self.metrics.batch_rows.observe(rows)
            return self._settle(request, self.model.run(x))
        except EscaladeError as error:
            self.metrics.refused(error, class_of(caller))
            raise

    def observe(self, feedback: Feedback) -> None:
        """Give the policy feedback from elsewhere, such as the labels of an audit; what it raises is counted."""
        self._deciding.observe(feedback)

    def policy_failed(self, error: Exception) -> None:
        """Count what a policy raised, and say it once in a while."""
        self._deciding.policy_failed(error)

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

    def _rows_of(self, x: NDArray[Any]) -> int:
        """Return the rows of an input that this tier takes; raise for one that it does not."""
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

    async def _run_later(self, request: Request) -> Row | Answer:
        """Answer by way of the batcher."""
        request.shared = True
        self._pending += 1  # until it is answered: on its way upward too
        try:
            rank = rank_of(request.caller)
            outputs = await self._batcher.submit(request.x, request.deadline, rank, pending=self._pending - 1)
            result = self._settle(request, outputs)
            return result if isinstance(result, (Row, Answer)) else await result
        except EscaladeError as error:
            self.metrics.refused(error, class_of(request.caller))
            raise
        except asyncio.CancelledError:
            self.metrics.requests["cancelled"] += 1
            raise
        finally:
            self._leave()

    def _settle(self, request: Request, outputs: list[NDArray[Any]]) -> Row | Answer | Awaitable[Row | Answer]:
        """Score and decide; return the answer, or the way upward."""
        x, metrics = request.x, self.metrics
        if len(x) == 1:
            posterior, label, score, action, now = self._deciding.one(request, outputs)
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
            if action is ESCALATE and posterior is not None and self._upward.possible:
                metrics.actions["escalate"] += 1
                return self._escalate_row(request, Row(self.name, posterior, label, score, ()))
            answer = self._deciding.answer_one(posterior, label, score, outputs)
            actions = np.array([action], np.int8)
        else:
            answer, actions = self._deciding.many(request, outputs)
            if request.caller.delivery:
                actions = np.where(actions == DEFER, ESCALATE, actions)
        for action in Action:
            metrics.actions[_ACTION_NAMES[action]] += int(np.count_nonzero(actions == action))
        if answer.label is not None:
            answer.label[actions == ABSTAIN] = NO_LABEL
        up = going_up(actions, answer)
        deferred = (actions == DEFER) & ~up
        if deferred.any() and (request.caller.keeps or not self._upward.keeps):
            metrics.degrade(answer, deferred, "deferred" if request.caller.keeps else "no_outbox")
            deferred[:] = False
        if up.any() and not self._upward.possible:
            metrics.degrade(answer, up, "no_upstream")
            up[:] = False
        if up.any() or deferred.any():
            return self._escalate(request, up, deferred, answer)
        return self._finish(request, answer)

    async def _escalate(
        self, request: Request, up: NDArray[np.bool_], deferred: NDArray[np.bool_], answer: Answer
    ) -> Answer:
        """Ask the tier above about the rows `up`, and keep what is left unanswered and what was `deferred`."""
        path: tuple[Hop, ...] = ()
        with self._suspended(request):
            if up.any():
                path = await self._upward.ask(request, up, answer)
            await self._upward.keep(request, deferred, up, answer)
        return self._finish(request, answer, path)

    async def _escalate_row(self, request: Request, own: Row) -> Row | Answer:
        """The same for a request of one row."""
        with self._suspended(request):
            result, path = await self._upward.ask_row(request, own)
        return self._finish_row(request, result) if isinstance(result, Row) else self._finish(request, result, path)

    @contextmanager
    def _suspended(self, request: Request) -> Iterator[None]:
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

    def _finish(self, request: Request, answer: Answer, above: tuple[Hop, ...] = ()) -> Answer:
        """Note this hop's time and count the request."""
        elapsed_s = self._clock() - request.started
        answer.path = (Hop(self.name, elapsed_s * 1e3), *above)
        self.metrics.total_s.observe(elapsed_s)
        self.metrics.requests["degraded" if answer.reason else "answered"] += 1
        if request.watch is not None:
            request.watch.finished(answer, elapsed_s * 1e3, request.id)
        return answer

    def _finish_row(self, request: Request, above: Row) -> Row:
        """The same for a row that the tier above answered."""
        elapsed_s = self._clock() - request.started
        self.metrics.total_s.observe(elapsed_s)
        self.metrics.requests["answered"] += 1
        if request.watch is not None:
            request.watch.finished(above, elapsed_s * 1e3, request.id)
        return above._replace(path=(Hop(self.name, elapsed_s * 1e3), *above.path))


def inline_rows(batching: BatchingConfig, model: OnnxModel) -> int:
    """Return how many rows at once are computed on the event loop; of a slow model none."""
    return int(min(batching.inline_below_us / model.run_us, batching.max_batch))
