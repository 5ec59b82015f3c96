"""`escalade inbox`: a stopped tier's inbox, looked at from outside."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from escalade.cli.main import main
from escalade.tiers.outbox import Inbox, InboxLimits, Item
from escalade.tiers.reports import LANE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An inbox with an answer and three reports, after one that was dropped."""

    async def fill() -> None:
        async with Inbox(tmp_path / "inbox.db", InboxLimits(max_items=4)) as inbox:
            await inbox.store([Item(f"cam-1{LANE}", "0", b"old", "telemetry", "bulk")])
            await inbox.answered("cam-1", "x", b"cat")
            for n, priority in enumerate(("bulk", "critical", "normal"), 1):
                await inbox.store([Item(f"cam-1{LANE}", str(n), b"hot", "telemetry", priority)])  # type: ignore[arg-type]

    asyncio.run(fill())
    return tmp_path / "inbox.db"


def test_list_prints_reports_in_the_order_they_came(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A summary, what was dropped so far, and the reports, whatever their priority."""
    assert main(["inbox", "list", str(path), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: 3 reports (0 result, 3 telemetry), 1 answers remembered, ")
    assert lines[1] == "dropped so far: 1 room telemetry"
    assert [line.split()[-1] for line in lines[4:6]] == ["'cam-1/1'", "'cam-1/2'"]
    assert lines[6] == "... and 1 more (--limit)"


def test_export_writes_a_line_for_every_report(path: Path, tmp_path: Path) -> None:
    """After a number or all; no answers to deliveries; the device by its own name."""
    out = tmp_path / "reports.jsonl"
    assert main(["inbox", "export", str(path), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["device"], line["id"], line["kind"]) for line in lines] == [
        ("cam-1", str(n), "telemetry") for n in (1, 2, 3)
    ]
    assert base64.b64decode(lines[0]["payload"]) == b"hot"
    rest = tmp_path / "rest.jsonl"
    assert main(["inbox", "export", str(path), "--out", str(rest), "--after", str(lines[1]["seq"])]) == 0
    assert [json.loads(line)["id"] for line in rest.read_text().splitlines()] == ["3"]


def test_an_outbox_is_not_read_as_an_inbox(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and exit code 2; what was set aside can be deleted."""
    assert main(["outbox", "list", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["inbox", "drop-quarantine", str(path)]) == 0
    assert capsys.readouterr().out == "0 damaged items and 0 damaged files deleted\n"
