"""Reports of tiers below, read from an inbox; and what stands in their way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest

from escalade.tiers.answer import Answer
from escalade.tiers.client import Client
from escalade.tiers.egress import DATA_CLASSES
from escalade.tiers.egress_ledger import EgressLedger
from escalade.tiers.errors import ConfigError, NotServedError, UnavailableError, UpstreamError
from escalade.tiers.outbox import Inbox, Item, Outbox, OutboxError
from escalade.tiers.reports import LANE, Received, Reports
from escalade.tiers.wire.link_channel import LinkChannel
from escalade.tiers.wire.reports import ReportSender

from .conftest import Start

pytestmark = pytest.mark.asyncio


def report(name: str) -> Item:
    return Item(f"cam-1{LANE}", name, name.encode(), "telemetry", "bulk", 1.5)


def sender(channel: grpc.aio.Channel, address: str) -> ReportSender:
    return ReportSender(
        cast("LinkChannel", channel), timeout_s=5.0, destination=address, ledger=EgressLedger(), egress=DATA_CLASSES
    )


async def test_reports_are_read_in_process_and_over_the_wire(start: Start, tmp_path: Path) -> None:
    """From any number on, in order, with the device's own name; and those that come while it is read."""
    service, address = await start(inbox={"file": tmp_path / "inbox.db"})
    async with grpc.aio.insecure_channel(address) as channel, Client(address) as client:
        reports = sender(channel, address)
        for name in ("a", "b", "c"):
            await reports.send(report(name))
        found = [one async for one in client.reports(1, until_now=True)]
        assert [(one.seq, one.payload) for one in found] == [(2, b"b"), (3, b"c")]
        assert found[0] == Received(2, "cam-1", "b", "telemetry", "bulk", 1.5, b"b", found[0].age_s)
        inside = [one async for one in service.reports(0, until_now=True)]
        assert [one.payload for one in inside] == [b"a", b"b", b"c"]
        followed, remote = service.reports(3), client.reports(3)
        waiting = [asyncio.ensure_future(anext(one)) for one in (followed, remote)]
        await asyncio.wait(waiting, timeout=0.1)
        await reports.send(report("d"))
        async with asyncio.timeout(10):
            assert [one.payload for one in await asyncio.gather(*waiting)] == [b"d", b"d"]


async def test_who_follows_a_closed_inbox_is_told(tmp_path: Path) -> None:
    """An error, and no waiting for ever."""
    inbox = Inbox(tmp_path / "inbox.db")
    waiting = asyncio.ensure_future(anext(inbox.follow(0)))
    await asyncio.wait([waiting], timeout=0.1)
    await inbox.close()
    async with asyncio.timeout(10):
        with pytest.raises(OutboxError, match="closed"):
            await waiting


async def test_a_tier_without_an_inbox_says_so(start: Start) -> None:
    """In process and over the wire, with the key to set."""
    service, address = await start()
    with pytest.raises(ConfigError, match="add `inbox"):
        service.reports()
    async with Client(address) as client:
        with pytest.raises(NotServedError, match="keeps no inbox"):
            await anext(client.reports())


async def test_open_watches_do_not_hold_a_stop_up(start: Start, tmp_path: Path) -> None:
    """Watchers of corrections and of reports are told at once that the tier stops."""
    kept = {"outbox": {"file": tmp_path / "outbox.db", "wait_ms": 10_000}, "inbox": {"file": tmp_path / "inbox.db"}}
    service, address = await start("edge_node", "127.0.0.1:1", **kept, limits={"drain_seconds": 60})
    async with Client(address) as client:
        watching: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(anext(watch)) for watch in (client.corrections(), client.reports())
        ]
        assert await client.ready()
        await asyncio.wait(watching, timeout=0.1)
        async with asyncio.timeout(20):
            await service.close()
        for watch in watching:
            with pytest.raises(UnavailableError, match="stopping"):
                await watch


@pytest.mark.parametrize(("there", "why"), [("tier", "no inbox"), ("other", "no tier of escalade")])
async def test_a_peer_that_takes_no_reports_is_named_once(
    there: str, why: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason `no_inbox` each time, one line in the log."""
    other = grpc.aio.server()
    address = f"127.0.0.1:{other.add_insecure_port('127.0.0.1:0')}"
    await other.start()
    try:
        if there == "tier":
            _, address = await start()
        async with grpc.aio.insecure_channel(address) as channel:
            reports = sender(channel, address)
            for name in ("a", "b"):
                with pytest.raises(UpstreamError, match=why) as refused:
                    await reports.send(report(name))
                assert refused.value.reason == "no_inbox"
    finally:
        await other.stop(0)
    assert caplog.text.count("reports are given up") == 1


async def test_results_are_json_whatever_the_score(tmp_path: Path) -> None:
    """Six decimals, null for what is no number."""
    async with Outbox(tmp_path / "outbox.db") as outbox:
        reports = Reports(outbox, device="cam-1", put=lambda: None)
        score = np.array([0.96545499563, np.nan, -np.inf], np.float32)
        label, tier, degraded = np.array([1, 0, 0]), ["endpoint"] * 3, np.zeros(3, bool)
        reports.answered(Answer(label=label, posterior=None, score=score, tier=tier, degraded=degraded), "r-1")
        await reports.flush()
        (leased,) = await outbox.take(1)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    lines = [json.loads(line, parse_constant=refuse) for line in leased.item.payload.splitlines()]
    assert [line["score"] for line in lines] == [0.965455, None, None]


async def test_a_report_of_a_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    """With the kinds that there are; an escalation is none of them."""
    async with Outbox(tmp_path / "outbox.db") as outbox:
        reports = Reports(outbox, device="cam-1", put=lambda: None)
        for wrong in ("bogus", "escalation"):
            with pytest.raises(ValueError, match=f"^a report's kind is one of result, telemetry, not '{wrong}'$"):
                await reports.report(b"", kind=wrong)  # type: ignore[arg-type]
