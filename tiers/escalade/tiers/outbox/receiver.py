"""The inbox's work, done on its one thread: the window in memory, answers and stored items on the disk."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import structlog

from escalade.tiers.outbox.dedup import DedupWindow, Seen
from escalade.tiers.outbox.errors import CorruptError, OutboxError, OutboxFullError
from escalade.tiers.outbox.file import INBOX
from escalade.tiers.outbox.item import ITEM_OVERHEAD_BYTES, KINDS, Item, from_row, to_row
from escalade.tiers.outbox.keeper import Keeper
from escalade.tiers.outbox.sealing import UNSEALED, open_item, seal_item
from escalade.tiers.outbox.stats import InboxStats
from escalade.tiers.outbox.window import InboxLimits, Name, Remembered, Victim, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set
    from pathlib import Path

    from escalade.tiers.outbox.database import Database
    from escalade.tiers.outbox.file import Statement, Synchronous
    from escalade.tiers.outbox.item import Row
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)


class Stored(NamedTuple):
    """A result or telemetry that was received."""

    seq: int
    """Greater than that of all received before."""
    item: Item
    age_s: float
    """How long ago it came."""


class Receiver(Keeper):
    """An inbox without its thread; see `inbox.Inbox` for the parameters and the promises."""

    def __init__(
        self,
        path: Path,
        limits: InboxLimits,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        synchronous: Synchronous = "FULL",
        seal: Seal = UNSEALED,
    ) -> None:
        super().__init__(INBOX, path, limits.window_s, clock=clock, wall=wall, synchronous=synchronous, seal=seal)
        self._limits = limits
        self._window = Window(limits)
        self._at_work = DedupWindow[None](window_s=limits.window_s, max_items=limits.max_items)
        self._next_seq = 1
        self.publish()

    def keep(self, calls: list[Sequence[Item]]) -> list[list[bool] | OutboxError]:
        """Store the new items of every call, in as few transactions as the limits allow.

        Returns for each item whether it was new, or why the call's are not stored.
        """
        limits = self._limits
        results: list[list[bool] | OutboxError] = []
        group: list[Sequence[Item]] = []
        count = size = 0
        for items in calls:
            call_size = sum(item.size for item in items)
            if group and (count + len(items) > limits.max_items or size + call_size > limits.max_bytes):
                results += self._keep(group)
                group, count, size = [], 0, 0
            if len(items) > limits.max_items or call_size > limits.max_bytes:
                results.append(OutboxFullError(f"inbox {self.path}: {len(items)} items of {call_size} bytes; {limits}"))
                continue
            group.append(items)
            count, size = count + len(items), size + call_size
        return results + self._keep(group)

    def expire(self) -> None:
        """Delete what has left the window.

        Raises
        ------
        OutboxError
            It cannot be deleted now.
        """
        database, now = self.open(), self._clock()
        self._sweep(database, now)
        if victims := self._window.victims(0, 0, now):
            statements, counts = self._dropping(database, victims, self._next_seq - 1)
            with self._reading(database):
                database.run(statements)
            self._window.forget_oldest(len(victims))
            self._counters = self._counters + counts

    def claim(self, name: Name) -> Seen[bytes] | None:
        """Return None for a new item, now claimed, else what is known about it.

        Raises
        ------
        OutboxError
            The file cannot be read.
        """
        database, now = self.open(), self._clock()
        known = self._window.find(name, now)
        if known is not None:
            with self._reading(database):
                found = self._sound(database, [*database.rows([known.seq]).values()])
            if found:
                return Seen(found[0][1].payload if known.kind == 0 else b"")
            self._window.forget({known.seq})
        return self._at_work.claim(*name, now)  # type: ignore[return-value]  # no answer

    def release(self, name: Name) -> None:
        """Forget a claim that has no answer."""
        self._at_work.release(*name)

    def read(self, after: int, limit: int) -> list[Stored]:
        """Return up to `limit` stored items with numbers greater than `after`; damaged ones are quarantined."""
        database, now = self.open(), self._clock()
        with self._reading(database):
            while after < self._window.last_stored and (rows := database.stored(after, limit)):
                if found := self._sound(database, rows):
                    since = self._window.since
                    return [Stored(seq, item, now - since((item.device, item.id), now)) for seq, item in found]
                after = rows[-1][0]
        return []

    def stats(self) -> InboxStats:
        """Return the state after the last group; may be called on any thread."""
        kinds, at_work, size, since, last_stored, counters, write_errors, trouble = self._published
        names = ((name.split("."), count) for name, count in counters.items())
        return InboxStats(
            items={kind: kinds[number] for number, kind in enumerate(KINDS)},
            at_work=at_work,
            bytes=size,
            oldest_age_s=0.0 if since is None else self._clock() - since,
            last_stored=last_stored,
            dropped={(parts[1], parts[2]): count for parts, count in names if parts[0] == "dropped"},
            quarantined=counters["quarantined"],
            corrupt_files=counters["corrupt_files"],
            write_errors=write_errors,
            trouble=trouble,
        )

    def _deleted(self, devices: Set[str], corrections: Set[int]) -> None:
        """What is claimed stays so until it is answered."""
        del corrections  # an inbox has none
        self._window.forget(self._window.of(devices))

    def _index(self, database: Database, now: float) -> None:
        window = Window(self._limits)
        items, bad = database.known()
        if bad:
            log.error("inbox items are damaged; quarantined", file=str(self.path), items=bad)
            database.quarantine(bad)
        for known in items:
            name = known.device.decode(errors="replace"), known.id.decode(errors="replace")
            size = known.own_bytes + ITEM_OVERHEAD_BYTES
            window.add(name, Remembered(known.seq, known.kind, size, now - known.age_s))
        self._next_seq = max(self._next_seq, database.last_seq() + 1)
        self._window = window

    def _keep(self, calls: list[Sequence[Item]], *, again: bool = True) -> list[list[bool] | OutboxError]:
        try:
            database = self.open()
        except OutboxError as error:
            return [error] * len(calls)
        now, wall_s, window = self._clock(), self._wall(), self._window
        new: dict[Name, Item] = {}
        results: list[list[bool] | OutboxError] = []
        for items in calls:
            was_new = list[bool]()
            for item in items:
                name = item.device, item.id
                was_new.append(name not in new and window.find(name, now) is None)
                if was_new[-1]:
                    new[name] = item
            results.append(was_new)
        if not new:
            return results
        new = {name: seal_item(self._seal, seq, item) for seq, (name, item) in enumerate(new.items(), self._next_seq)}
        rows = [to_row(seq, item) for seq, item in enumerate(new.values(), self._next_seq)]
        victims = window.victims(len(new), sum(item.size for item in new.values()), now)
        statements, counts = self._dropping(database, victims, rows[-1][0])
        statements = database.insert(rows, now, wall_s) + statements
        try:
            database.run(statements)
        except (CorruptError, sqlite3.Error, OSError) as error:
            return self._refused(database, error, calls, again)
        window.forget_oldest(len(victims))
        for row, (name, item) in zip(rows, new.items(), strict=True):
            window.add(name, Remembered(row[0], row[2], item.size, now))
        self._next_seq += len(rows)
        self._counters = self._counters + counts
        self._well()
        return results

    def _dropping(
        self, database: Database, victims: list[Victim], last_seq: int
    ) -> tuple[list[Statement], Counter[str]]:
        """Return the statements that delete items, and the counts they add to; `last_seq` is given to none again."""
        if not victims:
            return [], Counter()
        counts = Counter(f"dropped.{victim.reason}.{KINDS[victim.kind]}" for victim in victims)
        statements = database.delete(victim.seq for victim in victims)
        return [*statements, database.note_last_seq(last_seq), *database.count(counts)], counts

    def _refused(
        self, database: Database, error: Exception, calls: list[Sequence[Item]], again: bool
    ) -> list[list[bool] | OutboxError]:
        try:
            if isinstance(error, CorruptError):
                self._replace_damaged(database, error)
                if again:
                    return self._keep(calls, again=False)
            self._write_errors += 1
            raise self._in_trouble(error)
        except OutboxError as explained:
            return [explained] * len(calls)

    def _sound(self, database: Database, rows: Sequence[Row]) -> list[tuple[int, Item]]:
        """Return the items of rows; what is not what was stored is quarantined and forgotten."""
        found, bad = list[tuple[int, Item]](), list[int]()
        for row in rows:
            try:
                found.append((row[0], open_item(self._seal, row[0], from_row(row))))
            except ValueError:
                bad.append(row[0])
        if bad:
            log.error("inbox items are damaged; quarantined", file=str(self.path), items=bad)
            self._window.forget(set(bad))
            try:
                database.quarantine(bad)
            except sqlite3.Error as error:  # the next start finds them again
                self._in_trouble(error)
            self._counters = self._counters + Counter({"quarantined": len(bad)})
        return found

    def publish(self) -> None:
        """Make the state visible to `stats`."""
        window = self._window
        self._published = (
            window.kinds.copy(),
            len(self._at_work),
            window.bytes,
            window.oldest_since(),
            window.last_stored,
            self._counters,
            self._write_errors,
            self._trouble,
        )
