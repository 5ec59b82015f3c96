"""`python -m benchmarks.outbox`: what the outbox costs over bare SQLite in the same mode and group size.

The bare side is a loop that has its rows ready and does nothing but `BEGIN`, `INSERT`s or `SELECT` and
`DELETE`s, `COMMIT`, with the same columns and pragmas; once with SQLite's page size (the target is
against that) and once with the outbox's, so that what larger pages gain is told apart from what the code
costs. The outbox adds order, bounds, checksums, the thread and a future for every caller.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.load import Sample
from benchmarks.repeats import as_dicts, interleave, middle, ratio
from benchmarks.report import Results, Row, environment
from escalade.tiers.config import LogConfig
from escalade.tiers.logs import configure_logs
from escalade.tiers.outbox import Item, Outbox
from escalade.tiers.outbox.file import CHECKPOINT_BYTES, PAGE_BYTES
from escalade.tiers.outbox.item import to_row

RESULTS = Path(__file__).parent / "results"
GROUPS = (1, 16, 64)
TARGET = 0.8
PAYLOAD_BYTES = 3072
"""A preprocessed image of 28 x 28 in float32."""
DEVICES = 20
SQLITE_PAGE_BYTES = 4096
SCHEMA = (
    "CREATE TABLE items (seq INTEGER PRIMARY KEY, rank, kind, created_s, checksum, device, id, provisional, payload)"
)

Work = Callable[[Path, int, int], Awaitable[Sample]]


def items(count: int) -> list[Item]:
    """Return what is put: a provisional answer and a payload each."""
    payload = bytes(range(256)) * (PAYLOAD_BYTES // 256)
    return [Item(f"cam-{n % DEVICES}", str(n), payload, provisional=b'{"label": 3}') for n in range(count)]


@contextmanager
def bare(path: Path, page_bytes: int) -> Iterator[sqlite3.Connection]:
    """Open SQLite as the outbox does."""
    pages = (f"page_size = {page_bytes}", f"wal_autocheckpoint = {CHECKPOINT_BYTES // page_bytes}")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in (*pages, "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute(SCHEMA)
        yield connection


class Timed:
    """Times a number of items: wall, processor, and how long each transaction or caller took."""

    def __init__(self, count: int) -> None:
        self.latencies_ms: list[float] = []
        self._count = count
        self._started, self._cpu = time.perf_counter(), time.process_time()

    @contextmanager
    def one(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.latencies_ms.append((time.perf_counter() - began) * 1e3)

    def sample(self) -> Sample:
        elapsed, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        ordered = sorted(self.latencies_ms)
        p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        return Sample(self._count / elapsed, p50, p99, self._count, cpu / self._count * 1e6)


def insert_groups(connection: sqlite3.Connection, count: int, group: int) -> Sample:
    """Insert rows that are ready, so many in a transaction."""
    rows = [to_row(seq, item) for seq, item in enumerate(items(count), 1)]
    timed = Timed(count)
    for start in range(0, count, group):
        with timed.one():
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO items VALUES (?,?,?,?,?,?,?,?,?)", rows[start : start + group])
            connection.execute("COMMIT")
    return timed.sample()


async def bare_enqueue(path: Path, count: int, group: int, page_bytes: int = SQLITE_PAGE_BYTES) -> Sample:
    """Insert and commit."""
    with bare(path, page_bytes) as connection:
        return insert_groups(connection, count, group)


async def bare_drain(path: Path, count: int, group: int, page_bytes: int = SQLITE_PAGE_BYTES) -> Sample:
    """Select, delete and commit."""
    with bare(path, page_bytes) as connection:
        insert_groups(connection, count, 256)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        timed = Timed(count)
        for _ in range(0, count, group):
            with timed.one():
                rows = connection.execute("SELECT * FROM items ORDER BY seq LIMIT ?", (group,)).fetchall()
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM items WHERE seq = ?", [(row[0],) for row in rows])
                connection.execute("COMMIT")
        return timed.sample()


async def put_all(outbox: Outbox, waiting: list[Item], producers: int, timed: Timed) -> None:
    """Put from so many callers, each waiting for its own acknowledgement."""

    async def produce() -> None:
        while waiting:
            began = time.perf_counter()
            await outbox.put(waiting.pop())
            timed.latencies_ms.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(produce() for _ in range(producers)))


async def our_enqueue(path: Path, count: int, group: int) -> Sample:
    """So many callers that every transaction is full; a single one for groups of one."""
    async with Outbox(path, max_group=group) as outbox:
        waiting = items(count)
        timed = Timed(count)
        await put_all(outbox, waiting, 1 if group == 1 else 4 * group, timed)
        return timed.sample()


async def our_drain(path: Path, count: int, group: int) -> Sample:
    """Take the next group while the one before is settled; every transaction deletes one group: `max_group`."""
    async with Outbox(path) as outbox:
        await put_all(outbox, items(count), 1024, Timed(count))
    async with Outbox(path, max_group=2) as outbox:
        timed = Timed(count)
        settling: deque[asyncio.Future[None]] = deque()
        leased = await outbox.take(group)
        while leased:
            with timed.one():
                settling.append(asyncio.ensure_future(outbox.done([one.seq for one in leased])))
                taking = asyncio.ensure_future(outbox.take(group))
                if len(settling) > 1:
                    await settling.popleft()
                leased = await taking
        await asyncio.gather(*settling)
        sample = timed.sample()
        if outbox.stats().items:
            raise ValueError(f"the outbox is not empty: {outbox.stats()}")
        return sample


WORKS: dict[str, Work] = {
    "bare enqueue": bare_enqueue,
    "ours enqueue": our_enqueue,
    "same pages enqueue": partial(bare_enqueue, page_bytes=PAGE_BYTES),
    "bare drain": bare_drain,
    "ours drain": our_drain,
    "same pages drain": partial(bare_drain, page_bytes=PAGE_BYTES),
}


async def in_fresh_folder(work: Work, count: int, group: int) -> Sample:
    """Measure on the disk that the current folder is on."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-outbox-", dir="."))
    try:
        return await work(folder / "outbox.db", count, group)
    finally:
        shutil.rmtree(folder)


