"""`escalade forget`: nothing is left of a device, and everything of the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from escalade.cli.main import main
from escalade.tiers.aggregator.store import KIND
from escalade.tiers.egress_ledger import EgressLedger, read_ledger
from escalade.tiers.outbox import Delivered, Inbox, Item, Outbox
from escalade.tiers.outbox.file import File
from escalade.tiers.reports import LANE

MINE, THEIRS = b"my own face " * 20, b"their own face " * 20


async def fill(folder: Path) -> None:
    async with Outbox(folder / "outbox.db") as outbox:
        for name in ("1", "2", "3", "4"):
            for device, secret in (("cam-1", MINE), ("cam-2", THEIRS)):
                lane = LANE if name == "4" else ""
                await outbox.put(Item(device + lane, name, secret, provisional=secret))
        taken = {(one.item.device, one.item.id): one.seq for one in await outbox.take(8)}
        await outbox.delivered([Delivered(taken["cam-1", "1"], MINE), Delivered(taken["cam-2", "1"], THEIRS)])
        await outbox.failed([seq for (_, name), seq in taken.items() if name != "1"])
        await outbox.done([(await outbox.take(1))[0].seq])  # cam-1's second: its bytes are still in the file
    async with Inbox(folder / "inbox.db") as inbox:
        for device, secret in (("cam-1", MINE), ("cam-2", THEIRS)):
            await inbox.store([Item(device, "r", secret, "result")])
            await inbox.answered(device, "a", secret)


async def left(folder: Path) -> dict[str, Any]:
    async with Outbox(folder / "outbox.db") as outbox, Inbox(folder / "inbox.db") as inbox:
        return {
            "items": [(one.item.device, one.item.id, one.item.payload) for one in await outbox.take(9)],
            "corrections": [(one.device, one.answer) for one in await outbox.corrections(0)],
            "next": await outbox.put(Item("cam-3", "1", b"")),
            "stored": [(one.item.device, one.item.payload) for one in await inbox.read(0)],
            "known": [await inbox.claim(device, "a") is not None for device in ("cam-1", "cam-2")],
        }


@pytest.fixture
def file(tmp_path: Path, models: Path) -> Path:
    config = {
        "tier": "edge_node",
        "device": "node-1",
        "model": {"file": str(models / "sure.onnx")},
        "policy": {"name": "AlwaysAccept"},
        "upstream": {"address": "127.0.0.1:1"},
        "outbox": {"file": "outbox.db", "wait_ms": 10_000, "corrections": "corrections.jsonl"},
        "inbox": {"file": "inbox.db"},
        "egress_ledger": {"file": "egress.json"},
        "record": {"folder": "record"},
        "audit": "audit.log",
    }
    (tmp_path / "tier.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "tier.yaml"


def test_nothing_is_left_of_a_device_and_everything_of_the_others(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items, reports, corrections, answers, lines of files, damaged files; not a byte of it, though deleted before."""
    asyncio.run(fill(tmp_path))
    corrections = tmp_path / "corrections.jsonl"
    lines = [json.dumps({"seq": seq, "device": device}) + "\n" for seq, device in ((1, "cam-1"), (2, "cam-2"))]
    corrections.write_text("".join(lines) + '{"seq": 3, "dev')
    for name in ("outbox.db.corrupt-20260101T000000Z", "egress.json.corrupt", "corrections.jsonl.part"):
        (tmp_path / name).write_bytes(MINE)
    ledger = EgressLedger(tmp_path / "egress.json")
    ledger.sent("raw", "a:1", "cam-1", 70)
    ledger.write()
    assert main(["forget", "cam-1", "--config", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("outbox.db: 2 items, 1 corrections, 0 damaged items and 1 damaged files deleted")
    assert said[1].endswith("corrections.jsonl: 1 lines deleted")
    assert said[2].endswith("inbox.db: 2 items, 0 corrections, 0 damaged items and 0 damaged files deleted")
    assert said[3].endswith("egress.json: 1 lines no longer name it; their sums stay")
    assert said[4].endswith("it holds scores and posteriors of all of them")
    assert json.loads((tmp_path / "audit.log").read_text())["name"] == "cam-1"
    for path in tmp_path.iterdir():
        if path.name not in ("tier.yaml", "audit.log"):
            assert b"my own face" not in path.read_bytes(), path
            assert b"cam-1" not in path.read_bytes(), path
    found = asyncio.run(left(tmp_path))
    assert found["items"] == [("cam-2", name, THEIRS) for name in ("2", "3")] + [("cam-2" + LANE, "4", THEIRS)]
    assert found["corrections"] == [("cam-2", THEIRS)]
    assert found["next"] == 9
    assert found["stored"] == [("cam-2", THEIRS)]
    assert found["known"] == [False, True]
    assert corrections.read_text() == lines[1] + '{"seq": 3, "dev'
    assert [(line.device, line.bytes) for line in read_ledger(tmp_path / "egress.json")[1]] == [("(forgotten)", 70)]


def test_a_running_tier_is_left_alone(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the process to stop; nothing was deleted."""

    async def forget_meanwhile() -> int:
        async with Outbox(tmp_path / "outbox.db") as outbox:
            await outbox.put(Item("cam-1", "1", MINE))
            code = await asyncio.to_thread(main, ["forget", "cam-1", "--config", str(file)])
            assert len(await outbox.take(9)) == 1
            return code

    assert asyncio.run(forget_meanwhile()) == 2
    said = capsys.readouterr().err
    assert "has it open; stop that process" in said
    assert "a tier that runs is asked: `escalade forget cam-1 --at HOST:PORT`" in said
    assert "has it open" in json.loads((tmp_path / "audit.log").read_text())["trouble"]


def test_a_devices_own_recording_goes_too(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the tier is the device; chunks alone are deleted."""
    folder = tmp_path / "record"
    folder.mkdir()
    for name in ("0123456789abcdef.npz", "notes.txt"):
        (folder / name).write_bytes(MINE)
    assert main(["forget", "node-1", "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("record: 1 chunks deleted")
    assert {path.name for path in folder.iterdir()} == {".lock", "notes.txt"}


def test_what_a_node_observed_is_deleted(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From an aggregator's file, raw inputs included."""
    store = File(tmp_path / "aggregator.db", KIND)
    names = "event, opened_s, time_s, keyless, zone, node, id, posterior, content"
    for node, secret in (("cam-1", MINE), ("cam-2", THEIRS)):
        values = ("e", 1.0, 1.0, 0, "", node, "1", b"", secret)
        store.run([(f"INSERT INTO observations ({names}) VALUES ({', '.join('?' * 9)})", values)])
    store.close()
    file = tmp_path / "tier.yaml"
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx")},
        "aggregator": {"nodes": ["cam-1", "cam-2"], "file": "aggregator.db"},
    }
    file.write_text(yaml.safe_dump(config))
    assert main(["forget", "cam-1", "--config", str(file)]) == 0
    assert capsys.readouterr().out.endswith("aggregator.db: 1 observations and 0 damaged files deleted\n")
    content = (tmp_path / "aggregator.db").read_bytes()
    assert MINE not in content
    assert THEIRS in content
