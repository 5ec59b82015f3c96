"""The outbox's SQLite file: one connection, used by one thread. Decides nothing."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.outbox.ages import Ages, age_s
from escalade.tiers.outbox.sqlite_file import FileKind, corruption_noticed, open_file, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from escalade.tiers.outbox.item import Row
    from escalade.tiers.outbox.sqlite_file import Synchronous

COLUMNS = "seq, rank, kind, created_s, checksum, device, id, provisional, payload"
KEPT_QUARANTINED = 100
"""Rows; older ones are dropped."""
ROWS_AT_ONCE = (64, 8, 1)
"""In one statement: `sqlite3` gives the GIL away at each, and must wait to get it back from a busy loop."""
_MARKS = "(?,?,?,?,?,?,?,?,?,?,?)"
_SCHEMA = """
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, since_s REAL NOT NULL, rank INTEGER NOT NULL,
    kind INTEGER NOT NULL, created_s REAL NOT NULL, checksum INTEGER NOT NULL,
    device BLOB NOT NULL, id BLOB NOT NULL, provisional BLOB NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE attempts (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE runs (run INTEGER PRIMARY KEY, opened_wall_s REAL NOT NULL);
CREATE TABLE quarantined (
    seq INTEGER PRIMARY KEY, wall_s REAL, rank, kind, created_s, checksum, device, id, provisional, payload
);
CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
KIND = FileKind("outbox", 0x45534F42, 1, _SCHEMA, "quarantined")  # "ESOB"


class Known(NamedTuple):
    """What the index needs of a stored item."""

    seq: int
    rank: int
    device: bytes
    own_bytes: int
    age_s: float
    attempts: int


class Database:
    """An open outbox file.

    Parameters
    ----------
    synchronous:
        Anything but FULL loses acknowledged items in a power cut: for tests that must see that.

    Raises
    ------
    CorruptError
        It is no sound database.
    OutboxError
        It is sound, but not ours to use.
    sqlite3.Error
        The disk refuses.
    """

    def __init__(self, path: Path, *, now: float, wall_s: float, synchronous: Synchronous = "FULL") -> None:
        self.path = path
        self._ages, self._wall_s = Ages(now, wall_s), wall_s
        self._run, self._run_written = 0, False
        self._stale_runs: list[tuple[int]] = []
        self._connection = open_file(path, KIND, synchronous)

    def close(self) -> None:
        """Close; what the WAL holds goes into the file if that is possible, and else stays in the WAL."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def known(self) -> tuple[list[Known], list[int]]:
        """Return every item, oldest first, and the numbers of rows that make no sense.

        An item is at least as old as those that came after it, whatever the clocks said.
        """
        with corruption_noticed():
            runs = dict(self._connection.execute("SELECT run, opened_wall_s FROM runs"))
            attempts = dict(self._connection.execute("SELECT seq, count FROM attempts"))
            stored = self._connection.execute(
                "SELECT seq, run, since_s, rank, device,"
                " length(device) + length(id) + length(provisional) + length(payload) FROM items ORDER BY seq DESC"
            ).fetchall()
        self._run = max(runs, default=0) + 1
        oldest_s, items, bad, used = 0.0, list[Known](), list[int](), set[int]()
        for seq, run, since_s, rank, device, own_bytes in stored:
            if rank not in (0, 1, 2) or type(device) is not bytes or type(own_bytes) is not int:
                bad.append(seq)
                continue
            used.add(run)
            if isinstance(since_s, float) and run in runs:
                oldest_s = max(oldest_s, age_s(runs[run], since_s, self._wall_s))
            items.append(Known(seq, rank, device, own_bytes, oldest_s, attempts.get(seq, 0)))
        self._stale_runs = [(run,) for run in runs if run not in used]
        return items[::-1], bad

    def last_seq(self) -> int:
        """Return the greatest number ever stored that is still there."""
        with corruption_noticed():
            query = (
                "SELECT max(coalesce((SELECT max(seq) FROM items), 0), coalesce((SELECT max(seq) FROM quarantined), 0))"
            )
            return int(self._connection.execute(query).fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on the disk at the end, or nothing of it is stored."""
        run_written = self._run_written
        try:
            with transaction(self._connection):
                yield
        except BaseException:
            self._run_written = run_written
            raise

    def insert(self, rows: list[Row], now: float, wall_s: float) -> None:
        """Store items, inside a transaction."""
        if not rows:
            return
        if self._ages.jumped(now, wall_s) or not self._run_written:
            self._connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (self._run, self._ages.opened_wall_s))
            self._connection.executemany("DELETE FROM runs WHERE run = ?", self._stale_runs)
            self._run_written = True
        ours, start = (self._run, self._ages.stamp(now)), 0
        for size in ROWS_AT_ONCE:
            statement = f"INSERT INTO items ({COLUMNS}, run, since_s) VALUES {', '.join([_MARKS] * size)}"
            while start + size <= len(rows):
                values = chain.from_iterable((*row, *ours) for row in rows[start : start + size])
                self._connection.execute(statement, tuple(values))
                start += size

    def delete(self, seqs: Iterable[int]) -> None:
        """Drop items, inside a transaction."""
        wanted = (json.dumps(list(seqs)),)
        self._connection.execute("DELETE FROM items WHERE seq IN (SELECT value FROM json_each(?))", wanted)
        self._connection.execute("DELETE FROM attempts WHERE seq IN (SELECT value FROM json_each(?))", wanted)

    def set_attempts(self, counts: dict[int, int]) -> None:
        """Store how often items have failed, inside a transaction."""
        self._connection.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?)", list(counts.items()))

    def count(self, counts: Counter[str]) -> None:
        """Add to the counters that outlive a restart, inside a transaction."""
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count",
            list(counts.items()),
        )

    def counters(self) -> Counter[str]:
        """Return the counters."""
        with corruption_noticed():
            return Counter(dict(self._connection.execute("SELECT name, count FROM counters")))

    def names(self, seqs: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Yield the device and id of items."""
        for seq in seqs:
            with corruption_noticed():
                row = self._connection.execute("SELECT device, id FROM items WHERE seq = ?", (seq,)).fetchone()
            yield (_text(row[0]), _text(row[1])) if row else ("", "")

    def rows(self, seqs: list[int]) -> dict[int, Row]:
        """Return stored items by number; those that are not there are missing."""
        with corruption_noticed():
            if seqs and max(seqs) - min(seqs) < 2 * len(seqs):  # one walk instead of a search each
                found = self._connection.execute(
                    f"SELECT {COLUMNS} FROM items WHERE seq BETWEEN ? AND ?",
                    (min(seqs), max(seqs)),
                )
                return {row[0]: row for row in found}
            query = f"SELECT {COLUMNS} FROM items WHERE seq = ?"
            one_by_one = (self._connection.execute(query, (seq,)).fetchone() for seq in seqs)
            return {row[0]: row for row in one_by_one if row}

    def quarantine(self, seqs: list[int]) -> None:
        """Set rows aside as they are, and count them."""
        columns = COLUMNS.removeprefix("seq, ")
        with self.transaction():
            for seq in seqs:
                self._connection.execute(
                    f"INSERT OR REPLACE INTO quarantined (seq, wall_s, {columns})"
                    f" SELECT seq, ?, {columns} FROM items WHERE seq = ?",
                    (self._wall_s, seq),
                )
            self.delete(seqs)
            self._connection.execute(
                "DELETE FROM quarantined WHERE seq NOT IN (SELECT seq FROM quarantined ORDER BY seq DESC LIMIT ?)",
                (KEPT_QUARANTINED,),
            )
            self.count(Counter({"quarantined": len(seqs)}))

    def quarantined(self) -> list[tuple[Any, ...]]:
        """Return the rows set aside, as they are."""
        with corruption_noticed():
            return self._connection.execute(f"SELECT {COLUMNS} FROM quarantined ORDER BY seq").fetchall()

    def drop_quarantined(self) -> int:
        """Delete the rows set aside; return how many there were."""
        with self.transaction():
            return self._connection.execute("DELETE FROM quarantined").rowcount

    def readable(self) -> Iterator[tuple[Any, ...]]:
        """Yield all columns of the items that a damaged file still gives, from both ends towards the damage."""
        last = -(2**63)
        try:
            for row in self._connection.execute("SELECT * FROM items ORDER BY seq"):
                last = row[0]
                yield row
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                yield from self._connection.execute("SELECT * FROM items WHERE seq > ? ORDER BY seq DESC", (last,))

    def adopt(self, other: Database) -> tuple[int, int]:
        """Take over what a damaged outbox still gives; return how many rows were sound and how many were not."""
        from escalade.tiers.outbox.item import from_row

        sound = unsound = 0
        with self.transaction():
            for table in ("runs", "attempts", "counters", "quarantined"):
                with suppress(sqlite3.Error):
                    for row in other._connection.execute(f"SELECT * FROM {table}"):
                        marks = ",".join("?" * len(row))
                        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
            for row in other.readable():
                try:
                    from_row((row[0], *row[3:]))
                except ValueError:
                    unsound += 1
                    continue
                marks = ",".join("?" * len(row))
                sound += self._connection.execute(f"INSERT OR IGNORE INTO items VALUES ({marks})", row).rowcount
        return sound, unsound

    def checkpoint(self) -> None:
        """Bring everything into the main file and empty the WAL."""
        with corruption_noticed():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