async def run(repeats: int, count: int) -> Results:
    """Measure every group size, both sides in turn."""
    results = Results({"repeats": repeats, "items": count, "payload_bytes": PAYLOAD_BYTES, "groups": list(GROUPS)})
    for group in GROUPS:
        some = max(group, count // 8) if group == 1 else count
        cases = {name: partial(in_fresh_folder, work, some, group) for name, work in WORKS.items()}
        samples = await interleave(cases, repeats)
        rows = []
        for what in ("enqueue", "drain"):
            ours, bare, same = (f"{side} {what}" for side in ("ours", "bare", "same pages"))
            rates = [middle(samples, case, "requests_per_s") for case in (ours, bare, same)]
            p99 = middle(samples, ours, "p99_ms")
            same_ratio = ratio(samples, ours, same, "requests_per_s")
            rows.append(
                Row(
                    "outbox",
                    f"{what}, groups of {group}, ours / bare",
                    ratio(samples, ours, bare, "requests_per_s"),
                    "x",
                    TARGET if group > 1 else None,
                    at_most=False,
                    detail=f"ours {rates[0]:.0f}/s, p99 {p99:.2f} ms; bare {rates[1]:.0f}/s; "
                    f"bare with our page size {rates[2]:.0f}/s: {same_ratio:.2f} x",
                )
            )
        results.add(rows, {f"groups of {group}": as_dicts(samples)})
    return results


def main() -> None:
    """Read the options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="go everywhere in seconds; the figures mean nothing")
    parser.add_argument("--out", type=Path, help=f"where to write; by default {RESULTS.name}/, for a full run only")
    options = parser.parse_args()
    configure_logs(LogConfig(level="warning"))
    results = uvloop.run(run(1, 256) if options.quick else run(options.repeats, options.items))
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    if out := options.out or (None if options.quick else RESULTS):
        results.write(out, "outbox", "The outbox against bare SQLite")
        print(f"written to {out}/outbox.json and {out}/outbox.md")


if __name__ == "__main__":
    main()
