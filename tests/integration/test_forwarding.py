"""What stays unanswered is kept, delivered when the link is back, and corrected: over real ports and real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from escalade.tiers import EdgeServer, Endpoint
from escalade.tiers.caller import Caller
from escalade.tiers.client import Client
from escalade.tiers.corrections import Correction, last_seq
from escalade.tiers.errors import InputError, NotServedError
from escalade.tiers.outbox import Outbox

SURE, UNSURE = np.array([[9, 0, 0, 0]], np.float32), np.array([[1, 0.9, 0, 0]], np.float32)


class Pair:
    """An endpoint with an outbox below a server with an inbox; either may be stopped and started again."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder, self.models, self.address = folder, models, "127.0.0.1:0"
        self.server: EdgeServer | None = None
        self.endpoint: Endpoint | None = None

    async def start_server(self, **keys: Any) -> EdgeServer:
        self.server = EdgeServer.from_config(
            {
                "tier": "edge_server",
                "model": {"file": self.models / "sure.onnx", "name": "m"},
                "listen": {"address": self.address},
                "inbox": {"file": self.folder / "inbox.db"},
                **keys,
            }
        )
        await self.server.start()
        self.address = await self.server.listen()
        return self.server

    async def start_endpoint(self, policy: dict[str, Any], outbox: dict[str, Any] = {}, **keys: Any) -> Endpoint:  # noqa: B006
        self.endpoint = Endpoint.from_config(
            {
                "tier": "endpoint",
                "device": "cam-1",
                "model": {"file": self.models / "unsure.onnx", "name": "m"},
                "policy": policy,
                "upstream": {"address": self.address, "timeout_ms": 300, "probe_ms": 200},
                "listen": {"address": "127.0.0.1:0"},
                "outbox": {"file": self.folder / "outbox.db", "wait_ms": 10_000, **outbox},
                **keys,
            }
        )
        await self.endpoint.start()
        return self.endpoint

    async def stop_server(self) -> None:
        if self.server:
            await self.server.close()
            self.server = None

    async def stop_endpoint(self) -> None:
        if self.endpoint:
            await self.endpoint.close()
            self.endpoint = None


@pytest_asyncio.fixture
async def pair(tmp_path: Path, models: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path, models)
    yield pair
    await pair.stop_endpoint()
    await pair.stop_server()


def collector(endpoint: Endpoint) -> Callable[..., Any]:
    """Return a function that waits for so many corrections."""
    queue: asyncio.Queue[Correction] = asyncio.Queue()
    endpoint.on_correction(queue.put_nowait, after=0)

    async def corrections(count: int) -> list[Correction]:
        return [await asyncio.wait_for(queue.get(), 20) for _ in range(count)]

    return corrections


@pytest.mark.asyncio
async def test_a_deferred_input_is_answered_at_once_and_corrected_later(pair: Pair) -> None:
    """The provisional answer names the item; the correction holds both answers and the request's own id."""
    await pair.start_server()
    endpoint = await pair.start_endpoint({"name": "tests.integration.policies:DeferBelow", "threshold": 0.9})
    corrections = collector(endpoint)
    answer = await endpoint.tier.infer(UNSURE, request_id="r-1")
    assert (answer.tier, answer.reason, bool(answer.kept)) == (["endpoint"], "", True)
    (correction,) = await corrections(1)
    assert (correction.id, correction.device, correction.request_id) == (answer.kept, "cam-1", "r-1")
    assert (correction.old.tier, correction.new.tier) == (["endpoint"], ["edge_server"])
    assert correction.rows == (0,)
    assert correction.old.posterior is not None
    assert answer.posterior is not None
    np.testing.assert_array_equal(correction.old.posterior, answer.posterior)


@pytest.mark.asyncio
async def test_a_failed_escalation_is_corrected_when_the_server_is_back(pair: Pair) -> None:
    """Degraded now, with the reason; kept over a restart of the endpoint; corrected once the server runs."""
    await pair.start_server()
    await pair.stop_server()
    endpoint = await pair.start_endpoint({"name": "AlwaysEscalate"})
    answers = [await endpoint.tier.infer(SURE, request_id=f"r-{number}") for number in range(3)]
    assert all(answer.degraded[0] and answer.reason and answer.kept for answer in answers)
    await pair.stop_endpoint()
    endpoint = await pair.start_endpoint({"name": "AlwaysEscalate"})
    corrections = collector(endpoint)
    await pair.start_server()
    assert [one.id for one in await corrections(3)] == [answer.kept for answer in answers]
    status = endpoint.status()
    assert status.outbox is not None
    assert sum(status.outbox.depth.values()) == 0
    assert status.links[0].state == "up"


