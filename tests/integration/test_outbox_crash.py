"""Nothing acknowledged is lost: by kill -9, by a power cut, by a disk that fails to sync."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from escalade.tiers.outbox import Correction, Delivered, Item, Leased, Outbox, OutboxError, OutboxStats

from .outbox_writer import answer, payload

HERE = Path(__file__).parent
CUTS = 30
SECTOR = 512
Key = tuple[str, int]


@dataclass
class Told:
    """What a writer has said: all of it was true when it said it."""

    put: set[Key] = field(default_factory=set)
    gone: set[Key] = field(default_factory=set)
    sent: set[Key] = field(default_factory=set)
    fixed: set[Key] = field(default_factory=set)
    refused: int = 0

    def hear(self, text: str) -> None:
        for line in text.splitlines():
            word, device, name = line.split()
            if word == "no":
                self.refused += 1
            elif word in ("put", "gone", "sent", "fixed"):
                getattr(self, word).add((device, int(name)))
            else:
                assert word == "open", line


async def content(path: Path) -> tuple[list[Leased], list[Correction], OutboxStats]:
    async with Outbox(path) as outbox:
        found: list[Leased] = []
        corrections = await outbox.corrections(0, 100_000)
        while leased := await outbox.take(500):
            found += leased
            await outbox.done([one.seq for one in leased])
        return found, corrections, outbox.stats()


def violations(path: Path, told: Told) -> list[str]:
    """Compare an outbox as it was found with what its writer had been promised."""
    found, corrections, stats = asyncio.run(content(path))
    keys = [(one.item.device, int(one.item.id)) for one in found]
    fixed = [(one.device, int(one.id)) for one in corrections]
    wrong = [f"lost {key}" for key in sorted(told.put - told.gone - told.sent - set(keys))]
    wrong += [f"correction lost {key}" for key in sorted(told.fixed - set(fixed))]
    wrong += [f"no item and no correction {key}" for key in sorted((told.put & told.sent) - set(keys) - set(fixed))]
    wrong += [f"an item and its correction {key}" for key in sorted(set(keys) & set(fixed))]
    wrong += [f"changed correction {one}" for one in corrections if one[3:5] != _answers(one)]
    if fixed != list(dict.fromkeys(fixed)) or len(fixed) != stats.corrections:
        wrong.append(f"corrections twice: {fixed}")
    wrong += [f"changed {key}" for key, one in zip(keys, found, strict=True) if one.item.payload != _payload(one)]
    for device in {device for device, _ in keys}:
        order = [number for d, number in keys if d == device]
        if order != sorted(set(order)):
            wrong.append(f"order of {device}: {order}")
    if stats.corrupt_files or stats.quarantined:
        wrong.append(f"damaged: {stats}")
    return wrong


def _payload(one: Leased) -> bytes:
    return payload(one.item.device, one.item.id)


def _answers(one: Correction) -> tuple[bytes, bytes]:
    return f"old {one.id}".encode(), f"new {one.device} {one.id}".encode()


class Writer:
    """An `outbox_writer.py` process."""

    def __init__(self, path: Path, *options: str, **environment: str) -> None:
        self.told = Told()
        self._rest = ""
        command = [sys.executable, str(HERE / "outbox_writer.py"), str(path), *options]
        environment |= os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout
        self._out = self.process.stdout.fileno()
        os.set_blocking(self._out, False)
        self.wait_for(1)

    def wait_for(self, puts: int) -> None:
        """Wait until it has put so many more."""
        before = len(self.told.put) + self.told.refused
        while len(self.told.put) + self.told.refused < before + puts:
            assert self.process.poll() is None, "the writer has died"
            time.sleep(0.001)
            self.listen()

    def listen(self) -> None:
        while True:
            try:
                text = os.read(self._out, 1 << 20).decode()
            except BlockingIOError:
                return
            if not text:
                return
            lines, newline, self._rest = (self._rest + text).rpartition("\n")
            self.told.hear(lines + newline)

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait()
        self.listen()
        assert self.process.stdout
        self.process.stdout.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it still; everything it said until then has been heard."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        self.listen()
        yield
        self.process.send_signal(signal.SIGCONT)


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """A process is killed while it writes, five times over the same file."""
    draw = random.Random(1)
    path = tmp_path / "outbox.db"
    for number in range(5):
        writer = Writer(path, "--first", str(number * 100_000))
        writer.wait_for(draw.randint(100, 1000))
        writer.end(signal.SIGKILL)
        assert len(writer.told.put) > 100
        assert violations(path, writer.told) == []


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer that knows what a disk would hold after a power cut."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler `cc`")
    library = tmp_path_factory.mktemp("disk") / "outbox_disk.so"
    source = HERE / "outbox_disk.c"
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"cc cannot build outbox_disk.c: {built.stderr.strip().splitlines()[-1]}")
    return library


def cut(folder: Path, to: Path, draw: random.Random) -> None:
    """Make what a disk may hold after a power cut: what was synced, and any of the sectors written since."""
    to.mkdir()
    for name in ("outbox.db", "outbox.db-wal"):
        durable, written = ((folder / f"{name}{end}") for end in (".durable", ""))
        old = durable.read_bytes() if durable.exists() else b""
        new = written.read_bytes() if written.exists() else old
        share = draw.choice([0.0, 0.5, 0.9, 1.0])
        keep_until = draw.choice([len(new), draw.randint(0, len(new))])
        size = draw.choice([len(old), len(new), max(len(old), min(len(new), keep_until))])
        held = bytearray((old + bytes(size))[:size])
        for start in range(0, min(size, keep_until), SECTOR):
            if new[start : start + SECTOR] != old[start : start + SECTOR] and draw.random() < share:
                held[start : start + SECTOR] = new[start : start + SECTOR][: size - start]
        if held:
            (to / name).write_bytes(held)


def power_cuts(
    disk: Path, folder: Path, cuts: int, *options: str, seed: int = 0, eio: bool = False
) -> Iterator[list[str]]:
    """Cut the power of a writer so many times; yield each cut's violations."""
    draw = random.Random(seed)
    live, fails = folder / "live", folder / "fails"
    live.mkdir()
    writer = Writer(live / "outbox.db", *options, LD_PRELOAD=str(disk), OUTBOX_DISK_FAILS=str(fails))
    try:
        for number in range(cuts):
            if eio and number % 3 == 0:
                fails.touch()
                writer.wait_for(20)
                fails.unlink()
            writer.wait_for(draw.randint(1, 150))
            time.sleep(draw.random() * 0.004)
            after = folder / f"cut-{number}"
            with writer.stopped():
                cut(live, after, draw)
                found = violations(after / "outbox.db", writer.told)
            shutil.rmtree(after)
            yield found
        assert not eio or writer.told.refused
    finally:
        writer.end(signal.SIGKILL)


