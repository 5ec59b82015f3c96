"""What happens to a damaged outbox or inbox file: it is moved aside, and what can still be read lives on.

The steps may be cut off by a crash anywhere, and are then finished or begun anew at the next opening:
rescued rows are collected in `NAME.new`; when it is complete the damaged file, then its WAL, are
renamed to `NAME.corrupt-TIME`, and `NAME.new` takes the name.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import structlog

from escalade.tiers.durable import sync_folder
from escalade.tiers.outbox import correction, item
from escalade.tiers.outbox.database import Database
from escalade.tiers.outbox.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from escalade.tiers.outbox.file import Kind, Synchronous

log = structlog.get_logger(__name__)

KEPT_FILES = 2
"""Damaged files kept for a look; older ones are deleted, for they may be as large as the outbox."""


def set_aside(
    path: Path, kind: Kind, damaged: Database | None, why: str, *, wall_s: float, synchronous: Synchronous
) -> None:
    """Replace a damaged file by a fresh one that holds what can still be read.

    Raises
    ------
    OSError, sqlite3.Error
        The disk does not even take that; the damaged file is where it was.
    """
    new = _with(path, ".new")
    _remove(new)
    fresh = Database(new, kind, now=0.0, wall_s=wall_s, synchronous=synchronous)
    try:
        sound, unsound = _rescue(fresh, path, kind, damaged, wall_s)
        counts = Counter({"corrupt_files": 1, "quarantined": unsound})
        fresh.run(fresh.count(counts) + fresh.skip_numbers(int(wall_s * 1000)))
        fresh.checkpoint()
    finally:
        fresh.close()
    if damaged is not None:
        damaged.close()
    aside = aside_name(path, wall_s)
    for end in ("", "-wal"):
        with suppress(FileNotFoundError):
            _with(path, end).rename(_with(aside, end))
    _with(path, "-shm").unlink(missing_ok=True)
    new.rename(path)
    sync_folder(path.parent)
    log.error(
        f"{kind.name} file is damaged; moved aside",
        error=why,
        file=str(path),
        aside=str(aside),
        rescued=sound,
        lost=unsound,
    )
    drop_older_files(path, kind)


def drop_older_files(path: Path, kind: Kind) -> None:
    """Delete damaged files but the newest few."""
    for old in aside_files(path)[:-KEPT_FILES]:
        log.warning(f"deleting an older damaged {kind.name} file", file=str(old))
        _remove(old)


def finish(path: Path) -> None:
    """Finish what a crash may have left of `set_aside`."""
    new = _with(path, ".new")
    if not new.exists():
        return
    if path.exists():
        _remove(new)
        return
    with suppress(FileNotFoundError, IndexError):
        _with(path, "-wal").rename(_with(aside_files(path)[-1], "-wal"))
    _with(path, "-wal").unlink(missing_ok=True)
    new.rename(path)
    sync_folder(path.parent)


def aside_files(path: Path) -> list[Path]:
    """Return the damaged files kept beside an outbox, oldest first."""
    found = path.parent.glob(f"{path.name}.corrupt-*")
    return sorted(file for file in found if not file.name.endswith("-wal"))


def drop_aside_files(path: Path, before_wall_s: float = inf) -> int:
    """Delete the damaged files that were moved aside before a time of day; return how many there were."""
    aside = _with(path, f".corrupt-{_stamp(before_wall_s)}").name if before_wall_s < inf else ""
    files = [file for file in aside_files(path) if not aside or file.name < aside]
    for file in files:
        _remove(file)
    return len(files)


def _rescue(fresh: Database, path: Path, kind: Kind, damaged: Database | None, wall_s: float) -> tuple[int, int]:
    if damaged is not None:
        return _adopt(fresh, damaged)
    if not path.stat().st_size:
        return 0, 0
    try:
        damaged = Database(path, kind, now=0.0, wall_s=wall_s, upgrade=False)
    except (CorruptError, sqlite3.Error):
        return 0, 0
    try:
        return _adopt(fresh, damaged)
    finally:
        damaged.close()


def _adopt(fresh: Database, damaged: Database) -> tuple[int, int]:
    """Take over what a damaged file still gives; return how many rows were sound and how many were not."""
    sound = unsound = 0
    with fresh.transaction():
        for table in ("runs", "attempts", "counters", "quarantined"):
            with suppress(sqlite3.Error):
                for row in damaged.connection.execute(f"SELECT * FROM {table}"):
                    marks = ",".join("?" * len(row))
                    fresh.connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
        for table, check in (("items", item.from_row), ("corrections", correction.from_row)):
            for row in _readable(damaged.connection, table):
                try:
                    check((row[0], *row[3:]))  # without run and since_s
                except ValueError:
                    unsound += 1
                    continue
                marks = ",".join("?" * len(row))
                sound += fresh.connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount
    return sound, unsound


def _readable(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield all columns of the rows that a damaged file still gives, from both ends towards the damage."""
    last = -(2**63)
    try:
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY seq"):
            last = row[0]
            yield row
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            yield from connection.execute(f"SELECT * FROM {table} WHERE seq > ? ORDER BY seq DESC", (last,))


def aside_name(path: Path, wall_s: float) -> Path:
    """Return a free name for a file that is moved aside."""
    stamp = _stamp(wall_s)
    names = (_with(path, f".corrupt-{stamp}{f'-{n:03}' if n else ''}") for n in range(1000))
    return next(name for name in names if not name.exists())


def _stamp(wall_s: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(max(0.0, wall_s)))


def _with(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        _with(path, end).unlink(missing_ok=True)
