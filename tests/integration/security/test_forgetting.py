"""`escalade forget --at`: a tier that runs deletes what it keeps of a device, and goes on with the others."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.cli.main import main
from escalade.tiers import EdgeNode, EdgeServer
from escalade.tiers.aggregator.observation import Observation, Raw
from escalade.tiers.client import Client
from escalade.tiers.egress_ledger import read_ledger
from escalade.tiers.errors import UnavailableError
from escalade.tiers.forgetting import Forgetting
from escalade.tiers.outbox import Delivered, Item
from escalade.tiers.record_chunk import read_chunk
from escalade.tiers.reports import LANE
from escalade.tiers.testing.fleet import Fleet
from escalade.tiers.tls_files import TlsFiles
from escalade.tiers.wire.aggregator_client import AggregatorClient

MINE, THEIRS = b"my own face " * 20, b"their own face " * 20


@pytest.fixture
def config(tmp_path: Path, models: Path, fleet: Fleet) -> dict[str, Any]:
    """An edge node with everything in which something may be kept; nobody is above it."""
    return {
        "tier": "edge_node",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "policy": {"name": "AlwaysAccept"},
        "tls": fleet.tls("node-1"),
        "upstream": {"address": "127.0.0.1:1", "probe_ms": 0},
        "listen": {"address": "127.0.0.1:0"},
        "outbox": {"file": str(tmp_path / "outbox.db"), "corrections": str(tmp_path / "corrections.jsonl")},
        "inbox": {"file": str(tmp_path / "inbox.db")},
        "egress_ledger": {"file": str(tmp_path / "egress.json")},
        "record": {"folder": str(tmp_path / "record")},
        "audit": str(tmp_path / "audit.log"),
    }


async def fill(node: EdgeNode) -> int:
    """Keep something of two devices everywhere, and something in flight of the first; return its number."""
    assert node._forwarding
    assert node._inbox
    outbox, inbox = node._forwarding.outbox, node._inbox
    for device, secret in (("cam-1", MINE), ("cam-2", THEIRS)):
        await outbox.put(Item(device, "1", secret, provisional=secret))
        await outbox.put(Item(device + LANE, "2", secret, "result"))
        await inbox.store([Item(device + LANE, "r", secret, "result")])
        await inbox.answered(device, "a", secret)
        node.egress.sent("raw", "a:1", device, 70)
    file = node.config.outbox and node.config.outbox.corrections
    assert file
    file.write_text("".join(json.dumps({"seq": n, "device": f"cam-{n}"}) + "\n" for n in (1, 2)))
    taken = await outbox.take(9)
    await outbox.failed([one.seq for one in taken if one.item.device != "cam-1"])
    return next(one.seq for one in taken if one.item.device == "cam-1")


def holding(content: bytes, folder: Path) -> list[str]:
    """Return the files in which it stands."""
    return [file.name for file in folder.iterdir() if file.is_file() and content in file.read_bytes()]


def operator(fleet: Fleet) -> list[str]:
    shown = fleet.client("my-operator")
    return [str(file) for file in (shown.certificate, shown.key, shown.ca)]


@pytest.mark.asyncio
async def test_a_running_tier_forgets_a_device_and_goes_on_with_the_others(
    config: dict[str, Any], fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a byte of it is left, what is in flight has no correction, who asked is in the audit log."""
    async with EdgeNode.from_config(config) as node:
        assert node._forwarding
        assert node._inbox
        address, outbox = await node.listen(), node._forwarding.outbox
        for task in node._forwarding._tasks:
            task.cancel()  # nothing is sent meanwhile
        in_flight = await fill(node)
        code = await asyncio.to_thread(main, ["forget", "cam-1", "--at", address, "--tls", *operator(fleet)])
        said = capsys.readouterr().out.splitlines()
        assert code == 0
        assert said[0].endswith("outbox.db: 2 items, 0 corrections, 0 damaged items and 0 damaged files deleted")
        assert said[1].endswith("corrections.jsonl: 1 lines deleted")
        assert said[2].endswith("inbox.db: 2 items, 0 corrections, 0 damaged items and 0 damaged files deleted")
        assert said[3].endswith("egress.json: 1 lines no longer name it; their sums stay")
        assert said[4].endswith("it holds scores and posteriors of all of them")
        assert await outbox.delivered([Delivered(in_flight, MINE)]) == []
        assert [(one.item.device, one.item.payload) for one in await outbox.take(9)] == [
            ("cam-2", THEIRS),
            ("cam-2" + LANE, THEIRS),
        ]
        assert await outbox.put(Item("cam-3", "1", b"")) == 5
        assert [one.item.device for one in await node._inbox.read(0)] == ["cam-2" + LANE]
        assert await node._inbox.claim("cam-1", "a") is None
        assert await node._inbox.claim("cam-2", "a")
        lines = read_ledger(tmp_path / "egress.json")[1]
        assert sorted((line.device, line.bytes) for line in lines) == [("(forgotten)", 70), ("cam-2", 70)]
        assert holding(b"my own face", tmp_path) == []
        assert holding(b"cam-1", tmp_path) == ["audit.log"]
    noted = json.loads((tmp_path / "audit.log").read_text().splitlines()[-1])
    assert (noted["what"], noted["name"], noted["trouble"]) == ("forgotten", "cam-1", "")
    assert noted["by"] == "escalade://operator/my-operator"