def test_nothing_acknowledged_is_lost_by_a_power_cut(disk: Path, tmp_path: Path) -> None:
    """30 cuts at random moments, with any of the unsynced sectors lost: no violation."""
    assert [found for found in power_cuts(disk, tmp_path, CUTS) if found] == []


def test_nothing_acknowledged_is_lost_when_syncs_fail_before_a_power_cut(disk: Path, tmp_path: Path) -> None:
    """The disk answers EIO now and then: those puts are refused, and what was acknowledged is there."""
    assert [found for found in power_cuts(disk, tmp_path, CUTS, seed=1, eio=True) if found] == []


@pytest.mark.parametrize(
    "options",
    [("--synchronous", "OFF"), ("--synchronous", "NORMAL"), ("--acknowledge", "before_commit")],
    ids=["no sync", "sync at checkpoints only", "acknowledged too early"],
)
def test_the_power_cut_test_notices_a_broken_outbox(options: tuple[str, str], disk: Path, tmp_path: Path) -> None:
    """With the sync switched off, or the acknowledgement before it, items are lost and the test says so."""
    assert any(power_cuts(disk, tmp_path, CUTS, *options))


EXT4_SHUTDOWN = 0x8004587D
"""`EXT4_IOC_SHUTDOWN`: the file system stops, as if the power were gone."""
WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    assert mount
    assert umount
    subprocess.run([mount, "-o", "loop", image, folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([umount, folder], check=True, capture_output=True)


async def write_until_the_power_is_cut(
    folder: Path, puts: int, synchronous: Literal["FULL", "OFF"], first: int
) -> Told:
    """Put items until so many were acknowledged, then cut; the outbox must answer its callers all the same."""
    acknowledged, errors, enough = Told(), list[OutboxError](), asyncio.Event()
    outbox = Outbox(folder / "outbox.db", synchronous=synchronous)

    async def fill(device: str) -> None:
        for number in range(first, first + 100_000):
            try:
                name = str(number)
                await outbox.put(Item(device, name, payload(device, name), provisional=f"old {name}".encode()))
                if not enough.is_set():
                    acknowledged.put.add((device, number))
                    if len(acknowledged.put) >= puts:
                        enough.set()
                await answer_one()
            except OutboxError as error:
                errors.append(error)
                return

    async def answer_one() -> None:
        for one in await outbox.take(1):
            key = one.item.device, int(one.item.id)
            acknowledged.sent.add(key)
            fixed = await outbox.delivered([Delivered(one.seq, answer(one.item))])
            if not enough.is_set():
                acknowledged.fixed |= {(correction.device, int(correction.id)) for correction in fixed}

    tasks = [asyncio.create_task(fill(f"d{n}")) for n in range(4)]
    await enough.wait()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(handle, EXT4_SHUTDOWN, WITHOUT_FLUSHING_THE_LOG)
    os.close(handle)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert errors
    assert all("\n" not in str(error) for error in errors)
    await outbox.close()
    return acknowledged


def ext4_cuts(tmp_path: Path, cuts: int, synchronous: Literal["FULL", "OFF"]) -> Iterator[list[str]]:
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if os.geteuid() != 0 or mkfs is None:
        pytest.skip("needs root and mkfs.ext4")
    image, folder, draw = tmp_path / "image", tmp_path / "disk", random.Random(2)
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([mkfs, "-q", "-F", image], check=True)
    for number in range(cuts):
        try:
            with mounted(image, folder):
                told = asyncio.run(
                    write_until_the_power_is_cut(folder, draw.randint(1, 200), synchronous, number * 100_000)
                )
        except (subprocess.CalledProcessError, PermissionError) as error:
            if number:
                raise
            pytest.skip(f"may not mount an ext4 image and shut it down: {error}")
        with mounted(image, folder):
            found = violations(folder / "outbox.db", told)
        yield found


def test_nothing_acknowledged_is_lost_when_a_real_file_system_stops(tmp_path: Path) -> None:
    """30 cuts of an ext4 by its shutdown ioctl, over the same outbox: no violation."""
    assert [found for found in ext4_cuts(tmp_path, CUTS, "FULL") if found] == []


def test_a_real_file_system_that_stops_shows_a_missing_sync(tmp_path: Path) -> None:
    """Without fsync the same cuts lose items."""
    assert any(ext4_cuts(tmp_path, 5, "OFF"))
