"""`escalade outbox`: a stopped tier's outbox, looked at from outside."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from escalade.cli.main import main
from escalade.tiers.outbox import Delivered, Item, Outbox, OutboxLimits


def filled(path: Path) -> Path:
    async def fill() -> None:
        async with Outbox(path, OutboxLimits(max_items=3)) as outbox:
            for n, priority in enumerate(("bulk", "normal", "normal", "critical")):
                await outbox.put(Item("cam-1", str(n), b"abc" * 1000, priority=priority, provisional=b"{}"))  # type: ignore[arg-type]

    asyncio.run(fill())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return filled(tmp_path / "outbox.db")


def test_list_prints_what_would_be_sent_and_what_was_given_up(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A summary, the evictions so far, and the items in order."""
    assert main(["outbox", "list", str(path), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: 3 items (1 critical, 2 normal, 0 bulk), 9")
    assert lines[1] == "evicted so far: 1 room bulk"
    assert [line.split()[-1] for line in lines[4:6]] == ["'cam-1/3'", "'cam-1/1'"]
    assert lines[6] == "... and 1 more (--limit)"


def test_list_tells_of_corrections(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many are kept, and where a subscriber would stand."""

    async def deliver() -> None:
        async with Outbox(path) as outbox:
            (leased,) = await outbox.take(1)
            await outbox.delivered([Delivered(leased.seq, b"new")])

    asyncio.run(deliver())
    assert main(["outbox", "list", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: 2 items")
    assert lines[1] == "1 corrections kept for subscribers, the latest 1"


def test_export_writes_a_line_for_every_item(path: Path, tmp_path: Path) -> None:
    """Every field, bytes in base64; the outbox is as it was, and no file is overwritten."""
    out = tmp_path / "items.jsonl"
    assert main(["outbox", "export", str(path), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["3", "1", "2"]
    assert base64.b64decode(lines[0]["payload"]) == b"abc" * 1000
    assert main(["outbox", "export", str(path), "--out", str(out)]) == 2


def test_the_quarantine_can_be_looked_at_and_dropped(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged item and a damaged file."""
    data = path.read_bytes()
    path.write_bytes(b"nonsense" * 10)

    async def take() -> None:
        async with Outbox(path) as outbox:
            await outbox.take(9)

    asyncio.run(take())
    filled(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"abc" * 900, b"abd" * 900, 1))
    asyncio.run(take())
    capsys.readouterr()
    assert main(["outbox", "list", str(path)]) == 0
    assert "quarantine: 1 items, 1 files" in capsys.readouterr().out
    assert main(["outbox", "export", str(path), "--quarantined"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cam-1"
    assert main(["outbox", "drop-quarantine", str(path)]) == 0
    assert capsys.readouterr().out == "1 damaged items and 1 damaged files deleted\n"


def test_mistakes_are_one_line_and_exit_code_2(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such file, a running tier's, a damaged one: nothing is made, moved or repaired."""
    assert main(["outbox", "list", str(tmp_path / "none.db")]) == 2
    assert capsys.readouterr().err == f"escalade: outbox {tmp_path}/none.db: no such file\n"

    async def list_while_open() -> int:
        async with Outbox(path):
            return main(["outbox", "list", str(path)])

    assert asyncio.run(list_while_open()) == 2
    assert f"process {os.getpid()} has it open" in capsys.readouterr().err
    path.write_bytes(b"nonsense" * 1000)
    assert main(["outbox", "list", str(path)]) == 2
    assert "damaged (file is not a database)" in capsys.readouterr().err
    assert path.read_bytes() == b"nonsense" * 1000


@pytest.mark.parametrize("action", ["list", "export"])
def test_a_reader_that_has_seen_enough_is_no_fault_of_the_outbox(action: str, path: Path) -> None:
    """Exit code 1 and not a word, be it that little was printed or more than a buffer holds."""
    command = [sys.executable, "-m", "escalade.cli.main", "outbox", action, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 1)