@pytest.mark.asyncio
async def test_what_is_in_memory_alone_goes_too(config: dict[str, Any], fleet: Fleet) -> None:
    """Answers to deliveries where there is no inbox, counts where there is no ledger's file."""
    for name in ("inbox", "outbox", "egress_ledger", "record", "audit"):
        del config[name]
    async with EdgeNode.from_config(config) as node:
        address, window = await node.listen(), node._deliveries.window
        for device in ("cam-1", "cam-2"):
            await window.claim(device, "a")
            await window.answered(device, "a", MINE)
            node.egress.sent("raw", "a:1", device, 70)
        async with Client(address, tls=fleet.client("my-operator")) as client:
            assert await client.forget("cam-1") == []
        assert await window.claim("cam-1", "a") is None
        assert await window.claim("cam-2", "a")
        assert sorted(line.device for line in node.egress.lines()) == ["(forgotten)", "cam-2"]


@pytest.mark.asyncio
async def test_a_tiers_own_recording_goes_too(config: dict[str, Any], fleet: Fleet, tmp_path: Path) -> None:
    """Rows that wait for the disk among it; what comes later is recorded."""
    config |= {"listen": {"address": "127.0.0.1:0", "insecure": True}, "record": {"folder": str(tmp_path / "record")}}
    async with EdgeNode.from_config(config) as node:
        assert node._recorder
        x = np.array([[9, 0, 0, 0]], np.float32)
        await node.infer(x)
        node._recorder.flush()
        await node.infer(x)
        async with Client(await node.listen()) as client:
            assert (await client.forget("node-1"))[-1].endswith("record: 1 chunks deleted")
        assert not list((tmp_path / "record").glob("*.npz"))
        await node.infer(x)
    (chunk,) = (tmp_path / "record").glob("*.npz")
    assert len(read_chunk(chunk)[0]["id"]) == 1


@pytest.mark.asyncio
async def test_an_aggregator_forgets_what_a_node_observed(models: Path, fleet: Fleet, tmp_path: Path) -> None:
    """Of an event that is still open, raw inputs included; the other node's part stays."""
    file = tmp_path / "events.db"
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "tls": fleet.tls("server-1"),
        "aggregator": {"nodes": ["node-1", "my-edge-node"], "file": str(file), "deadline_ms": 60_000.0, "quorum": 2},
        "listen": {"address": "127.0.0.1:0"},
    }
    secret = np.frombuffer(b"my own face!" + b"\0" * 4, np.float32).tobytes()
    async with EdgeServer.from_config(config) as server:
        address = await server.listen()
        posterior = np.full(4, 0.25, np.float32)
        seen = Observation("node-1", "1", "e", "", None, posterior, None, Raw("FP32", (4,), secret))
        async with AggregatorClient(address, tls=TlsFiles(fleet.client("node-1"), time.time)) as node:
            (verdict,) = await node.observe([seen])
        assert verdict.reason == ""
        async with Client(address, tls=fleet.client("my-operator")) as client:
            assert (await client.forget("my-edge-node"))[0].endswith(": 0 observations and 0 damaged files deleted")
            assert holding(secret, tmp_path)
            assert (await client.forget("node-1"))[0].endswith(": 1 observations and 0 damaged files deleted")
        assert holding(secret, tmp_path) == []


@pytest.mark.asyncio
async def test_what_cannot_be_deleted_is_said(config: dict[str, Any], fleet: Fleet, tmp_path: Path) -> None:
    """With all else deleted, and noted as trouble: to be asked again."""
    async with EdgeNode.from_config(config) as node:
        address = await node.listen()
        await fill(node)
        lines = tmp_path / "corrections.jsonl"
        lines.unlink()
        lines.mkdir()
        async with Client(address, tls=fleet.client("my-operator")) as client:
            with pytest.raises(UnavailableError, match=r"not everything could be deleted: .*directory.*; ask again"):
                await client.forget("cam-1")
        assert node._inbox
        assert [one.item.device for one in await node._inbox.read(0)] == ["cam-2" + LANE]
        lines.rmdir()
    assert "directory" in json.loads((tmp_path / "audit.log").read_text().splitlines()[-1])["trouble"]


@pytest.mark.asyncio
async def test_a_plaintext_port_beyond_the_loopback_forgets_nothing(config: dict[str, Any]) -> None:
    """Nobody knows who asks there."""
    from escalade.tiers.config_file import parse_config
    from escalade.tiers.errors import ForbiddenError

    parsed = parse_config({**config, "listen": {"address": "0.0.0.0:1", "insecure": True}})
    places: Any = {"forwarding": None, "window": None, "attached": None, "ledger": None, "recorder": None}
    with pytest.raises(ForbiddenError, match="does not know who asks"):
        await Forgetting(parsed, **places).forget("cam-1")