@pytest.mark.asyncio
async def test_only_the_rows_that_need_it_are_kept(pair: Pair) -> None:
    """Of a request of several rows the deferred ones go into one item; the correction says which."""
    await pair.start_server()
    endpoint = await pair.start_endpoint({"name": "tests.integration.policies:DeferBelow", "threshold": 0.9})
    corrections = collector(endpoint)
    answer = await endpoint.tier.infer(np.concatenate([SURE, UNSURE, SURE, UNSURE]))
    assert answer.kept
    (correction,) = await corrections(1)
    assert correction.rows == (1, 3)
    assert len(correction.new) == len(correction.old) == 2


@pytest.mark.asyncio
async def test_what_the_tier_below_keeps_is_not_kept_twice(pair: Pair) -> None:
    """A caller with an outbox says so, and gets a degraded answer without a promise."""
    await pair.start_server()
    await pair.stop_server()
    endpoint = await pair.start_endpoint({"name": "AlwaysEscalate"})
    answer = await endpoint.tier.infer(SURE, caller=Caller(keeps=True))
    assert answer.degraded[0]
    assert not answer.kept
    deferring = await endpoint.tier.infer(SURE, caller=Caller(delivery="x"))
    assert not deferring.kept


@pytest.mark.asyncio
async def test_a_delivery_has_its_effect_once_even_over_a_restart(pair: Pair) -> None:
    """The second time, and after a restart of the server, the first answer comes again and the model does not run."""
    server = await pair.start_server()
    caller = Caller("cam-1", delivery="item-1")
    async with Client(pair.address) as client:
        first = await client.infer(SURE, model="m", caller=caller)
        again = await client.infer(UNSURE, model="m", caller=caller)  # another input: shows that it is not looked at
        assert sum(server.tier.metrics.requests.values()) == 1
    await pair.stop_server()
    server = await pair.start_server()
    async with Client(pair.address) as client:
        late = await client.infer(UNSURE, model="m", caller=caller)
        assert sum(server.tier.metrics.requests.values()) == 0
    for answer in (again, late):
        np.testing.assert_array_equal(answer.posterior, first.posterior)
    status = server.status()
    assert status.inbox is not None
    assert (status.inbox.items, status.inbox.repeats) == (1, 1)


@pytest.mark.asyncio
async def test_corrections_are_a_stream_and_a_file_that_go_on_where_they_were(pair: Pair, tmp_path: Path) -> None:
    """A subscriber that comes later gets what it missed; the file has each line once, over restarts."""
    await pair.start_server()
    file = tmp_path / "corrections.jsonl"
    policy = {"name": "tests.integration.policies:DeferBelow", "threshold": 2.0}
    kept = []
    for run in range(2):
        endpoint = await pair.start_endpoint(policy, {"corrections": file})
        corrections = collector(endpoint)
        kept += [(await endpoint.tier.infer(SURE, request_id=f"{run}-{number}")).kept for number in range(3)]
        await corrections(3 * (run + 1))
        address = await endpoint.listen()
        async with Client(address) as client:
            missed = [one.id async for one in client.corrections(after=2, until_now=True)]
        assert missed == kept[2:]
        await pair.stop_endpoint()
        with file.open("a") as torn:
            torn.write('{"seq": 99, "dev')  # as a power cut leaves it
    endpoint = await pair.start_endpoint(policy, {"corrections": file})
    last = (await endpoint.tier.infer(SURE)).kept
    await collector(endpoint)(7)
    await pair.stop_endpoint()
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [*kept, last]


@pytest.mark.asyncio
async def test_reports_arrive_once_in_the_inbox_above(pair: Pair) -> None:
    """Results of answers, telemetry, and what the application reports."""
    server = await pair.start_server()
    endpoint = await pair.start_endpoint({"name": "AlwaysAccept"}, {"results": True, "telemetry_s": 0.05})
    await endpoint.tier.infer(SURE, request_id="r-1")
    await endpoint.report(b"hello")
    assert server._inbox is not None
    found: dict[str, bytes] = {}
    while not {"result", "telemetry", "own"} <= found.keys():
        for stored in await server._inbox.read(0):
            found["own" if stored.item.payload == b"hello" else stored.item.kind] = stored.item.payload
        await asyncio.sleep(0.02)
    result = json.loads(found["result"].splitlines()[0])
    assert (result["request_id"], result["tier"], result["label"]) == ("r-1", "endpoint", 0)
    assert json.loads(found["telemetry"])["device"] == "cam-1"


