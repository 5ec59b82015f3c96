"""Nothing stays on the disk longer than its limit, whether anything new comes or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.tiers.outbox.conftest import Clock, OpenInbox, OpenOutbox, item

from escalade.tiers.config_types import RecordConfig
from escalade.tiers.corrections import _append_line, last_seq
from escalade.tiers.record import Recorder

SECRET = b"a face in the crowd " * 10
HOUR_S = 3600.0


@pytest.mark.asyncio
async def test_an_inbox_forgets_what_has_left_its_window(tmp_path: Path, clock: Clock, open_inbox: OpenInbox) -> None:
    """Answers and reports, counted; no number is given twice for it."""
    inbox = await open_inbox(window_s=HOUR_S)
    await inbox.store([item("r", payload=SECRET, kind="result")])
    await inbox.answered("cam", "a", SECRET)
    clock.pass_s(HOUR_S / 2)
    await inbox.answered("cam", "b", SECRET)
    await inbox.expire()
    assert sum(inbox.stats().items.values()) == 3
    clock.pass_s(HOUR_S / 2)
    await inbox.expire()
    stats = inbox.stats()
    assert sum(stats.items.values()) == 1
    assert stats.dropped == {("age", "result"): 1, ("age", "escalation"): 1}
    assert stats.bytes > 0
    clock.pass_s(HOUR_S)
    await inbox.expire()
    await inbox.close()
    inbox = await open_inbox(window_s=HOUR_S)
    assert sum(inbox.stats().items.values()) == 0
    await inbox.store([item("r2", kind="result")])
    assert [stored.seq for stored in await inbox.read(0)] == [4]


@pytest.mark.asyncio
async def test_what_was_set_aside_as_damaged_goes_when_it_is_too_old(
    tmp_path: Path, clock: Clock, open_outbox: OpenOutbox
) -> None:
    """Rows and files alike, by the outbox's own limit; the counts stay."""
    path = tmp_path / "outbox.db"
    outbox = await open_outbox(max_age_s=24 * HOUR_S)
    await outbox.put(item("1", payload=SECRET))
    await outbox.close()
    data = path.read_bytes()
    assert data.count(SECRET) == 1
    path.write_bytes(data.replace(SECRET, SECRET.replace(b"face", b"fact", 1)))
    aside = tmp_path / "outbox.db.corrupt-20270115T080000Z"
    aside.write_bytes(SECRET)
    outbox = await open_outbox(max_age_s=24 * HOUR_S)
    assert await outbox.take(1) == []
    assert outbox.stats().quarantined == 1
    clock.pass_s(23 * HOUR_S)
    await outbox.take(1)
    assert aside.exists()
    clock.pass_s(2 * HOUR_S)
    await outbox.take(1)
    assert not aside.exists()
    assert outbox.stats().quarantined == 1
    await outbox.close()
    from escalade.tiers.outbox.offline import offline

    with offline(path) as stopped:
        assert list(stopped.quarantined()) == []


def test_a_recording_is_dropped_by_its_age(tmp_path: Path) -> None:
    """Chunks last written longer ago than `max_age_s`, also those of earlier runs; newer ones stay."""
    now = 1_800_000_000.0
    for name, age_s in (("0000000000000001.npz", 101.0), ("0000000000000002.npz", 99.0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    config = RecordConfig(folder=tmp_path, max_age_s=100.0)
    Recorder(config, {}, clock=lambda: now).close()
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["0000000000000002.npz"]


def test_a_file_of_corrections_is_bounded(tmp_path: Path) -> None:
    """It loses its older half; what follows the last line goes on from it."""
    path = tmp_path / "corrections.jsonl"
    for seq in range(1, 101):
        _append_line(path, f'{{"seq": {seq}}}', max_bytes=200)
        assert path.stat().st_size <= 200
        assert last_seq(path) == seq
    assert path.read_text().splitlines()[-3:] == ['{"seq": 98}', '{"seq": 99}', '{"seq": 100}']
