"""Disks that are full, small or read-only, and a second process: one clear line, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from escalade.tiers.outbox import Delivered, Inbox, Item, Outbox, OutboxBusyError, OutboxError, Seen


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount, *["-t", "tmpfs", "-o", "size=1m", "tmpfs"], str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run([umount, folder], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run([shutil.which("mount") or "mount", "-o", f"remount,{how}", folder], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def put_until_refused(outbox: Outbox) -> tuple[list[str], OutboxError]:
    kept: list[str] = []
    for number in range(10_000):
        try:
            await outbox.put(Item("cam", str(number), bytes(2000)))
        except OutboxError as error:
            return kept, error
        kept.append(str(number))
    raise AssertionError("nothing was ever refused")


async def store_until_refused(inbox: Inbox) -> tuple[list[str], OutboxError]:
    kept: list[str] = []
    for number in range(10_000):
        try:
            await inbox.store([Item("cam", str(number), bytes(2000), kind="result")])
        except OutboxError as error:
            return kept, error
        kept.append(str(number))
    raise AssertionError("nothing was ever refused")


async def drained(outbox: Outbox) -> list[str]:
    found: list[str] = []
    while leased := await outbox.take(50):
        found += [one.item.id for one in leased]
        await outbox.done([one.seq for one in leased])
    return found


@pytest.mark.asyncio
async def test_a_full_disk_refuses_what_is_new_and_keeps_what_it_has(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Puts raise one line, logged once; what is there can be sent; with space again, puts work again."""
    outbox = Outbox(small_disk / "outbox.db")
    filler = small_disk / "filler"
    async with outbox:
        filler.write_bytes(bytes(400_000))
        kept, error = await put_until_refused(outbox)
        assert str(error) == f"outbox {outbox.path}: the disk is full; free some space or lower its max_bytes"
        for number in range(20):
            with pytest.raises(OutboxError, match="disk is full"):
                await outbox.put(Item("cam", f"no-{number}", bytes(2000)))
        assert caplog.text.count("cannot keep items") == 1
        assert "disk is full" in outbox.stats().trouble
        assert await drained(outbox) == kept
        filler.unlink()
        await outbox.put(Item("cam", "new", b""))
        assert outbox.stats().trouble == ""
        assert outbox.stats().items == 1
    async with Outbox(small_disk / "outbox.db") as outbox:
        assert await drained(outbox) == ["new"]


@pytest.mark.asyncio
async def test_an_outbox_on_a_full_disk_is_opened_when_there_is_space(small_disk: Path) -> None:
    """A tier that starts with a full disk starts; its outbox works a second after there is space."""
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(2_000_000))
    outbox = Outbox(small_disk / "outbox.db", clock=iter(range(0, 1000, 2)).__next__)
    with pytest.raises(OutboxError, match="disk is full"):
        await outbox.open()
    with pytest.raises(OutboxError, match="disk is full"):
        await outbox.put(Item("cam", "1", b""))
    filler.unlink()
    await outbox.put(Item("cam", "2", b""))
    assert await drained(outbox) == ["2"]
    await outbox.close()


@pytest.mark.asyncio
async def test_a_full_disk_refuses_what_an_inbox_receives(small_disk: Path) -> None:
    """One line a call and nothing of it kept; what is there is known; with space again, all is well."""
    filler = small_disk / "filler"
    async with Inbox(small_disk / "inbox.db") as inbox:
        await inbox.answered("cam", "first", b"cat")
        filler.write_bytes(bytes(400_000))
        kept, error = await store_until_refused(inbox)
        assert str(error) == f"inbox {inbox.path}: the disk is full; free some space or lower its max_bytes"
        assert await inbox.claim("cam", "second") is None
        with pytest.raises(OutboxError, match="disk is full"):
            await inbox.answered("cam", "second", bytes(2000))
        assert await inbox.claim("cam", "first") == Seen(b"cat")
        assert await inbox.claim("cam", "second") is None
        assert [one.item.id for one in await inbox.read(0, 10_000)] == kept
        filler.unlink()
        await inbox.answered("cam", "second", b"dog")
        assert inbox.stats().trouble == ""
    async with Inbox(small_disk / "inbox.db") as inbox:
        assert [one.item.id for one in await inbox.read(0, 10_000)] == kept
        assert await inbox.claim("cam", "second") == Seen(b"dog")


