"""What an outbox or inbox file holds, as statements and queries. Decides nothing."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.outbox.ages import Ages, age_s
from escalade.tiers.outbox.file import File, Kind, Statement, Synchronous, corruption_noticed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from escalade.tiers.outbox.correction import CorrectionRow
    from escalade.tiers.outbox.item import Row

COLUMNS = "seq, rank, kind, created_s, checksum, device, id, provisional, payload"
CORRECTION_COLUMNS = "seq, created_s, delay_s, checksum, device, id, provisional, answer"
KEPT_QUARANTINED = 100
"""Rows; older ones are dropped."""
_NOTE_RUN = "INSERT OR REPLACE INTO runs VALUES (?, ?)"
ROWS_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)
"""In one statement: `sqlite3` gives the GIL away at each, and must wait to get it back from a busy loop."""
_RANKS, _KINDS, _TYPES = range(3), range(3), (bytes, bytes, int)


class Known(NamedTuple):
    """What the index needs of a stored item."""

    seq: int
    rank: int
    kind: int
    device: bytes
    id: bytes
    own_bytes: int
    age_s: float
    attempts: int


class Database(File):
    """An open outbox or inbox file; `now` and `wall_s` say when it was opened, see `File` for the rest."""

    def __init__(
        self,
        path: Path,
        kind: Kind,
        *,
        now: float,
        wall_s: float,
        synchronous: Synchronous = "FULL",
        upgrade: bool = True,
    ) -> None:
        self._ages, self._wall_s = Ages(now, wall_s), wall_s
        self._run, self._run_written = 0, False
        self._delete_from: tuple[str, ...] = ("items",)
        """With `attempts` once there have been any."""
        self._stale_runs: list[tuple[int]] = []
        super().__init__(path, kind, synchronous=synchronous, upgrade=upgrade)

    def known(self) -> tuple[list[Known], list[int]]:
        """Return every item, oldest first, and the numbers of rows that make no sense.

        An item is at least as old as those that came after it, whatever the clocks said.
        """
        with corruption_noticed():
            runs = dict(self.connection.execute("SELECT run, opened_wall_s FROM runs"))
            attempts = dict(self.connection.execute("SELECT seq, count FROM attempts"))
            stored = self.connection.execute(
                "SELECT seq, run, since_s, rank, kind, device, id,"
                " length(device) + length(id) + length(provisional) + length(payload) FROM items ORDER BY seq DESC"
            ).fetchall()
            used = {run for (run,) in self.connection.execute("SELECT DISTINCT run FROM corrections")}
        self._run = max(runs, default=0) + 1
        if attempts:
            self._delete_from = ("items", "attempts")
        oldest_s, items, bad = 0.0, list[Known](), list[int]()
        for seq, run, since_s, rank, kind, device, name, own_bytes in stored:
            if rank not in _RANKS or kind not in _KINDS or (type(device), type(name), type(own_bytes)) != _TYPES:
                bad.append(seq)
                continue
            used.add(run)
            oldest_s = max(oldest_s, self._age_s(runs, run, since_s))
            items.append(Known(seq, rank, kind, device, name, own_bytes, oldest_s, attempts.get(seq, 0)))
        self._stale_runs = [(run,) for run in runs if run not in used]
        return items[::-1], bad

    def known_corrections(self) -> tuple[list[tuple[int, float]], int]:
        """Return number and age in seconds of every correction, oldest first, and the greatest number ever given."""
        with corruption_noticed():
            runs = dict(self.connection.execute("SELECT run, opened_wall_s FROM runs"))
            stored = self.connection.execute("SELECT seq, run, since_s FROM corrections ORDER BY seq DESC").fetchall()
            given = self.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'corrections'").fetchone()
        oldest_s, kept = 0.0, list[tuple[int, float]]()
        for seq, run, since_s in stored:
            oldest_s = max(oldest_s, self._age_s(runs, run, since_s))
            kept.append((seq, oldest_s))
        return kept[::-1], int(given[0]) if given else 0

    def last_seq(self) -> int:
        """Return the greatest number of an item that is still there, or was noted."""
        queries = ("max(seq) FROM items", "max(seq) FROM quarantined", "count FROM counters WHERE name = 'last_seq'")
        with corruption_noticed():
            found = (self.connection.execute(f"SELECT {query}").fetchone() for query in queries)
            return max(int(row[0]) if row and row[0] else 0 for row in found)

    def run(self, statements: list[Statement]) -> None:
        """Run statements in one transaction; all of it is on the disk at the end, or nothing."""
        super().run(statements)
        self._run_written = self._run_written or any(sql is _NOTE_RUN for sql, _ in statements)

    def insert(self, rows: list[Row], now: float, wall_s: float) -> list[Statement]:
        """Return the statements that store items."""
        return self._insert("items", COLUMNS, rows, now, wall_s) if rows else []

    def insert_corrections(self, rows: list[CorrectionRow], now: float, wall_s: float) -> list[Statement]:
        """Return the statements that store corrections."""
        return self._insert("corrections", CORRECTION_COLUMNS, rows, now, wall_s) if rows else []

    def drop_corrections(self, before: int) -> Statement:
        """Return the statement that drops those with a number less than `before`."""
        return "DELETE FROM corrections WHERE seq < ?", (before,)

    def skip_numbers(self, seq: int) -> list[Statement]:
        """Return the statements after which nothing is given a number up to `seq`."""
        insert = (
            "INSERT INTO sqlite_sequence SELECT 'corrections', ?"
            " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'corrections')"
        )
        delete = "DELETE FROM sqlite_sequence WHERE name = 'corrections' AND seq < ?"
        return [self.note_last_seq(seq), (delete, (seq,)), (insert, (seq,))]

    def note_last_seq(self, seq: int) -> Statement:
        """Return the statement after which no item is given a number up to `seq`, even when none is left."""
        query = (
            "INSERT INTO counters VALUES ('last_seq', ?)"
            " ON CONFLICT (name) DO UPDATE SET count = max(count, excluded.count)"
        )
        return query, (seq,)

    def corrections(self, after: int, limit: int) -> list[CorrectionRow]:
        """Return the first corrections with greater numbers than `after`."""
        with corruption_noticed():
            query = f"SELECT {CORRECTION_COLUMNS} FROM corrections WHERE seq > ? ORDER BY seq LIMIT ?"
            return self.connection.execute(query, (after, limit)).fetchall()

    def delete(self, seqs: Iterable[int]) -> list[Statement]:
        """Return the statements that drop items."""
        wanted = sorted(seqs)
        if not wanted:
            return []
        values: tuple[int, int] | tuple[str]
        if wanted[-1] - wanted[0] == len(wanted) - 1:
            where, values = "seq BETWEEN ? AND ?", (wanted[0], wanted[-1])  # one walk
        else:
            where, values = "seq IN (SELECT value FROM json_each(?))", (json.dumps(wanted),)
        return [(f"DELETE FROM {table} WHERE {where}", values) for table in self._delete_from]

    def set_attempts(self, counts: dict[int, int]) -> list[Statement]:
        """Return the statements that store how often items have failed."""
        if counts:
            self._delete_from = ("items", "attempts")
        return [("INSERT OR REPLACE INTO attempts VALUES (?, ?)", pair) for pair in counts.items()]

    def count(self, counts: Counter[str]) -> list[Statement]:
        """Return the statements that add to the counters that outlive a restart."""
        query = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count"
        return [(query, pair) for pair in counts.items()]

    def counters(self) -> Counter[str]:
        """Return the counters."""
        with corruption_noticed():
            return Counter(dict(self.connection.execute("SELECT name, count FROM counters")))

    def name(self, seq: int) -> tuple[str, str]:
        """Return the device and id of an item; empty when it is not there."""
        with corruption_noticed():
            row = self.connection.execute("SELECT device, id FROM items WHERE seq = ?", (seq,)).fetchone()
        return (_text(row[0]), _text(row[1])) if row else ("", "")

    def rows(self, seqs: list[int]) -> dict[int, Row]:
        """Return stored items by number; those that are not there are missing."""
        with corruption_noticed():
            if seqs and max(seqs) - min(seqs) < 2 * len(seqs):  # one walk instead of a search each
                found = self.connection.execute(
                    f"SELECT {COLUMNS} FROM items WHERE seq BETWEEN ? AND ?",
                    (min(seqs), max(seqs)),
                )
                return {row[0]: row for row in found}
            query = f"SELECT {COLUMNS} FROM items WHERE seq IN (SELECT value FROM json_each(?))"
            return {row[0]: row for row in self.connection.execute(query, (json.dumps(seqs),))}

    def stored(self, after: int, limit: int) -> list[Row]:
        """Return the first items with greater numbers than `after` that are no escalations."""
        with corruption_noticed():
            query = f"SELECT {COLUMNS} FROM items WHERE seq > ? AND kind != 0 ORDER BY seq LIMIT ?"
            return self.connection.execute(query, (after, limit)).fetchall()

    def quarantine(self, seqs: list[int]) -> None:
        """Set rows aside as they are, and count them."""
        columns = COLUMNS.removeprefix("seq, ")
        with self.transaction():
            for seq in seqs:
                self.connection.execute(
                    f"INSERT OR REPLACE INTO quarantined (seq, wall_s, {columns})"
                    f" SELECT seq, ?, {columns} FROM items WHERE seq = ?",
                    (self._wall_s, seq),
                )
            self._trim_quarantine()
            for statement in self.delete(seqs) + self.count(Counter({"quarantined": len(seqs)})):
                self.connection.execute(*statement)

    def quarantine_corrections(self, seqs: list[int]) -> None:
        """Set corrections aside as they are, with their numbers negative, and count them."""
        with self.transaction():
            for seq in seqs:
                self.connection.execute(
                    "INSERT OR REPLACE INTO quarantined (seq, wall_s, created_s, checksum, device, id, provisional,"
                    " payload) SELECT -seq, ?, created_s, checksum, device, id, provisional, answer FROM corrections"
                    " WHERE seq = ?",
                    (self._wall_s, seq),
                )
                self.connection.execute("DELETE FROM corrections WHERE seq = ?", (seq,))
            self._trim_quarantine()
            for statement in self.count(Counter({"quarantined": len(seqs)})):
                self.connection.execute(*statement)

    def quarantined(self) -> list[tuple[Any, ...]]:
        """Return the rows set aside, as they are."""
        with corruption_noticed():
            return self.connection.execute(f"SELECT {COLUMNS} FROM quarantined ORDER BY seq").fetchall()

    def drop_old_quarantined(self, before_wall_s: float) -> None:
        """Delete the rows set aside before a time of day."""
        with self.transaction():
            self.connection.execute("DELETE FROM quarantined WHERE wall_s < ?", (before_wall_s,))

    def corrections_of(self, devices: Iterable[str]) -> set[int]:
        """Return the numbers of the corrections of some devices."""
        query = "SELECT seq FROM corrections WHERE CAST(device AS TEXT) IN (SELECT value FROM json_each(?))"
        with corruption_noticed():
            return {seq for (seq,) in self.connection.execute(query, (json.dumps(sorted(devices)),))}

    def forget(self, devices: Iterable[str], deleted: Callable[[], None] = lambda: None) -> tuple[int, int, int]:
        """Delete everything of some devices; return how many items, corrections and quarantined rows.

        What was deleted is overwritten, here and where earlier deletions left it in the file. `deleted`: see
        `File.delete_for_good`.
        """
        self.run([self.note_last_seq(self.last_seq())])
        tables = dict.fromkeys(("items", "corrections", "quarantined"), "device")
        items, corrections, quarantined = self.delete_for_good(tables, devices, deleted)
        self.run([("DELETE FROM attempts WHERE seq NOT IN (SELECT seq FROM items)", ())])
        return items, corrections, quarantined

    def drop_quarantined(self) -> int:
        """Delete the rows set aside; return how many there were."""
        with self.transaction():
            return self.connection.execute("DELETE FROM quarantined").rowcount

    def _insert(
        self, table: str, columns: str, rows: Sequence[tuple[Any, ...]], now: float, wall_s: float
    ) -> list[Statement]:
        statements = self._note_run(now, wall_s)
        ours, start = (self._run, self._ages.stamp(now)), 0
        for size in ROWS_AT_ONCE:
            while start + size <= len(rows):
                values = [row + ours for row in rows[start : start + size]]
                sql = _insertion(table, columns, len(values[0]), size)
                statements.append((sql, tuple(chain.from_iterable(values))))
                start += size
        return statements

    def _note_run(self, now: float, wall_s: float) -> list[Statement]:
        """Return the statements that write this run down, unless it has been."""
        if not self._ages.jumped(now, wall_s) and self._run_written:
            return []
        self._run_written = False
        return [
            (_NOTE_RUN, (self._run, self._ages.opened_wall_s)),
            *(("DELETE FROM runs WHERE run = ?", stale) for stale in self._stale_runs),
        ]

    def _age_s(self, runs: dict[int, float], run: int, since_s: object) -> float:
        return age_s(runs[run], since_s, self._wall_s) if isinstance(since_s, float) and run in runs else 0.0

    def _trim_quarantine(self) -> None:
        self.connection.execute(
            "DELETE FROM quarantined WHERE seq NOT IN"
            " (SELECT seq FROM quarantined ORDER BY wall_s DESC, seq DESC LIMIT ?)",
            (KEPT_QUARANTINED,),
        )


@cache
def _insertion(table: str, columns: str, width: int, rows: int) -> str:
    marks = ", ".join([f"({', '.join('?' * width)})"] * rows)
    return f"INSERT INTO {table} ({columns}, run, since_s) VALUES {marks}"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
