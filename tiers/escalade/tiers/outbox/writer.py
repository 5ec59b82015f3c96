"""The outbox's work, done on its one thread: order in memory, items on the disk, and what to do when it fails.

Memory follows the disk: what cannot be written is taken back in memory too. The one exception is an
item that is settled but cannot be deleted: it is not sent again by this process. Its deletion, its
correction and its count are owed, and written together as soon as the disk allows; if the process ends
before that, the item is still there, is sent again, and the tier above knows it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.outbox import correction
from escalade.tiers.outbox.batch import Batch, Written
from escalade.tiers.outbox.correction import Correction, Delivered
from escalade.tiers.outbox.errors import CorruptError, OutboxError, OutboxFullError
from escalade.tiers.outbox.file import OUTBOX
from escalade.tiers.outbox.item import ITEM_OVERHEAD_BYTES, PRIORITIES, RANKS, Item, Leased, from_row, to_row
from escalade.tiers.outbox.keeper import Keeper
from escalade.tiers.outbox.ledger import Ledger
from escalade.tiers.outbox.order import Entry, Order, OutboxLimits
from escalade.tiers.outbox.sealing import UNSEALED, open_correction, open_item, seal_corrections, seal_item
from escalade.tiers.outbox.stats import Evicted, EvictionReason, OutboxStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set
    from pathlib import Path

    from escalade.tiers.outbox.database import Database
    from escalade.tiers.outbox.file import Synchronous
    from escalade.tiers.outbox.item import Row
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)

LOG_EVERY_S = 1.0
"""Evictions are logged once in so long, all of them, with the first few named."""
NAMED = 8


class Writer(Keeper):
    """An outbox without its thread; see `store.Outbox` for the parameters and the promises."""

    def __init__(
        self,
        path: Path,
        limits: OutboxLimits,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        synchronous: Synchronous = "FULL",
        seal: Seal = UNSEALED,
    ) -> None:
        super().__init__(OUTBOX, path, limits.max_age_s, clock=clock, wall=wall, synchronous=synchronous, seal=seal)
        self._limits = limits
        self.evicted: list[Evicted] = []
        """What has been given up since this list was last emptied."""
        self.recorded: list[Correction] = []
        """Corrections that have reached the disk since this list was last emptied."""
        self.next_seq = 1
        self._order = Order(limits)
        self._ledger = Ledger(limits.max_corrections, limits.max_age_s)
        self._out: dict[int, tuple[Leased, float]] = {}
        """What is leased, and since when each is kept."""
        self._settled: set[int] = set()
        """Not to be sent again, but not deleted yet."""
        self._owed: list[Correction] = []
        """Of settled items; they get their numbers when they are written."""
        self._given_up: list[Evicted] = []
        """Settled, not counted yet."""
        self._attempts: dict[int, int] = {}
        """Not written yet."""
        self._refused = 0
        self._unlogged: list[Evicted] = []
        self._logged_at = float("-inf")
        self.publish()

    def settle(self, batch: Batch) -> list[slice]:
        """Take what is settled out, in memory; return where the corrections of each `delivered` are among those owed.

        `write` is to follow; what is taken in between is in order.
        """
        for seq in batch.done:
            self._settle(seq)
        for seqs, reason in batch.given_up:
            gone = filter(None, map(self._settle, seqs))
            self._given_up += [Evicted(one.item.device, one.item.id, reason, one.item.priority) for one, _ in gone]
        for seq in batch.failed:
            if self._out.pop(seq, None) and (entry := self._order.failed(seq)):
                self._attempts[seq] = entry.attempts
        return [self._owe(delivered) for delivered in batch.delivered]

    def write(self, puts: list[Item], places: list[slice]) -> Written:
        """Write what was put and what was settled, in one transaction."""
        recorded = len(self.recorded)
        try:
            numbers = self._write(puts)
            return Written(numbers, [self.recorded[recorded:][place] for place in places])
        except OutboxError as error:
            failed = [error if place.start < place.stop else list[Correction]() for place in places]
            return Written([error] * len(puts), failed)

    def put_back(self, seqs: Sequence[int]) -> None:
        """Put leased items back to their places, untried."""
        for seq in seqs:
            if self._out.pop(seq, None):
                self._order.failed(seq, attempted=False)
        self.publish()

    def clean_up(self) -> bool:
        """Evict what is too old, and write what is owed, if there is any; whether items may be taken."""
        try:
            database, now = self.open(), self._clock()
            self._sweep(database, now)
            if self._owing() or self._order.expired(now) or self._ledger.surplus(0, now):
                self._write([])
        except OutboxError:  # a disk that cannot be written may still be read
            pass
        return self._database is not None

    def has_expired(self) -> bool:
        """Whether there are items that must be evicted before others are taken."""
        return bool(self._order.expired(self._clock()))

    def take(self, count: int) -> list[Leased]:
        """Lease items, most urgent first; a row that is not what was stored is quarantined instead."""
        if self._database is None:
            return []
        database, entries = self._database, self._order.take(count)
        try:
            return self._read(database, entries) if entries else []
        except (CorruptError, sqlite3.Error) as error:
            for entry in entries:
                self._out.pop(entry.seq, None)
                self._order.failed(entry.seq, attempted=False)
            if isinstance(error, CorruptError):
                with suppress(OutboxError):
                    self._replace_damaged(database, error)
            else:
                self._in_trouble(error)
            return []

    def corrections(self, after: int, limit: int) -> list[Correction]:
        """Return up to `limit` corrections with numbers greater than `after`; damaged ones are quarantined.

        Raises
        ------
        OutboxError
            They cannot be read now.
        """
        database = self.open()
        with self._reading(database):
            while after < self._ledger.last_seq and (rows := database.corrections(after, limit)):
                found, bad = list[Correction](), list[int]()
                for row in rows:
                    try:
                        found.append(open_correction(self._seal, correction.from_row(row)))
                    except ValueError:
                        bad.append(row[0])
                if bad:
                    self._set_aside_corrections(database, bad)
                if found:
                    return found
                after = rows[-1][0]
        return []

    def stats(self) -> OutboxStats:
        """Return the state after the last group; may be called on any thread."""
        depths, in_flight, size, since, corrections, last, counters, refused, write_errors, trouble = self._published
        names = ((name.split("."), count) for name, count in counters.items())
        return OutboxStats(
            depth=dict(zip(PRIORITIES, depths, strict=True)),
            in_flight=in_flight,
            bytes=size,
            oldest_age_s=0.0 if since is None else self._clock() - since,
            evictions={(parts[1], parts[2]): count for parts, count in names if parts[0] == "evicted"},
            corrections=corrections,
            last_correction=last,
            corrections_dropped=counters["corrections_dropped"],
            quarantined=counters["quarantined"],
            corrupt_files=counters["corrupt_files"],
            refused=refused,
            write_errors=write_errors,
            trouble=trouble,
        )

    def close(self) -> None:
        """Write what is left to write, close the file, give up the lock."""
        if self._database is not None:
            if self._owing():
                self.write([], [])
            self._log_evictions(float("inf"))
        super().close()
        self._order = Order(self._limits)
        self._out.clear()

    def _settle(self, seq: int) -> tuple[Leased, float] | None:
        """Take a leased item out for good; None when it is not leased."""
        out = self._out.pop(seq, None)
        if out is not None:
            self._order.done(seq)  # may have been lost with a damaged file meanwhile
            self._settled.add(seq)
            if self._attempts:
                self._attempts.pop(seq, None)
        return out

    def _owe(self, delivered: Sequence[Delivered]) -> slice:
        """Settle delivered items; return the places of their corrections among those owed."""
        start, wall_s, now = len(self._owed), self._wall(), self._clock()
        for seq, answer in delivered:
            if (out := self._settle(seq)) is not None and answer:
                item, delay_s = out[0].item, max(0.0, now - out[1])
                self._owed.append(Correction(0, item.device, item.id, item.provisional, answer, wall_s, delay_s))
        return slice(start, len(self._owed))

    def _owing(self) -> bool:
        return bool(self._settled or self._attempts)

    def _deleted(self, devices: Set[str], corrections: Set[int]) -> None:
        """What is in flight has no correction."""
        self._order.forget(devices)
        self._ledger.forget(corrections)
        self._out = {seq: out for seq, out in self._out.items() if out[0].item.device not in devices}
        self._owed = [one for one in self._owed if one.device not in devices]

    def _index(self, database: Database, now: float) -> None:
        """Order what the file holds; a crash has put back whatever was in flight."""
        order, limits = Order(self._limits), self._limits
        items, bad = database.known()
        if bad:
            log.error("outbox items are damaged; quarantined", file=str(self.path), items=bad)
            database.quarantine(bad)
        for known in items:
            if known.seq in self._settled:
                continue
            size = known.own_bytes + ITEM_OVERHEAD_BYTES
            device = known.device.decode(errors="replace")
            order.load(Entry(known.seq, known.rank, device, size, now - known.age_s, known.attempts))
        self.next_seq = max(self.next_seq, database.last_seq() + 1)
        corrections, last_seq = database.known_corrections()
        aged = ((seq, now - age_s) for seq, age_s in corrections)
        self._ledger = Ledger(limits.max_corrections, limits.max_age_s, aged, max(last_seq, self._ledger.last_seq))
        order.lease_again(self._order)
        self._order = order
        if len(order):
            log.info("outbox holds items from before", file=str(self.path), items=len(order), bytes=order.bytes)

    def _write(self, items: list[Item], *, again: bool = True) -> list[int | OutboxError]:
        database = self.open()
        now, wall_s, order = self._clock(), self._wall(), self._order
        gone: list[tuple[Entry, EvictionReason]] = [(entry, "age") for entry in order.expire(now)]
        results: list[int | OutboxError] = []
        rows, added, refused = [], [], 0
        for plain in items:
            item = seal_item(self._seal, self.next_seq, plain)
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
        ledger, owed = self._ledger, self._owed
        surplus = ledger.surplus(len(owed), now)
        if not (rows or gone or surplus or self._owing()):
            self._refused += refused
            return results
        owed = [one._replace(seq=seq) for seq, one in enumerate(owed, ledger.last_seq + 1)]
        counts: Counter[str] = Counter({"corrections_dropped": surplus} if surplus else {})
        counts.update(f"evicted.{reason}.{PRIORITIES[entry.rank]}" for entry, reason in gone)
        counts.update(f"evicted.{one.reason}.{one.priority}" for one in self._given_up)
        statements = database.insert(rows, now, wall_s)
        statements += database.delete([*self._settled, *(entry.seq for entry, _ in gone)])
        statements += database.insert_corrections(seal_corrections(self._seal, owed), now, wall_s)
        if surplus:
            statements.append(database.drop_corrections(ledger.first_kept(len(owed), surplus)))
        statements += database.set_attempts({seq: n for seq, n in self._attempts.items() if order.find(seq)})
        statements += database.count(counts)
        try:
            names = self._names(database, gone, rows)
            database.run(statements)
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
        ledger.add(len(owed), now, surplus)
        self.recorded += owed
        self._settled.clear()
        self._owed.clear()
        self._attempts.clear()
        if counts:
            self._counters = self._counters + counts
        self._refused += refused
        self._well()
        if gone or self._given_up:
            lost = zip(gone, names, strict=True)
            found = [Evicted(*name, reason, PRIORITIES[entry.rank]) for (entry, reason), name in lost]
            found += self._given_up
            self._given_up.clear()
            self.evicted += found
            self._unlogged += found
        self._log_evictions(now)
        return results

    def _names(
        self, database: Database, gone: list[tuple[Entry, EvictionReason]], new: list[Row]
    ) -> list[tuple[str, str]]:
        """Return device and id of evicted items; some may be of those that are about to be written."""
        if not gone:
            return []
        unwritten = {row[0]: (row[5].decode(), row[6].decode()) for row in new}
        return [unwritten.get(entry.seq) or database.name(entry.seq) for entry, _ in gone]

    def _read(self, database: Database, entries: list[Entry]) -> list[Leased]:
        now, leased, bad = self._clock(), list[Leased](), list[int]()
        rows = database.rows([entry.seq for entry in entries])
        for entry in entries:
            try:
                item = open_item(self._seal, entry.seq, from_row(rows[entry.seq]))
            except (KeyError, ValueError):
                bad.append(entry.seq)
                continue
            leased.append(Leased(entry.seq, item, entry.attempts, now - entry.since))
            self._out[entry.seq] = leased[-1], entry.since
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

    def _set_aside_corrections(self, database: Database, bad: list[int]) -> None:
        log.error("outbox corrections are damaged; quarantined", file=str(self.path), corrections=bad)
        try:
            database.quarantine_corrections(bad)
        except sqlite3.Error as error:  # found again at the next reading
            self._in_trouble(error)
            return
        self._ledger.forget(set(bad))
        self._counters = self._counters + Counter({"quarantined": len(bad)})
        self.publish()

    def _log_evictions(self, now: float) -> None:
        if self._unlogged and now - self._logged_at >= LOG_EVERY_S:
            counts = Counter(f"{item.reason} {item.priority}" for item in self._unlogged)
            first = [f"{item.device}/{item.id}" for item in self._unlogged[:NAMED]]
            log.warning("outbox gave items up", file=str(self.path), items=dict(counts), first=first)
            self._unlogged.clear()
            self._logged_at = now

    def publish(self) -> None:
        """Make the state visible to `stats`."""
        order = self._order
        self._published = (
            order.depths(),
            order.in_flight,
            order.bytes,
            order.oldest_since(),
            len(self._ledger),
            self._ledger.last_seq,
            self._counters,  # replaced, never changed
            self._refused,
            self._write_errors,
            self._trouble,
        )
