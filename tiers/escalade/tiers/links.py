"""The links upward: which of them a call takes, what happens when it fails, and whether their peers are there."""

from __future__ import annotations

import asyncio
import random
import time
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import structlog

from escalade.tiers.breaker import Breaker
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.config import FallbackConfig, LinkConfig, RetryConfig
from escalade.tiers.deadline import link_budget_s
from escalade.tiers.errors import UpstreamError
from escalade.tiers.link_state import LinkFacts, LinkState
from escalade.tiers.retry import RetryBudget, jittered_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer, Row
    from escalade.tiers.egress import DataClass
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.outbox import Priority
    from escalade.tiers.upstream import Peer

log = structlog.get_logger(__name__)

MOST_HOPS = 8
"""A request that has been passed on so often goes no further: edge nodes may have been put above one another."""

ELSEWHERE = frozenset({"unavailable", "overloaded", "timeout", "denied"})
"""Why another link may do better. What a peer refuses or answers wrongly is not sent a second time."""
AGAIN = frozenset({"unavailable", "overloaded"})
"""Why the same link may do better in a moment."""


class _Link(NamedTuple):
    peer: Peer
    state: LinkState
    only: Literal["critical"] | None
    probe_s: float
    egress: frozenset[DataClass]


class Links:
    """An `Upstream` over one or several links, in order of preference.

    A call takes the first link whose breaker lets it pass and that is meant for its priority, and goes on to the
    next when that one cannot be reached, is overloaded, or has used up its half of the time. When there is no next
    one, a link that fails quickly after it answered well is tried a second time, after a pause, as far as the time and
    the retry budget allow. When no link may be used, it fails as `circuit_open` at once.

    Parameters
    ----------
    links:
        The peers and what is configured of them, the preferred first; closed with this object.
    retry:
        What second tries may cost.
    data:
        What is sent: a link whose `egress` does not name it carries nothing but probes.
    metrics:
        The tier's; it shows the facts of the links from now on.
    clock:
        Seconds, monotonic.
    uniform:
        A random number in [0, 1).
    """

    def __init__(
        self,
        links: Sequence[tuple[Peer, LinkConfig]],
        *,
        retry: RetryConfig,
        metrics: TierMetrics,
        data: DataClass = "raw",
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._links = [_link(peer, config, uniform) for peer, config in links]
        self._for_critical = [link for link in self._links if data in link.egress]
        self._for_all = [link for link in self._for_critical if link.only is None]
        self._budget = RetryBudget(ratio=retry.ratio, burst=retry.burst)
        self._pause_s = retry.pause_ms / 1e3
        self._metrics, self._clock, self._uniform = metrics, clock, uniform
        self._probes: list[asyncio.Task[None]] = []
        metrics.links = self.facts

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Row | Answer:
        """Return the answer of one of the tiers above to `x`; see `Upstream`."""
        if caller.hops >= MOST_HOPS:
            raise self._not_asked("too_many_hops")
        links = self._for_critical if caller.priority == "critical" else self._for_all
        if not links:
            raise self._not_asked("egress")
        clock, last, failure = self._clock, len(links) - 1, None
        deadline = clock() + timeout_s
        for place, link in enumerate(links):
            now = clock()
            if now >= deadline or not link.state.breaker.allows(now):
                continue
            others = place < last and any(other.state.breaker.ready(now) for other in links[place + 1 :])
            given_s = link_budget_s(deadline - now, others=others)
            if failure is None:
                self._budget.earn()
            try:
                return await self._ask(link, x, given_s, caller, again=not others)
            except UpstreamError as error:
                if error.reason not in ELSEWHERE:
                    raise
                failure = error
        raise failure or self._not_asked("circuit_open")

    def may_leave(self, priority: Priority) -> bool:
        """Whether there is a link that a request of this priority may ever take."""
        return bool(self._for_critical if priority == "critical" else self._for_all)

    async def close(self) -> None:
        """Stop the probes and close the links; calls under way end."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await asyncio.gather(*(link.peer.close() for link in self._links))

    @property
    def load(self) -> float:
        """What the preferred one of the links that may be used for any request says of its load, 0 to 1."""
        now = self._clock()
        for link in self._for_all:
            if link.state.breaker.ready(now):
                return link.state.load(link.peer.load, now)
        return 0.0

    def facts(self) -> list[LinkFacts]:
        """Return what is known of each link, the preferred first."""
        now = self._clock()
        return [link.state.facts(link.peer.address, link.peer.load, link.only, now) for link in self._links]

    def watch(self) -> None:
        """Probe the links from now on, each when it has been quiet for `probe_ms`."""
        self._probes = [asyncio.create_task(self._watch(link)) for link in self._links if link.probe_s]

    async def _watch(self, link: _Link) -> None:
        peer, state, period_s, asked = link.peer, link.state, link.probe_s, -inf
        while True:
            quiet_s = self._clock() - max(asked, state.heard)
            if quiet_s < period_s:
                await asyncio.sleep(period_s - quiet_s)
                continue
            asked, outcome, detail = self._clock(), "ok", ""
            try:
                await peer.ready(period_s)
            except UpstreamError as error:
                outcome, detail = error.reason, str(error)
            if state.heard < asked or outcome == "ok":  # else a call was answered meanwhile: that counts for more
                self._tell(link, state.probed(outcome, self._clock()), outcome, detail)

    async def _ask(self, link: _Link, x: NDArray[Any], given_s: float, caller: Caller, *, again: bool) -> Row | Answer:
        """Ask one link, which may take `given_s`, a second time where that pays; its breaker has let the call pass."""
        peer, state = link.peer, link.state
        started = self._clock()
        try:
            answer = await peer.infer(x, given_s, caller)
        except UpstreamError as error:
            now = self._clock()
            self._count(error.reason)
            again = again and error.reason in AGAIN and self._pays(state, started + given_s - now)
            self._tell(link, state.failed(error.reason, now, given_s, again=again), error.reason, str(error))
            if not again:
                raise
            failure = error
        except BaseException:  # the caller gave up, or worse: the breaker must not wait for this call
            state.breaker.abandoned(self._clock())
            raise
        else:
            now = self._clock()
            self._count("ok")
            self._tell(link, state.answered(now, now - started), "ok")
            return answer
        await asyncio.sleep(jittered_s(self._pause_s, self._uniform()))
        now = self._clock()
        if not state.breaker.allows(now):
            raise failure
        return await self._ask(link, x, started + given_s - now, caller, again=False)

    def _pays(self, state: LinkState, left_s: float) -> bool:
        """Whether a second try on the same link may be made and can still be answered in time."""
        usual_s = state.latency_ms / 1e3 if state.calls["ok"] else 0.0
        return state.trusted and left_s > 1.5 * self._pause_s + usual_s and self._budget.spend()

    def _tell(self, link: _Link, news: bool, outcome: str, detail: str = "") -> None:
        """Log what is new of a link: not every call on a dead one."""
        if news and outcome == "ok":
            log.info("upstream answers again", address=link.peer.address)
        elif news:
            log.warning("upstream gives no answer", address=link.peer.address, reason=outcome, detail=detail)

    def _not_asked(self, reason: str) -> UpstreamError:
        self._count(reason)
        return UpstreamError(reason)

    def _count(self, outcome: str) -> None:
        calls = self._metrics.upstream_calls
        calls[outcome] = calls.get(outcome, 0) + 1


def _link(peer: Peer, config: LinkConfig, uniform: Callable[[], float]) -> _Link:
    limits = config.breaker
    breaker = Breaker(
        failures=limits.failures,
        wait_s=limits.wait_ms / 1e3,
        max_wait_s=limits.max_wait_ms / 1e3,
        uniform=uniform,
    )
    only = config.only if isinstance(config, FallbackConfig) else None
    return _Link(peer, LinkState(breaker), only, config.probe_ms / 1e3, frozenset(config.egress))