@pytest.mark.asyncio
async def test_an_outbox_in_other_hands_leaves_the_tier_answering(pair: Pair, tmp_path: Path) -> None:
    """The tier starts, answers degraded without a promise, and its status says why."""
    await pair.start_server()
    await pair.stop_server()
    other = Outbox(tmp_path / "outbox.db")
    await other.open()
    try:
        endpoint = await pair.start_endpoint({"name": "AlwaysEscalate"})
        answer = await endpoint.tier.infer(SURE)
        assert answer.degraded[0]
        assert not answer.kept
        status = endpoint.status()
        assert status.outbox is not None
        assert "has it open" in status.outbox.trouble
    finally:
        await other.close()


@pytest.mark.asyncio
async def test_a_tier_without_an_outbox_says_that_it_has_no_corrections(pair: Pair) -> None:
    """FAILED_PRECONDITION, with the key to set."""
    await pair.start_server()
    async with Client(pair.address) as client:
        with pytest.raises(NotServedError, match="keeps no outbox"):
            async for _ in client.corrections():
                pass


@pytest.mark.asyncio
async def test_a_large_item_is_delivered_in_parts_that_the_tier_above_takes(pair: Pair) -> None:
    """Rows beyond `upstream.max_batch` go in several calls, and come back as one correction."""
    await pair.start_server(limits={"max_rows": 4})
    await pair.stop_server()
    endpoint = await pair.start_endpoint(
        {"name": "AlwaysEscalate"},
        upstream={"address": pair.address, "timeout_ms": 300, "probe_ms": 200, "max_batch": 4},
    )
    answer = await endpoint.tier.infer(np.repeat(SURE, 10, axis=0))
    assert answer.kept
    corrections = collector(endpoint)
    await pair.start_server(limits={"max_rows": 4})
    (correction,) = await corrections(1)
    assert (len(correction.new), correction.rows) == (10, tuple(range(10)))
    assert correction.new.tier == ["edge_server"] * 10
    assert not correction.new.reason


@pytest.mark.asyncio
async def test_an_item_that_is_too_large_for_the_tier_above_holds_its_lane_up_for_give_up_s_only(pair: Pair) -> None:
    """A refusal for size is no overload: the item is given up, and those behind it arrive."""
    await pair.start_server()
    await pair.stop_server()
    endpoint = await pair.start_endpoint({"name": "AlwaysEscalate"}, {"give_up_s": 0.0})
    large = await endpoint.tier.infer(np.repeat(SURE, 10, axis=0))
    small = await endpoint.tier.infer(SURE)
    assert large.kept
    corrections = collector(endpoint)
    await pair.start_server(limits={"max_rows": 4})
    (correction,) = await corrections(1)
    assert correction.id == small.kept
    status = endpoint.status()
    assert status.outbox is not None
    assert status.outbox.evictions == {"rejected normal": 1}


@pytest.mark.asyncio
async def test_a_delivery_says_whose_it_is(pair: Pair) -> None:
    """Without a device two callers' items could not be told apart."""
    await pair.start_server()
    async with Client(pair.address) as client:
        with pytest.raises(InputError, match=r"escalade\.device"):
            await client.infer(SURE, model="m", caller=Caller(delivery="7"))


@pytest.mark.asyncio
async def test_a_coroutine_function_may_take_corrections(pair: Pair) -> None:
    """It is awaited, one correction after the other."""
    await pair.start_server()
    endpoint = await pair.start_endpoint({"name": "tests.integration.policies:DeferBelow", "threshold": 2.0})
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def take(correction: Correction) -> None:
        await queue.put(correction.id)

    endpoint.on_correction(take)
    kept = (await endpoint.tier.infer(SURE)).kept
    assert await asyncio.wait_for(queue.get(), 20) == kept


@pytest.mark.asyncio
async def test_a_file_of_corrections_goes_on_with_a_new_outbox(pair: Pair, tmp_path: Path) -> None:
    """The numbers begin anew, and so do the lines."""
    await pair.start_server()
    file = tmp_path / "corrections.jsonl"
    kept = []
    for count in (3, 1):
        endpoint = await pair.start_endpoint(
            {"name": "tests.integration.policies:DeferBelow", "threshold": 2.0}, {"corrections": file}
        )
        corrections = collector(endpoint)
        kept += [(await endpoint.tier.infer(SURE)).kept for _ in range(count)]
        await corrections(count)
        await pair.stop_endpoint()
        (tmp_path / "outbox.db").unlink()
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == kept


@pytest.mark.parametrize(
    "content", [b"line1\nnotes without an end", b"\x00\xff" * 500, b"no newline at all", b"a\nb\n"]
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """Nothing is cut from it: the name in the configuration is probably wrong."""
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a file of corrections"):
        last_seq(file)
    assert file.read_bytes() == content
