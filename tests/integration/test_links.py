"""Links on real sockets: what a caller sees, and what the tier knows, when the tier above fails in every way it can."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from escalade.tiers import Answer, EdgeNode
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.link_state import LinkFacts
from escalade.tiers.links import MOST_HOPS
from escalade.tiers.service import Service
from escalade.tiers.testing.processes import TierProcess

pytestmark = [pytest.mark.asyncio, pytest.mark.alone]

X = np.array([[0, 0, 0.5, 0]], np.float32)  # the edge node is not sure of it, the edge server is
CRITICAL = Caller(priority="critical")
TIMEOUT_MS = 300.0
PATIENT_MS = 1000.0
"""Where an answer from above must come although half of the time is lost on a link that is dead."""
SLACK_MS = 400.0
"""For a busy machine; a tier that waits for its caller's deadline, 5 s, is far beyond it."""
NOTICED_S, RECOVERED_S = 3.0, 5.0
KEEPALIVE_S = 7.0
PATIENCE_S = 20.0


class Proxy:
    """Stands before a tier and spoils the connection as told.

    Attributes
    ----------
    through:
        While cleared, neither side hears from the other, and connections stay open; what was said comes later.
    delay_s:
        What is said comes so much later.
    garbage:
        The tier says this instead.
    """

    def __init__(self, target: str = "127.0.0.1:1") -> None:
        self.target = target
        self.delay_s, self.garbage = 0.0, b""
        self.through = asyncio.Event()
        self.through.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.partition(":")
        with contextlib.closing(writer):
            try:
                above_reader, above_writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            with contextlib.closing(above_writer):
                pumps = [self._pump(reader, above_writer), self._pump(above_reader, writer, answers=True)]
                tasks = [asyncio.ensure_future(pump) for pump in pumps]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.through.wait()
                await asyncio.sleep(self.delay_s)
                writer.write(self.garbage if answers and self.garbage else data)
                await writer.drain()


@pytest.fixture(scope="module")
def servers(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TierProcess]]:
    """Two edge servers as processes."""
    folder = tmp_path_factory.mktemp("servers")
    config = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx"), "name": "m"}}
    with TierProcess(config, folder) as first, TierProcess(config, folder) as second:
        yield [first, second]


@pytest.fixture
def whole(servers: list[TierProcess]) -> list[TierProcess]:
    """The same, both running."""
    for server in servers:
        if not server.running:
            server.start()
        server.thaw()
    return servers


@pytest_asyncio.fixture
async def proxy(whole: list[TierProcess]) -> AsyncIterator[Proxy]:
    """A proxy before the first of them."""
    async with Proxy(whole[0].address) as proxy:
        yield proxy


