"""Reporting to an aggregator: at once, from the outbox, in order, and never in the way of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from escalade.tiers.aggregator.config import AggregateConfig
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.answer import Answer, Hop, Row
from escalade.tiers.errors import MessageTooLargeError
from escalade.tiers.outbox import Outbox
from escalade.tiers.reporter import Reporter
from escalade.tiers.reporting import Reporting
from escalade.tiers.testing.fakes import FakeSender
from escalade.tiers.wire.aggregator import SERVICE
from escalade.tiers.wire.aggregator_client import AggregatorClient
from escalade.tiers.wire.channel import server_options

pytestmark = pytest.mark.asyncio


class Pauses:
    """Waits only until told to go on."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self.over.wait()


def encode(observation: Observation) -> bytes:
    return f"{observation.event} {observation.id}".encode()


def one(event: str, node: str = "cam") -> Observation:
    return Observation(node, event, event, "", 1.0, np.array([0.5, 0.5], np.float32))


Make = Callable[..., Any]


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Reporter] = []

    async def make(sender: FakeSender, *, outbox: bool = True, **options: Any) -> Reporter:
        store = Outbox(tmp_path / "reports.db") if outbox else None
        reporter = Reporter(sender, store, encode, **options)
        await reporter.start()
        made.append(reporter)
        return reporter

    yield make
    for reporter in made:
        await reporter.close()


async def test_reports_are_sent_in_order_and_in_batches(make: Make) -> None:
    """What gathers while one call is under way shares the next."""
    sender = FakeSender()
    reporter = await make(sender, outbox=False, max_batch=3)
    for number in range(8):
        reporter.report(one(str(number)))
    await reporter.flush()
    assert sender.taken == [f"{number} {number}".encode() for number in range(8)]
    assert reporter.counts == {"sent": 8}


async def test_what_was_not_taken_waits_and_is_sent_in_order_when_the_link_is_back(make: Make) -> None:
    """Also after a restart of the node; what is new does not wait behind it."""
    sender, pauses = FakeSender(), Pauses()
    sender.failure = "unavailable"
    reporter = await make(sender, pause=pauses, max_batch=2)
    for number in range(5):
        reporter.report(one(str(number)))
    await reporter.flush()
    assert reporter.counts == {"kept": 5}
    assert await pauses.asked.get() > 0
    await reporter.close()
    later, pauses = FakeSender(), Pauses()
    reporter = await make(later, pause=pauses, max_batch=2)
    await reporter.drained()
    assert reporter.kept == 0
    reporter.report(one("new"))
    await reporter.flush()
    assert later.taken == [f"{number} {number}".encode() for number in range(5)] + [b"new new"]


async def test_one_that_has_to_be_tried_again_holds_back_those_behind_it(make: Make) -> None:
    """Refused for now is tried again before anything kept later; refused for good is dropped and counted."""
    sender, pauses = FakeSender(), Pauses()
    sender.failure = "timeout"
    reporter = await make(sender, pause=pauses)
    for event in ("a", "b", "c"):
        reporter.report(one(event))
    await reporter.flush()
    await pauses.asked.get()
    sender.failure, sender.verdicts = None, {b"a a": "posterior", b"b b": "full"}
    pauses.over.set()
    await pauses.asked.get()
    assert reporter.counts["posterior"] == 1
    sender.verdicts = {}
    await reporter.drained()
    assert reporter.kept == 0
    assert (sender.taken[0], sender.taken[-2:]) == (b"c c", [b"b b", b"c c"])


async def test_without_an_outbox_what_was_not_taken_is_lost_and_counted(make: Make) -> None:
    """So is what comes when the queue is full; `report` neither waits nor raises."""
    sender = FakeSender()
    sender.failure = "unavailable"
    reporter = await make(sender, outbox=False, max_queue=2)
    for number in range(5):
        reporter.report(one(str(number)))
    await reporter.flush()
    assert reporter.counts == {"lost": 5}


@pytest.mark.parametrize("kept", [False, True])
async def test_what_is_too_much_for_one_message_is_sent_in_parts(make: Make, kept: bool) -> None:
    """In order, live or kept in an outage; what is too large alone is counted and does not hold up the others."""
    sender, pauses = FakeSender(), Pauses()
    sender.max_bytes = 12
    sender.failure = "unavailable" if kept else None
    reporter = await make(sender, pause=pauses)
    for event in ("a", "b", "a very long one", "c", "d", "e", "f"):
        reporter.report(one(event))
    await reporter.flush()
    if kept:
        assert reporter.counts == {"kept": 7}
        await pauses.asked.get()
        sender.failure = None
        pauses.over.set()
    await reporter.drained()
    assert sender.taken == [b"a a", b"b b", b"c c", b"d d", b"e e", b"f f"]
    assert (reporter.counts["sent"], reporter.counts["too_large"]) == (6, 1)


