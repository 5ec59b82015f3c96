"""Which link a call takes, and what happens when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from escalade.tiers.answer import Answer
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.config import FallbackConfig, LinkConfig, RetryConfig, UpstreamConfig
from escalade.tiers.errors import UpstreamError
from escalade.tiers.links import MOST_HOPS, Links
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock

pytestmark = pytest.mark.asyncio

X = np.zeros((1, 2), np.float32)
CRITICAL = Caller(priority="critical")
BREAKER = {"failures": 2, "wait_ms": 1000, "max_wait_ms": 4000}


class Peer(FakeUpstream):
    """Takes `seconds` of the clock for each call, then answers, or fails with the next of `failures`."""

    def __init__(self, address: str, clock: ManualClock) -> None:
        super().__init__(tier=address)
        self.address, self.clock, self.seconds = address, clock, 0.0
        self.failures: list[str] = []
        self.probes: asyncio.Queue[float] = asyncio.Queue()
        self.refuses = False

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        self.failure = self.failures.pop(0) if self.failures else None
        self.clock.advance(timeout_s if self.failure == "timeout" else self.seconds)
        return await super().infer(x, timeout_s, caller)

    async def ready(self, timeout_s: float) -> None:
        await self.probes.put(timeout_s)
        if self.refuses:
            raise UpstreamError("unavailable")


class World:
    """A preferred peer, a second one, and a third for critical requests alone."""

    def __init__(self, count: int = 3, probe_ms: float = 0, **retry: Any) -> None:
        self.clock, self.metrics = ManualClock(), TierMetrics("edge_node", "m")
        self.peers = [Peer(f"{name}:1", self.clock) for name in ("first", "second", "cellular")[:count]]
        options: dict[str, Any] = {"breaker": BREAKER, "probe_ms": probe_ms}
        configs: list[LinkConfig] = [
            UpstreamConfig(address="first:1", **options),
            FallbackConfig(address="second:1", **options),
            FallbackConfig(address="cellular:1", only="critical", **options),
        ]
        self.links = Links(
            list(zip(self.peers, configs[:count], strict=True)),
            retry=RetryConfig(**{"pause_ms": 0.1, **retry}),
            metrics=self.metrics,
            clock=self.clock,
            uniform=lambda: 0.0,
        )

    async def ask(self, caller: Caller = PLAIN, timeout_s: float = 1.0) -> str:
        """Return who answered, or why nobody did."""
        try:
            answer = await self.links.infer(X, timeout_s, caller)
        except UpstreamError as error:
            return error.reason
        assert isinstance(answer, Answer)
        return answer.tier[0].partition(":")[0]

    @property
    def asked(self) -> list[int]:
        """How many calls each peer has had."""
        return [len(peer.calls) for peer in self.peers]


async def test_the_preferred_link_is_used_while_it_answers() -> None:
    """With all the time there is but for what another link would need."""
    world = World()
    assert [await world.ask() for _ in range(3)] == ["first"] * 3
    assert world.asked == [3, 0, 0]
    assert world.peers[0].timeouts_s == [0.5] * 3
    assert [facts.state for facts in world.links.facts()] == ["up", "unknown", "unknown"]


@pytest.mark.parametrize("reason", ["unavailable", "overloaded"])
async def test_a_quick_failure_goes_on_to_the_next_link(reason: str) -> None:
    """At once, with the time that is left, and the last link may use it all."""
    world = World()
    world.peers[0].failures, world.peers[0].seconds = [reason], 0.1
    assert await world.ask() == "second"
    assert world.asked == [1, 1, 0]
    assert world.peers[1].timeouts_s == pytest.approx([0.9])
    assert world.links.facts()[0].retries == 0


async def test_a_frozen_link_costs_half_of_the_time() -> None:
    """The next is asked with the other half."""
    world = World()
    world.peers[0].failures = ["timeout"]
    assert await world.ask() == "second"
    assert world.peers[1].timeouts_s == pytest.approx([0.5])
    world.peers[0].failures, world.peers[1].failures = ["timeout"], ["timeout"]
    assert await world.ask(CRITICAL, timeout_s=0.8) == "cellular"
    assert [peer.timeouts_s[-1] for peer in world.peers] == pytest.approx([0.4, 0.2, 0.2])


@pytest.mark.parametrize("reason", ["rejected", "bad_answer"])
async def test_what_a_peer_refuses_is_not_sent_a_second_time(reason: str) -> None:
    """Neither to it nor to another."""
    for count in (1, 3):
        world = World(count)
        world.peers[0].failures = [reason]
        assert await world.ask() == reason
        assert world.asked == [1, 0, 0][:count]


async def test_a_link_for_critical_requests_is_for_them_alone() -> None:
    """Others fail rather than take it; the reason is that of the last link they could take."""
    world = World(burst=0)
    world.peers[0].failures, world.peers[1].failures = ["unavailable"] * 3, ["overloaded"] * 3
    assert [await world.ask(), await world.ask(Caller(priority="bulk"))] == ["overloaded"] * 2
    assert world.asked == [2, 2, 0]
    assert await world.ask(CRITICAL) == "cellular"


async def test_when_every_link_is_left_alone_nobody_is_asked() -> None:
    """The request fails at once, and is counted."""
    world = World(count=1, burst=0)
    world.peers[0].failures = ["timeout"] * 2
    assert [await world.ask() for _ in range(3)] == ["timeout", "timeout", "circuit_open"]
    assert world.asked == [2]
    assert world.metrics.upstream_calls == {"ok": 0, "timeout": 2, "circuit_open": 1}
    world.clock.advance(1.0)
    assert await world.ask() == "first"
    assert world.links.facts()[0].breaker == "closed"


async def test_a_link_that_is_left_alone_costs_the_others_no_time() -> None:
    """The one link that may be used gets all there is."""
    world = World(count=2, burst=0)
    world.peers[0].failures = ["timeout"] * 2
    for _ in range(3):
        assert await world.ask() == "second"
    assert world.asked == [2, 3]
    assert world.peers[1].timeouts_s[-1] == 1.0


@pytest.mark.parametrize("reason", ["unavailable", "overloaded"])
async def test_a_first_quick_failure_of_the_only_link_is_tried_again_once(reason: str) -> None:
    """A hiccup costs nothing but the pause; an outage is not tried again and again."""
    world = World(count=1)
    assert await world.ask() == "first"
    world.peers[0].failures = [reason]
    assert await world.ask() == "first"
    assert world.asked == [3]
    world.peers[0].failures = ["unavailable"] * 4
    assert [await world.ask() for _ in range(3)] == ["unavailable", "unavailable", "circuit_open"]
    assert world.asked == [6]
    (facts,) = world.links.facts()
    assert facts.retries == 2
    assert sum(world.metrics.upstream_calls.values()) == 7


async def test_retries_end_with_the_budget() -> None:
    """A peer that is overloaded for long gets a tenth more calls, not twice as many."""
    world = World(count=1, ratio=0.1, burst=3)
    world.peers[0].failures = ["overloaded"] * 1000
    assert {await world.ask() for _ in range(100)} == {"overloaded"}
    assert 100 + 9 <= world.asked[0] <= 100 + 3 + 0.1 * 100


async def test_a_retry_that_cannot_be_answered_in_time_is_not_made() -> None:
    """Answers take 100 ms, and less is left."""
    world = World(count=1)
    world.peers[0].seconds = 0.1
    assert await world.ask() == "first"
    world.peers[0].failures = ["unavailable"]
    assert await world.ask(timeout_s=0.19) == "unavailable"
    assert world.asked == [2]


async def test_a_timeout_is_not_tried_again_on_the_same_link() -> None:
    """It has had its time."""
    world = World(count=1)
    world.peers[0].failures = ["timeout"]
    assert await world.ask() == "timeout"
    assert world.asked == [1]


async def test_a_request_that_goes_round_in_circles_ends() -> None:
    """Edge nodes may be put above one another by mistake; the tier that notices answers by itself."""
    world = World()
    assert await world.ask(Caller(hops=MOST_HOPS - 1)) == "first"
    assert await world.ask(Caller(hops=MOST_HOPS)) == "too_many_hops"
    assert world.asked == [1, 0, 0]


async def test_a_caller_that_gives_up_does_not_keep_a_link_closed() -> None:
    """The one call that was to find out was cancelled: the next one may."""
    world = World(count=1, burst=0)
    (peer,) = world.peers
    peer.failures = ["timeout"] * 2
    assert [await world.ask(), await world.ask()] == ["timeout"] * 2
    world.clock.advance(1.0)
    peer.hold = asyncio.Event()
    call = asyncio.create_task(world.ask())
    await asyncio.sleep(0)
    assert world.links.facts()[0].breaker == "half_open"
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    peer.hold.set()
    assert await world.ask() == "first"


async def test_a_quiet_link_is_probed_and_a_busy_one_is_not() -> None:
    """Each by its own clock: the one that answers calls needs no asking."""
    world = World(count=2, probe_ms=1)
    world.links.watch()
    first, second = world.peers
    async with asyncio.timeout(5):
        assert await first.probes.get() == 0.001
        await second.probes.get()
        for _ in range(5):
            world.clock.advance(0.5)
            assert await world.ask() == "first"
            await second.probes.get()
    assert first.probes.empty()
    await world.links.close()
    assert all(peer.closed for peer in world.peers)


async def test_a_peer_that_is_gone_is_known_before_a_request_needs_it() -> None:
    """And when it is back: nobody is sent to find out while the probe knows better."""
    world = World(count=2, probe_ms=1)
    first = world.peers[0]
    first.refuses = True
    world.links.watch()
    async with asyncio.timeout(5):
        await first.probes.get()
        assert world.links.facts()[0].state == "refused"
        assert await world.ask() == "second"
        assert first.calls == []
        first.refuses = False
        world.clock.advance(0.5)
        await first.probes.get()
        assert world.links.facts()[0].state == "up"
        assert await world.ask() == "first"
    await world.links.close()


async def test_the_load_is_that_of_the_link_that_would_be_asked() -> None:
    """As it was said in the last second."""
    world = World(count=2, burst=0)
    world.peers[0].load, world.peers[1].load = 0.25, 0.75
    assert world.links.load == 0
    assert await world.ask() == "first"
    assert world.links.load == 0.25
    world.peers[0].failures = ["unavailable"] * 2
    assert [await world.ask(), await world.ask()] == ["second"] * 2
    assert world.links.load == 0.75
    world.clock.advance(2.0)
    assert world.links.load == 0


async def test_the_metrics_tell_the_links_apart() -> None:
    """State, breaker, calls, retries and latency, by address."""
    world = World(count=2)
    world.peers[0].failures = ["unavailable"]
    assert await world.ask() == "second"
    registry = CollectorRegistry()
    registry.register(world.metrics)
    samples = {
        (sample.name, sample.labels.get("link"), sample.labels.get("state") or sample.labels.get("outcome")): sample
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }

    def value(name: str, link: str, label: str | None = None) -> float:
        return samples[f"escalade_link_{name}", link, label].value

    assert (value("state", "first:1", "refused"), value("state", "second:1", "up")) == (1, 1)
    assert (value("state", "first:1", "up"), value("breaker", "first:1", "closed")) == (0, 1)
    assert (value("calls_total", "first:1", "unavailable"), value("calls_total", "second:1", "ok")) == (1, 1)
    assert (value("retries_total", "first:1"), value("load_ratio", "first:1")) == (0, 0)
    assert ("escalade_link_latency_seconds", "first:1", None) not in samples
    assert value("latency_seconds", "second:1") == 0
