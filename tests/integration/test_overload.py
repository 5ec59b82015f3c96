"""Overload on real sockets: who is refused, who is not, and what they are told."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.tiers.caller import Caller
from escalade.tiers.wire.channel import bytes_call
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes

pytestmark = pytest.mark.asyncio
Start = Callable[..., Any]
X = np.array([[9, 0, 0, 0]], np.float32)


class Gate:
    """Stands in the model's way until it is opened."""

    def __init__(self, run: Any) -> None:
        self._run, self.open = run, threading.Event()

    def __call__(self, x: NDArray[Any]) -> Any:
        assert self.open.wait(20)
        return self._run(x)


async def ask(channel: grpc.aio.Channel, caller: Caller, timeout_s: float = 20) -> str:
    """Return `ok`, or the status's name."""
    try:
        data = await bytes_call(channel, "ModelInfer")(
            request_bytes(X, model="m", input_name="input", caller=caller), timeout=timeout_s
        )
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {dict(error.trailing_metadata() or ())}"
    assert answer_from_bytes(data, rows=1).tier == ["edge_server"]
    return "ok"


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop turn until it is so."""
    while not true():  # noqa: ASYNC110  # turns of the loop, not a wait
        await asyncio.sleep(0)


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.open.set()


def gated(service: Any, gates: list[Gate]) -> Gate:
    gate = Gate(service.tier._batcher._run)
    service.tier._batcher._run = gate
    gates.append(gate)
    return gate


async def test_a_flood_of_bulk_makes_no_critical_request_fail(start: Start, gates: list[Gate]) -> None:
    """The queue is full of bulk; critical ones take their places, and the flood is told when to try again."""
    service, address = await start(
        batching={"workers": 1, "inline_below_us": 0, "max_batch": 1}, limits={"max_queue": 20}
    )
    gate = gated(service, gates)
    async with grpc.aio.insecure_channel(address) as channel:
        flood = [asyncio.create_task(ask(channel, Caller(priority="bulk"))) for _ in range(60)]
        await until(lambda: service.tier.pending == 20)  # the flood is in
        urgent = [asyncio.create_task(ask(channel, Caller(priority="critical"))) for _ in range(15)]
        done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert not any(task.done() for task in urgent)
        await until(lambda: service.tier.metrics.shed["bulk", "displaced"] == 15)
        gate.open.set()
        assert await asyncio.gather(*urgent) == ["ok"] * 15
        answers = await asyncio.gather(*flood)
    counts = Counter(answer.split()[0] for answer in answers)
    assert counts == {"ok": 5, "RESOURCE_EXHAUSTED": 55}
    assert done
    assert all("grpc-retry-pushback-ms" in answer for answer in answers if answer != "ok")
    shed = service.tier.metrics.shed
    assert (shed["bulk", "queue"], shed["bulk", "displaced"]) == (40, 15)
    assert sum(shed.values()) == 55


async def test_a_flooding_device_does_not_hurt_another(start: Start) -> None:
    """Each has its own rate, whatever it calls urgent; one that does not say its name has its address's."""
    service, address = await start(limits={"device_rate": {"per_s": 0.001, "burst": 5}})
    async with grpc.aio.insecure_channel(address) as channel:
        noisy = Caller("noisy", "critical")
        flood = await asyncio.gather(*(ask(channel, noisy) for _ in range(30)))
        quiet = await asyncio.gather(*(ask(channel, Caller("quiet")) for _ in range(5)))
        nameless = [await ask(channel, Caller()) for _ in range(6)]
    assert Counter(answer.split()[0] for answer in flood) == {"ok": 5, "RESOURCE_EXHAUSTED": 25}
    assert quiet == ["ok"] * 5
    assert [answer.split()[0] for answer in nameless] == ["ok"] * 5 + ["RESOURCE_EXHAUSTED"]
    shed = service.tier.metrics.shed
    assert (shed["critical", "rate"], shed["normal", "rate"]) == (25, 1)


async def test_what_grpc_holds_unread_is_bounded(start: Start) -> None:
    """While the event loop does not come to read them, calls beyond `max_unread` are refused, the rest answered."""
    _, address = await start(limits={"max_unread": 20})
    ready, held, refused = threading.Event(), threading.Event(), threading.Event()
    answers: list[str] = []

    def client() -> None:
        async def one(channel: grpc.aio.Channel) -> None:
            answers.append((await ask(channel, Caller())).split()[0])
            if answers.count("CANCELLED") > 100:
                refused.set()

        async def flood() -> None:
            async with grpc.aio.insecure_channel(address) as channel:
                await one(channel)
                ready.set()
                held.wait(10)
                await asyncio.gather(*(one(channel) for _ in range(200)))

        asyncio.run(flood())

    thread = threading.Thread(target=client)
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    held.set()
    refused.wait(10)  # on the event loop, which so does nothing else
    await asyncio.to_thread(thread.join, 20)
    counts = Counter(answers)
    assert set(counts) == {"ok", "CANCELLED"}
    assert sum(counts.values()) == 201
    assert 5 < counts["ok"] < 100


async def test_a_tier_above_that_is_full_is_heard_below(start: Start, gates: list[Gate]) -> None:
    """Its answers say how full it is; the link of the tier below notes it, and that it was refused."""
    server, address = await start(
        batching={"workers": 1, "inline_below_us": 0, "max_batch": 1}, limits={"max_queue": 8}
    )
    node, _ = await start("edge_node", address, policy={"name": "AlwaysEscalate"})
    gate = gated(server, gates)
    link = node.tier._gatherer._upstream
    calls = [asyncio.create_task(node.tier.infer(X)) for _ in range(8)]
    await until(lambda: server.tier.pending == 8)
    refused = await node.tier.infer(X)
    assert refused.reason == "overloaded"
    assert link.load == 1.0
    gate.open.set()
    await asyncio.gather(*calls)
    await node.tier.infer(X)
    assert link.load < 1.0