async def test_a_batch_is_limited_by_bytes_too(make: Make) -> None:
    """What the configuration allows for one message is not exceeded, but by one observation alone."""
    sender = FakeSender()
    sizes, send = list[int](), sender.send

    async def seen(encoded: list[bytes], timeout_s: float) -> Any:
        sizes.append(len(encoded))
        return await send(encoded, timeout_s)

    sender.send = seen  # type: ignore[method-assign,assignment]
    reporter = await make(sender, outbox=False, max_bytes=25)
    for event in ("a", "b", "c", "a very long one indeed", "d"):
        reporter.report(one(event))
    await reporter.flush()
    assert (sizes, reporter.counts["sent"]) == ([2, 1, 1, 1], 5)


async def test_why_nothing_is_taken_is_logged_whenever_it_changes(make: Make) -> None:
    """Once for each reason, and once when all is well again."""
    sender = FakeSender()
    reporter = await make(sender, outbox=False)
    with capture_logs() as logs:
        for failure in ("unavailable", "unavailable", "timeout", None):
            sender.failure = failure
            reporter.report(one("a"))
            await reporter.flush()
    said = [(log.get("reason"), log["event"]) for log in logs if log["event"].startswith("aggregator takes")]
    no = "aggregator takes no reports"
    assert said == [("unavailable", no), ("timeout", no), (None, "aggregator takes reports again")]


async def test_a_fault_that_nobody_expects_does_not_end_the_reports(make: Make) -> None:
    """Neither of the sender nor of the outbox: what was not taken is kept or lost, the next is sent, close returns."""
    sender = FakeSender()
    reporter = await make(sender)
    sender.fault = ZeroDivisionError()
    reporter.report(one("a"))
    await reporter.drained()
    await reporter.flush()
    await reporter.drained()
    assert (sender.taken, reporter.counts["kept"]) == ([b"a a"], 1)

    async def put(item: Any) -> int:
        raise ZeroDivisionError

    reporter._outbox.put, sender.fault = put, ZeroDivisionError()
    reporter.report(one("b"))
    await reporter.flush()
    assert reporter.counts["lost"] == 1
    reporter.report(one("c"))
    await reporter.flush()
    assert sender.taken == [b"a a", b"c c"]


async def test_that_a_message_is_too_large_is_known_at_either_end() -> None:
    """gRPC says RESOURCE_EXHAUSTED for it, as for what is worth another try."""

    async def observe(data: bytes, context: Any) -> bytes:
        raise AssertionError("it is not taken")

    server = grpc.aio.server(options=server_options(2048, 256, 64))
    methods: dict[str, Any] = {"Observe": grpc.unary_unary_rpc_method_handler(observe)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for limit, sent in ((1024, 1500), (4096, 3000)):
            async with AggregatorClient(f"127.0.0.1:{port}", max_message_bytes=limit) as client:
                with pytest.raises(MessageTooLargeError):
                    await client.send([b"x" * sent], 5.0)
    finally:
        await server.stop(None)


def reported(config: dict[str, Any]) -> tuple[Reporting, list[Observation]]:
    seen: list[Observation] = []
    reporter = Reporter(FakeSender(), None, encode)
    reporter.report = seen.append  # type: ignore[method-assign,assignment]
    whole = AggregateConfig.model_validate({"address": "a:1", "node": "cam", "zone": "belt", **config})
    return Reporting(whole, reporter, wall=lambda: 100.0), seen


ROW = Row("edge_node", [0.25, 0.75], 1, 0.75, (Hop("edge_node", 500.0),))
X = np.array([[1, 2]], np.uint8)


@pytest.mark.parametrize(
    ("event_key", "given", "event"),
    [("either", "k", "k"), ("either", "", ""), ("request", "k", "k"), ("request", "", None), ("time", "k", "")],
)
async def test_the_events_key_comes_from_the_request_or_is_left_to_the_aggregator(
    event_key: str, given: str, event: str | None
) -> None:
    """As `event_key` says; the time is when the request arrived."""
    reporting, seen = reported({"event_key": event_key})
    reporting.answered(X, ROW, given)
    assert [(o.event, o.zone, o.observed_s, o.raw) for o in seen] == (
        [] if event is None else [(event, "belt", 99.5, None)]
    )


async def test_rows_of_one_request_are_events_of_their_own() -> None:
    """Numbered behind the key; without a key they are not reported, nor are rows without a posterior."""
    posterior = np.array([[0.5, 0.5], [np.nan, np.nan], [0.25, 0.75]], np.float32)
    answer = Answer(np.zeros(3, np.float32), ["edge_node"] * 3, np.zeros(3, np.bool_), posterior, np.zeros(3, np.int64))
    reporting, seen = reported({"send": "raw"})
    x = np.arange(6, dtype=np.uint8).reshape(3, 2)
    reporting.answered(x, answer, "k")
    reporting.answered(x, answer, "")
    assert [(o.event, o.raw.content if o.raw else b"") for o in seen] == [("k", b"\0\1"), ("k/2", b"\4\5")]
    assert seen[0].id != seen[1].id
    assert reporting._reporter.counts == {"skipped": 4}
