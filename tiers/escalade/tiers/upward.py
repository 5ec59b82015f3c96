"""A request's way beyond its tier: the tier above is asked, and what it does not answer is kept for later."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.answer import HIGHEST, Row, merge_rows
from escalade.tiers.caller import Caller
from escalade.tiers.deadline import upstream_budget_s
from escalade.tiers.errors import UpstreamError
from escalade.tiers.keeper import NotKeptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer, Hop
    from escalade.tiers.followers import Watch
    from escalade.tiers.keeper import Keeper
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.outbox import Priority
    from escalade.tiers.upstream import Gatherer

ONLY_ROW = np.zeros(1, np.intp)
FINAL = HIGHEST | {"rejected"}
"""Reasons that asking again would not change."""


class Request:
    """One request on its way through the tier."""

    __slots__ = ("caller", "deadline", "id", "shared", "started", "watch", "x")

    def __init__(self, x: NDArray[Any], started: float, deadline: float, caller: Caller, request_id: str) -> None:
        self.x, self.started, self.deadline, self.caller, self.id = x, started, deadline, caller, request_id
        self.shared = False  # whether it went through the batcher, and is counted as pending there
        self.watch: Watch | None = None


class Upward:
    """Asks the tier above, and keeps what is left unanswered.

    Parameters
    ----------
    gatherer, keeper:
        None where there is no tier above, or no outbox.
    reserve_s, timeout_s:
        See `UpstreamConfig`.
    device:
        This device's name towards the tier above.
    """

    def __init__(
        self,
        gatherer: Gatherer | None,
        keeper: Keeper | None,
        metrics: TierMetrics,
        *,
        reserve_s: float,
        timeout_s: float,
        device: str,
        clock: Callable[[], float],
    ) -> None:
        self._gatherer, self._keeper, self._metrics, self._clock = gatherer, keeper, metrics, clock
        self._reserve_s, self._timeout_s, self._device = reserve_s, timeout_s, device
        self._asks: dict[tuple[Priority, bool, int], Caller] = {}

    @property
    def possible(self) -> bool:
        """Whether there is a tier above."""
        return self._gatherer is not None

    @property
    def keeps(self) -> bool:
        """Whether there is an outbox."""
        return self._keeper is not None

    async def ask(self, request: Request, up: NDArray[np.bool_], answer: Answer) -> tuple[Hop, ...]:
        """Write the tier above's answer over the rows `up`; where it gives none they stay this one's, degraded."""
        path: tuple[Hop, ...] = ()
        try:
            with self._asking(request) as last:
                x = request.x if up.all() else request.x[up]
                parts = await self._links.infer(x, last, self._as_caller(request.caller))
            path, unused = merge_rows(answer, np.flatnonzero(up), parts)
            if unused.any():
                self._metrics.degrade(answer, unused, "bad_answer")
            if request.watch is not None:
                request.watch.answered_above(answer, path, self._clock(), up, unused)
        except UpstreamError as error:
            self._metrics.degrade(answer, up, error.reason)
            if request.watch is not None:
                request.watch.unanswered()
        return path

    async def ask_row(self, request: Request, own: Row) -> tuple[Row | Answer, tuple[Hop, ...]]:
        """Return the answer to the only row, and the hops above; nothing is merged when all goes well."""
        path: tuple[Hop, ...] = ()
        caller = self._as_caller(request.caller)
        try:
            with self._asking(request) as last:
                above: Row | Answer
                if request.shared:
                    (above,) = await self._links.infer(request.x, last, caller)
                else:
                    above = await self._links.infer_now(request.x, last, caller)
            if isinstance(above, Row) and len(above.posterior) == len(own.posterior):
                if request.watch is not None:
                    request.watch.row_answered_above(above, self._clock())
                return above, above.path
            answer = own.answer()
            path, unused = merge_rows(answer, ONLY_ROW, [above.answer() if isinstance(above, Row) else above])
            if unused.any():
                self._metrics.degrade(answer, unused, "bad_answer")
            if request.watch is not None:
                request.watch.answered_above(answer, path, self._clock(), np.array([True]), unused)
        except UpstreamError as error:
            answer = own.answer()
            self._metrics.degrade(answer, np.array([True]), error.reason)
            if request.watch is not None:
                request.watch.unanswered()
        if answer.degraded[0]:
            await self.keep(request, np.array([False]), answer.degraded, answer)
        return answer, path

    def _as_caller(self, caller: Caller) -> Caller:
        """Return as whom this tier asks the one above on behalf of a caller."""
        if caller.delivery:
            return caller
        terms = (caller.priority, caller.keeps or self._keeper is not None, caller.hops)
        if terms not in self._asks:  # one object for all requests of the same terms: a link recognises it at once
            priority, keeps, hops = terms
            self._asks[terms] = Caller(self._device, priority, keeps, hops=hops)
        return self._asks[terms]

    async def keep(self, request: Request, deferred: NDArray[np.bool_], up: NDArray[np.bool_], answer: Answer) -> None:
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
                self._metrics.degrade(answer, deferred, error.reason)

    @contextmanager
    def _asking(self, request: Request) -> Iterator[float]:
        """Time a request's way upward; gives the latest time for the answer."""
        now = self._clock()
        budget_s = upstream_budget_s(request.deadline - now, self._reserve_s, self._timeout_s)
        try:
            if budget_s <= 0:
                raise UpstreamError("deadline")
            yield now + budget_s
        finally:
            self._metrics.upstream_s.observe(self._clock() - now)

    @property
    def _links(self) -> Gatherer:
        assert self._gatherer is not None, "asked only where `possible`"
        return self._gatherer