class Node:
    """An edge node in this process that escalates everything."""

    def __init__(self, service: Service, timeout_ms: float) -> None:
        self.service, self.timeout_ms = service, timeout_ms

    async def ask(self, caller: Caller = PLAIN) -> Answer:
        """Return the answer, which is there when the budget is used up."""
        started = time.monotonic()
        answer = await self.service.tier.infer(X, started + 5.0, caller)
        assert (time.monotonic() - started) * 1e3 < self.timeout_ms + SLACK_MS
        assert answer.degraded.all() == bool(answer.reason)
        return answer

    def facts(self, index: int = 0) -> LinkFacts:
        links = self.service.links
        assert links
        return links.facts()[index]

    async def until(self, *states: str, index: int = 0) -> LinkFacts:
        """Return the facts of a link once it, or its breaker, is in one of the states, without using it."""
        async with asyncio.timeout(PATIENCE_S):
            while not {(facts := self.facts(index)).state, facts.breaker} & set(states):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
        return facts

    async def until_answered_above(self) -> float:
        """Ask until an answer comes that is not degraded; return when it came."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.ask()).reason:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
        return time.monotonic()


Below = Callable[..., Any]


def since(facts: LinkFacts) -> float:
    assert facts.since is not None
    return facts.since


@pytest_asyncio.fixture
async def below(models: Path) -> AsyncIterator[Below]:
    """Start an edge node below the given addresses; the first one has answered it once."""
    async with AsyncExitStack() as stack:

        async def start(*addresses: str, only: str | None = None, answered: bool = True) -> Node:
            timeout_ms = PATIENT_MS if len(addresses) > 1 else TIMEOUT_MS
            config = {
                "tier": "edge_node",
                "model": {"file": str(models / "unsure.onnx"), "name": "m"},
                "policy": {"name": "AlwaysEscalate"},
                "upstream": {"address": addresses[0], "timeout_ms": timeout_ms},
                "fallbacks": [{"address": address, "only": only} for address in addresses[1:]],
                "listen": {"address": "127.0.0.1:0"},
            }
            node = Node(await stack.enter_async_context(EdgeNode.from_config(config)), timeout_ms)
            if answered:
                await node.until_answered_above()
            return node

        yield start


def kill(server: TierProcess, proxy: Proxy) -> None:
    """Connections are refused."""
    server.kill()


def freeze(server: TierProcess, proxy: Proxy) -> None:
    """It takes connections and says nothing."""
    server.freeze()


def drop(server: TierProcess, proxy: Proxy) -> None:
    """Nothing goes through, either way."""
    proxy.through.clear()


def slow_down(server: TierProcess, proxy: Proxy) -> None:
    """Answers come after the budget."""
    proxy.delay_s = 2 * TIMEOUT_MS / 1e3


def babble(server: TierProcess, proxy: Proxy) -> None:
    """Answers are no HTTP/2."""
    proxy.garbage = b"HTTP/1.1 200 OK\r\n\r\nhello"


def heal(server: TierProcess, proxy: Proxy) -> None:
    if server.running:
        server.thaw()
    else:
        server.start()
    proxy.delay_s, proxy.garbage = 0.0, b""
    proxy.through.set()


Fault = Callable[[TierProcess, Proxy], None]
GONE: list[Fault] = [kill, freeze, drop]
FAULTS: list[Fault] = [*GONE, slow_down, babble]
REASONS = {"timeout", "unavailable", "circuit_open"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_an_answer_comes_within_the_budget_whatever_the_tier_above_does(
    whole: list[TierProcess], proxy: Proxy, below: Below, fault: Fault
) -> None:
    """Many at once and one after the other; each says that it is degraded and why; all is well again afterwards."""
    node = await below(proxy.address)
    await asyncio.to_thread(fault, whole[0], proxy)
    answers = await asyncio.gather(*(node.ask() for _ in range(8)))
    answers += [await node.ask() for _ in range(4)]
    assert {answer.tier[0] for answer in answers} == {"edge_node"}
    assert {answer.reason for answer in answers} <= REASONS | ({"rejected", "bad_answer"} if fault is babble else set())
    assert answers[0].reason != "circuit_open"
    assert node.facts().reason == [answer.reason for answer in answers if answer.reason != "circuit_open"][-1]
    await asyncio.to_thread(heal, whole[0], proxy)
    healed = time.monotonic()
    assert await node.until_answered_above() - healed < RECOVERED_S


@pytest.mark.parametrize("fault", GONE, ids=lambda fault: fault.__name__)
async def test_a_peer_that_is_gone_is_noticed_without_traffic_and_so_is_its_return(
    whole: list[TierProcess], proxy: Proxy, below: Below, fault: Fault
) -> None:
    """The first request after it is answered above: nobody had to find out."""
    node = await below(proxy.address)
    broken = time.monotonic()
    await asyncio.to_thread(fault, whole[0], proxy)
    gone = await node.until("frozen", "refused")
    assert since(gone) - broken < NOTICED_S
    assert (gone.breaker, (await node.ask()).reason) == ("open", "circuit_open")
    assert gone.state == ("refused" if fault is kill else "frozen")
    await asyncio.to_thread(heal, whole[0], proxy)
    healed = time.monotonic()
    back = await node.until("up")
    assert since(back) - healed < RECOVERED_S
    answer = await node.ask()
    assert (answer.tier, answer.reason) == (["edge_server"], "")


async def test_connections_that_died_of_a_long_outage_are_made_anew_in_time(
    whole: list[TierProcess], proxy: Proxy, below: Below
) -> None:
    """A frozen peer and one behind a dead cable, both for longer than the keepalive waits."""
    proxy.target = whole[1].address
    node = await below(whole[0].address, proxy.address)
    await node.until("up", index=1)
    broken = time.monotonic()
    whole[0].freeze()
    proxy.through.clear()
    gone = [await node.until("frozen", index=index) for index in (0, 1)]
    assert all(since(facts) - broken < NOTICED_S for facts in gone)
    await asyncio.sleep(broken + KEEPALIVE_S + 2.0 - time.monotonic())  # how long the outage lasts
    assert (await node.ask()).reason == "circuit_open"
    await asyncio.to_thread(heal, whole[0], proxy)
    healed = time.monotonic()
    back = [await node.until("up", index=index) for index in (0, 1)]
    assert all(since(facts) - healed < RECOVERED_S for facts in back)
    assert (await node.ask()).reason == ""


@pytest.mark.parametrize("fault", GONE, ids=lambda fault: fault.__name__)
async def test_when_the_first_upstream_is_gone_the_second_answers(
    whole: list[TierProcess], proxy: Proxy, below: Below, fault: Fault
) -> None:
    """No request is degraded for it; the first is used again when it is back."""
    node = await below(proxy.address, whole[1].address)
    await asyncio.to_thread(fault, whole[0], proxy)
    answers = [*await asyncio.gather(*(node.ask() for _ in range(8))), *[await node.ask() for _ in range(4)]]
    assert {(answer.tier[0], answer.reason) for answer in answers} == {("edge_server", "")}
    assert node.facts(1).calls["ok"] == len(answers)
    before = node.facts(0).calls["ok"]
    await asyncio.to_thread(heal, whole[0], proxy)
    async with asyncio.timeout(PATIENCE_S):
        while node.facts(0).calls["ok"] == before:
            assert (await node.ask()).reason == ""


async def test_the_cellular_path_is_for_critical_inputs(whole: list[TierProcess], proxy: Proxy, below: Below) -> None:
    """When the cable is dead they are answered above; all others are answered here, degraded."""
    node = await below(proxy.address, whole[1].address, only="critical")
    proxy.through.clear()
    urgent, plain = await asyncio.gather(node.ask(CRITICAL), node.ask())
    assert (urgent.tier, urgent.reason) == (["edge_server"], "")
    assert (plain.tier, plain.reason) == (["edge_node"], "timeout")
    await node.until("open")
    assert (await node.ask()).reason == "circuit_open"
    assert (await node.ask(CRITICAL)).reason == ""
    assert node.facts(1).calls == {"ok": 2}
    proxy.through.set()


async def test_one_edge_node_may_stand_above_another(whole: list[TierProcess], below: Below) -> None:
    """The path names both."""
    upper = await below(whole[0].address)
    lower = await below(await upper.service.listen())
    answer = await lower.ask()
    assert (answer.tier, answer.reason) == (["edge_server"], "")
    assert [hop.tier for hop in answer.path] == ["edge_node", "edge_node", "edge_server"]


async def test_edge_nodes_that_stand_above_each_other_still_answer(below: Below) -> None:
    """A request that goes round in circles ends after a few rounds, long before its deadline, and says so."""
    async with Proxy() as loop:
        one = await below(loop.address, answered=False)
        other = await below(await one.service.listen(), answered=False)
        loop.target = await other.service.listen()
        await one.until("up")
        await one.ask()  # closes the breaker, if the link was probed while it led nowhere
        answer = await one.ask()
        assert (answer.tier, answer.reason) == (["edge_node"], "too_many_hops")
        assert len(answer.path) == MOST_HOPS + 1