@pytest.mark.asyncio
async def test_a_delivery_on_a_full_disk_is_recorded_when_there_is_space(small_disk: Path) -> None:
    """`delivered` raises one line; the item is not sent again, and item and correction change places together."""
    filler = small_disk / "filler"
    async with Outbox(small_disk / "outbox.db") as outbox:
        for number in range(8):
            await outbox.put(Item(f"cam-{number}", "1", bytes(2000)))
        filler.write_bytes(bytes(400_000))
        await put_until_refused(outbox)
        first, *others = await outbox.take(8)
        with pytest.raises(OutboxError, match="disk is full"):
            await outbox.delivered([Delivered(first.seq, bytes(300_000))])
        before = outbox.stats().items
        assert first.item not in [one.item for one in await outbox.take(20)]
        assert await outbox.corrections(0) == []
        filler.unlink()
        await outbox.done([others[0].seq])
        assert [(one.device, len(one.answer)) for one in await outbox.corrections(0)] == [("cam-0", 300_000)]
        assert outbox.stats().items == before - 1


@pytest.mark.asyncio
async def test_a_disk_that_becomes_read_only_is_one_clear_line(small_disk: Path) -> None:
    """As a kernel does after an error: nothing new is kept, what is there can be sent."""
    async with Outbox(small_disk / "outbox.db") as outbox:
        await outbox.put(Item("cam", "1", b""))
        await outbox.close()
    remount(small_disk, "ro")
    outbox = Outbox(small_disk / "outbox.db")
    with pytest.raises(OutboxError, match=r"^outbox .*: Read-only file system; check the folder and its rights$"):
        await outbox.put(Item("cam", "2", b""))
    remount(small_disk, "rw")
    await outbox.close()
    async with Outbox(small_disk / "outbox.db") as outbox:
        assert await drained(outbox) == ["1"]


@pytest.mark.asyncio
async def test_a_limit_on_the_size_of_files_is_one_clear_line(tmp_path: Path) -> None:
    """A quota: the write fails with another error than on a full disk; nothing acknowledged is lost."""
    async with Outbox(tmp_path / "outbox.db") as outbox:
        with largest_file(400_000):
            kept, error = await put_until_refused(outbox)
            assert str(error).startswith(f"outbox {outbox.path}: the disk")
            assert "\n" not in str(error)
        await outbox.put(Item("cam", "new", b""))
        assert outbox.stats().items == len(kept) + 1
        assert outbox.stats().write_errors == 1
    async with Outbox(tmp_path / "outbox.db") as outbox:
        assert await drained(outbox) == [*kept, "new"]


HOLD = """
import asyncio, sys
from pathlib import Path
from escalade.tiers.outbox import Item, Outbox

async def main():
    async with Outbox(Path(sys.argv[1])) as outbox:
        await outbox.put(Item("cam", "theirs", b""))
        print("open", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_a_second_process_is_told_which_one_has_the_outbox(tmp_path: Path) -> None:
    """One line with the pid; when that process is killed, the outbox is free at once."""
    path = tmp_path / "outbox.db"
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert holder.stdout
    assert await holder.stdout.readline() == b"open\n"
    outbox = Outbox(path)
    with pytest.raises(OutboxBusyError) as caught:
        await outbox.open()
    assert str(caught.value) == (
        f"outbox {path}: process {holder.pid} has it open; stop that process, or give this tier an outbox of its own"
    )
    await outbox.close()
    holder.kill()
    await holder.communicate()
    async with Outbox(path) as outbox:
        assert await drained(outbox) == ["theirs"]
