"""The outbox's work, done on its one thread: order in memory, items on the disk, and what to do when it fails.

Memory follows the disk: what cannot be written is taken back in memory too. The one exception is an
item that has arrived but cannot be deleted: it is not sent again by this process, and deleted as soon
as the disk allows.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.outbox.database import Database
from escalade.tiers.outbox.errors import CorruptError, OutboxError, OutboxFullError, explained
from escalade.tiers.outbox.item import ITEM_OVERHEAD_BYTES, PRIORITIES, RANKS, Item, Leased, from_row, to_row
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.order import Entry, Order, OutboxLimits
from escalade.tiers.outbox.salvage import finish, set_aside
from escalade.tiers.outbox.stats import Evicted, EvictionReason, OutboxStats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from escalade.tiers.outbox.sqlite_file import Synchronous


log = structlog.get_logger(__name__)

RETRY_S = 1.0
"""How long an outbox that cannot be opened is left alone."""
LOG_EVERY_S = 1.0
"""Evictions are logged once in so long, all of them, with the first few named."""
NAMED = 8


class Writer:
    """An outbox without its thread; see `store.Outbox` for the parameters and the promises."""

    def __init__(
        self,
        path: Path,
        limits: OutboxLimits,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        synchronous: Synchronous = "FULL",
    ) -> None:
        self.path, self._limits, self._clock, self._wall, self._synchronous = path, limits, clock, wall, synchronous
        self.evicted: list[Evicted] = []
        """What has been given up since this list was last emptied."""
        self.next_seq = 1
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._database: Database | None = None
        self._order = Order(limits)
        self._arrived: set[int] = set()
        """Not to be sent again, but not deleted yet."""
        self._attempts: dict[int, int] = {}
        """Not written yet."""
        self._counters: Counter[str] = Counter()
        self._refused = self._write_errors = 0
        self._trouble = ""
        self._retry_at = float("-inf")
        self._unlogged: list[Evicted] = []
        self._logged_at = float("-inf")
        self._publish()

    def open(self) -> Database:
        """Return the open file; open it first if it is time to try.

        Raises
        ------
        OutboxError
            It cannot be opened, or could not a moment ago.
        """
        if self._database is not None:
            return self._database
        now = self._clock()
        if now < self._retry_at:
            raise OutboxError(self._trouble)
        self._retry_at = now + RETRY_S
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            finish(self.path)
            if self._lock.used_before and self.path.exists() and not self.path.stat().st_size:
                set_aside(self.path, None, "the file is empty", wall_s=self._wall(), synchronous=self._synchronous)
            try:
                return self._load(now)
            except CorruptError as error:
                set_aside(self.path, None, str(error), wall_s=self._wall(), synchronous=self._synchronous)
                return self._load(now)
        except (OutboxError, OSError, sqlite3.Error, CorruptError) as error:
            raise self._in_trouble(error) from error

    def write(self, items: list[Item], done: list[int], failed: list[int]) -> list[int | OutboxError]:
        """Do all of it in one transaction; return each item's number, or why it was not kept."""
        for seq in done:
            if self._order.done(seq):
                self._arrived.add(seq)
                self._attempts.pop(seq, None)
        for seq in failed:
            if entry := self._order.failed(seq):
                self._attempts[seq] = entry.attempts
        try:
            return self._write(items)
        except OutboxError as error:
            return [error] * len(items)
        finally:
            self._publish()

    def take(self, count: int) -> list[Leased]:
        """Lease items, most urgent first; a row that is not what was stored is quarantined instead."""
        try:
            self.open()
            if self._order.expired(self._clock()):
                self._write([])
        except OutboxError:  # a disk that cannot be written may still be read
            if self._database is None:
                return []
        database = self.open()
        entries = self._order.take(count)
        try:
            return self._read(database, entries) if entries else []
        except (CorruptError, sqlite3.Error) as error:
            for entry in entries:
                self._order.failed(entry.seq, attempted=False)
            if isinstance(error, CorruptError):
                with suppress(OutboxError):
                    self._replace_damaged(database, error)
            else:
                self._in_trouble(error)
            return []
        finally:
            self._publish()

    def stats(self) -> OutboxStats:
        """Return the state after the last group; may be called on any thread."""
        depths, in_flight, size, since, counters, refused, write_errors, trouble = self._published
        names = ((name.split("."), count) for name, count in counters.items())
        return OutboxStats(
            depth=dict(zip(PRIORITIES, depths, strict=True)),
            in_flight=in_flight,
            bytes=size,
            oldest_age_s=0.0 if since is None else self._clock() - since,
            evictions={(parts[1], parts[2]): count for parts, count in names if parts[0] == "evicted"},
            quarantined=counters["quarantined"],
            corrupt_files=counters["corrupt_files"],
            refused=refused,
            write_errors=write_errors,
            trouble=trouble,
        )

    def close(self) -> None:
        """Write what is left to write, close the file, give up the lock."""
        if self._database is not None:
            if self._arrived or self._attempts:
                self.write([], [], [])
            self._log_evictions(float("inf"))
            if self._database is not None:
                self._database.close()
            self._database = None
        self._order = Order(self._limits)
        self._lock.release()

    def _load(self, now: float) -> Database:
        """Open the file and index it; a crash has put back whatever was in flight."""
        database = Database(self.path, now=now, wall_s=self._wall(), synchronous=self._synchronous)
        try:
            order = Order(self._limits)
            items, bad = database.known()
            if bad:
                log.error("outbox items are damaged; quarantined", file=str(self.path), items=bad)
                database.quarantine(bad)
            for known in items:
                if known.seq in self._arrived:
                    continue
                size = known.own_bytes + ITEM_OVERHEAD_BYTES
                device = known.device.decode(errors="replace")
                order.load(Entry(known.seq, known.rank, device, size, now - known.age_s, known.attempts))
            self.next_seq = max(self.next_seq, database.last_seq() + 1)
            self._counters = database.counters()
            database.checkpoint()
        except BaseException:
            database.close()
            raise
        order.lease_again(self._order)
        self._order, self._database = order, database
        if self._trouble:
            log.info("outbox works again", file=str(self.path))
            self._trouble = ""
        self._publish()
        if len(order):
            log.info("outbox holds items from before", file=str(self.path), items=len(order), bytes=order.bytes)
        return database

    def _write(self, items: list[Item], *, again: bool = True) -> list[int | OutboxError]:
        database = self.open()
        now, wall_s, order = self._clock(), self._wall(), self._order
        gone: list[tuple[Entry, EvictionReason]] = [(entry, "age") for entry in order.expire(now)]
        results: list[int | OutboxError] = []
        rows, added, refused = [], [], 0
        for item in items:
            entry = Entry(self.next_seq, RANKS[item.priority], item.device, item.size, now)
            try:
                gone += [(victim, "room") for victim in order.add(entry)]
            except OutboxFullError as error:
                results.append(error)
                refused += 1
                continue
            self.next_seq += 1
            added.append(entry)
            rows.append(to_row(entry.seq, item))
            results.append(entry.seq)
        if not (rows or gone or self._arrived or self._attempts):
            self._refused += refused
            return results
        counts = Counter(f"evicted.{reason}.{PRIORITIES[entry.rank]}" for entry, reason in gone)
        try:
            with database.transaction():
                database.insert(rows, now, wall_s)
                names = list(database.names(entry.seq for entry, _ in gone))
                if gone or self._arrived:
                    database.delete([*self._arrived, *(entry.seq for entry, _ in gone)])
                if self._attempts:
                    database.set_attempts(self._attempts)
                if counts:
                    database.count(counts)
        except (CorruptError, sqlite3.Error, OSError) as error:
            new = {entry.seq for entry in added}
            order.restore([entry for entry, _ in gone if entry.seq not in new])
            order.withdraw(added)
            if isinstance(error, CorruptError):
                self._replace_damaged(database, error)
                if again:
                    return self._write(items, again=False)
            self._write_errors += 1
            raise self._in_trouble(error) from error
        self._arrived.clear()
        self._attempts.clear()
        self._counters = self._counters + counts
        self._refused += refused
        if self._trouble:
            log.info("outbox works again", file=str(self.path))
            self._trouble = ""
        if gone:
            lost = zip(gone, names, strict=True)
            found = [Evicted(*name, reason, PRIORITIES[entry.rank]) for (entry, reason), name in lost]
            self.evicted += found
            self._unlogged += found
        self._log_evictions(now)
        return results

    def _read(self, database: Database, entries: list[Entry]) -> list[Leased]:
        now, leased, bad = self._clock(), list[Leased](), list[int]()
        rows = database.rows([entry.seq for entry in entries])
        for entry in entries:
            try:
                item = from_row(rows[entry.seq])
            except (KeyError, ValueError):
                bad.append(entry.seq)
                continue
            leased.append(Leased(entry.seq, item, entry.attempts, now - entry.since))
        if bad:
            log.error("outbox items are damaged; quarantined", file=str(self.path), items=bad)
            for seq in bad:
                self._order.done(seq)
            try:
                database.quarantine(bad)
            except sqlite3.Error as error:  # the next start finds them again
                self._in_trouble(error)
            self._counters = self._counters + Counter({"quarantined": len(bad)})
        return leased

    def _replace_damaged(self, database: Database, error: CorruptError) -> None:
        """Move a file aside that turned out to be damaged, and go on with what it still gives."""
        self._database = None
        try:
            set_aside(self.path, database, str(error), wall_s=self._wall(), synchronous=self._synchronous)
            self._load(self._clock())
        except (OutboxError, OSError, sqlite3.Error, CorruptError) as failure:
            database.close()
            raise self._in_trouble(failure) from failure

    def _in_trouble(self, error: Exception) -> OutboxError:
        """Say it once, and remember it."""
        if isinstance(error, (sqlite3.Error, OSError)):
            error = explained(error, self.path)
        elif not isinstance(error, OutboxError):
            error = OutboxError(f"outbox {self.path}: {error}")
        if str(error) != self._trouble:
            log.error("outbox cannot keep items", reason=str(error))
            self._trouble = str(error)
        self._publish()
        return error

    def _log_evictions(self, now: float) -> None:
        if self._unlogged and now - self._logged_at >= LOG_EVERY_S:
            counts = Counter(f"{item.reason} {item.priority}" for item in self._unlogged)
            first = [f"{item.device}/{item.id}" for item in self._unlogged[:NAMED]]
            log.warning("outbox gave items up", file=str(self.path), items=dict(counts), first=first)
            self._unlogged.clear()
            self._logged_at = now

    def _publish(self) -> None:
        order = self._order
        self._published = (
            order.depths(),
            order.in_flight,
            order.bytes,
            order.oldest_since(),
            self._counters,  # replaced, never changed
            self._refused,
            self._write_errors,
            self._trouble,
        )
