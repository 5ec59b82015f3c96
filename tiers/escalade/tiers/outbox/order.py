"""Which item is sent next, and which is given up when room is short. No clock, no I/O.

**Order.** The most urgent priority first; within a priority, first come, first served. Items of one
device and one priority (a *lane*) are sent in the order they were put: while some of a lane are in
flight, none that came later is taken. A failed item goes back to its place.

**Eviction.** An item that is put when `max_bytes` or `max_items` is reached makes room by evicting the
oldest waiting item of the lowest priority, and so on upward, but never one that is more urgent than
itself, and never one in flight; if that is not enough it is refused, and nothing is evicted. An item
older than `max_age_s` is evicted whatever its priority, unless it is in flight.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from escalade.tiers.outbox.errors import OutboxFullError
from escalade.tiers.outbox.item import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

RANKS = range(len(PRIORITIES))


@dataclass(frozen=True)
class OutboxLimits:
    """What bounds an outbox; items in flight count."""

    max_bytes: int = 256 * 1024 * 1024
    """Of payloads, names and 128 bytes an item; the files take up to twice as much."""
    max_items: int = 100_000
    """Each costs about 500 bytes of memory."""
    max_age_s: float = 7 * 24 * 3600.0
    max_corrections: int = 10_000
    """Kept for subscribers, beside the items; at most `max_age_s` old, too."""

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_items, self.max_corrections) < 1 or not self.max_age_s > 0:
            raise ValueError(f"every limit of an outbox must be positive: {self}")


class Entry:
    """What is known in memory about one kept item.

    Parameters
    ----------
    since:
        When it was put, on the clock that `now` is of.
    """

    __slots__ = ("attempts", "device", "evicted", "lane", "leased", "rank", "seq", "since", "size")
    lane: _Lane

    def __init__(self, seq: int, rank: int, device: str, size: int, since: float, attempts: int = 0) -> None:
        self.seq, self.rank, self.device, self.size, self.since = seq, rank, device, size, since
        self.attempts = attempts
        self.leased = self.evicted = False


class _Lane:
    """The waiting items of one device and priority."""

    __slots__ = ("key", "leased", "returned", "waiting")

    def __init__(self, key: tuple[int, str]) -> None:
        self.key = key
        self.waiting: deque[Entry] = deque()
        """In order; evicted ones are dropped when they come to the front."""
        self.leased = 0
        self.returned: list[Entry] = []
        """Failed, while others of the lane are still in flight."""

    def front(self) -> Entry | None:
        """Return the next to be taken."""
        waiting = self.waiting
        while waiting:
            if not waiting[0].evicted:
                return waiting[0]
            waiting.popleft()
        return None


class Order:
    """The entries of all kept items, in order."""

    def __init__(self, limits: OutboxLimits) -> None:
        self.limits = limits
        self.bytes = self.count = 0
        self._entries: tuple[OrderedDict[int, Entry], ...] = tuple(OrderedDict() for _ in RANKS)
        self._waiting_bytes = [0 for _ in RANKS]
        self._waiting_count = [0 for _ in RANKS]
        self._lanes: dict[tuple[int, str], _Lane] = {}
        self._heads: tuple[list[int], ...] = tuple([] for _ in RANKS)
        """Fronts of lanes that may be taken from; some are stale, see `_ready`."""

    def __len__(self) -> int:
        return self.count

    @property
    def in_flight(self) -> int:
        """How many are leased."""
        return self.count - sum(self._waiting_count)

    def depths(self) -> tuple[int, ...]:
        """Return how many items of each priority are kept."""
        return tuple(map(len, self._entries))

    def oldest_since(self) -> float | None:
        """Return when the oldest item was put; None when there is none."""
        return min((next(iter(entries.values())).since for entries in self._entries if entries), default=None)

    def find(self, seq: int) -> Entry | None:
        """Return a kept item's entry."""
        for entries in self._entries:
            if seq in entries:
                return entries[seq]
        return None

    def add(self, entry: Entry) -> list[Entry]:
        """Append an entry, later than all others; return those evicted for it.

        Raises
        ------
        OutboxFullError
            Not enough room may be made; nothing has changed.
        """
        limits = self.limits
        fits = self.bytes + entry.size <= limits.max_bytes and self.count < limits.max_items
        victims = [] if fits else self._make_room(entry)
        self.load(entry)
        return victims

    def load(self, entry: Entry) -> None:
        """Append an entry that is kept already, whatever the limits."""
        self._insert(entry)
        lane = self._lane(entry)
        lane.waiting.append(entry)
        if len(lane.waiting) == 1 and not lane.leased:
            heappush(self._heads[entry.rank], entry.seq)

    def lease_again(self, before: Order) -> None:
        """Lease what was in flight in an earlier index of the same items."""
        for old in (entry for entries in before._entries for entry in entries.values() if entry.leased):
            if (entry := self.find(old.seq)) is not None and not entry.leased:
                entry.lane.waiting.remove(entry)
                entry.lane.leased += 1
                entry.leased = True
                self._count(entry, -1)

    def take(self, count: int) -> list[Entry]:
        """Lease up to `count` entries, most urgent first."""
        taken: list[Entry] = []
        opened: set[_Lane] = set()
        for rank in RANKS:
            heads = self._heads[rank]
            while heads and len(taken) < count:
                entry = self._entries[rank].get(heads[0])
                if entry is None or not self._ready(entry, opened):
                    heappop(heads)
                    continue
                lane = entry.lane
                opened.add(lane)
                lane.waiting.popleft()
                entry.leased = True
                lane.leased += 1
                self._count(entry, -1)
                taken.append(entry)
                if (front := lane.front()) is not None:
                    heapreplace(heads, front.seq)
                else:
                    heappop(heads)
        return taken

    def done(self, seq: int) -> Entry | None:
        """Drop an item in flight: it has arrived. None when it is not in flight."""
        entry = self.find(seq)
        if entry is None or not entry.leased:
            return None
        del self._entries[entry.rank][seq]
        self.bytes -= entry.size
        self.count -= 1
        self._settle(entry)
        return entry

    def failed(self, seq: int, *, attempted: bool = True) -> Entry | None:
        """Put an item in flight back to its place, in order. None when it is not in flight."""
        entry = self.find(seq)
        if entry is None or not entry.leased:
            return None
        entry.leased = False
        entry.attempts += attempted
        self._count(entry, 1)
        entry.lane.returned.append(entry)
        self._settle(entry)
        return entry

    def expire(self, now: float) -> list[Entry]:
        """Evict what is too old and not in flight."""
        victims = self.expired(now)
        for entry in victims:
            self._remove(entry)
        return victims

    def expired(self, now: float) -> list[Entry]:
        """Return what is too old and not in flight."""
        victims: list[Entry] = []
        for rank in RANKS:
            for entry in self._entries[rank].values():
                if now - entry.since <= self.limits.max_age_s:
                    break
                if not entry.leased:
                    victims.append(entry)
        return victims

    def forget(self, devices: Set[str]) -> None:
        """Drop everything of some devices, in flight or not."""
        for entries in self._entries:
            for entry in [entry for entry in entries.values() if entry.device in devices]:
                if entry.leased:
                    self.done(entry.seq)
                else:
                    self._remove(entry)

    def withdraw(self, entries: Iterable[Entry]) -> None:
        """Undo `add`: the items could not be written."""
        for entry in entries:
            if entry.seq in self._entries[entry.rank]:
                self._remove(entry)

    def restore(self, victims: list[Entry]) -> None:
        """Undo evictions that could not be written: the items are where they were."""
        for rank in RANKS:
            back = [entry for entry in victims if entry.rank == rank]
            if not back:
                continue
            entries, last = self._entries[rank], max(entry.seq for entry in back)
            for entry in entries.values():  # whoever is older than a victim was in flight, or it would be one
                if entry.seq > last:
                    break
                back.append(entry)
            for entry in sorted(back, key=lambda entry: entry.seq, reverse=True):
                if entry.seq not in entries:
                    self._insert(entry)
                    lane = self._lane(entry)
                    entry.evicted = False
                    if entry not in lane.waiting and entry not in lane.returned:
                        lane.returned.append(entry)
                entries.move_to_end(entry.seq, last=False)
            for lane in {entry.lane for entry in back}:
                self._reopen(lane)

    def _make_room(self, entry: Entry) -> list[Entry]:
        limits = self.limits
        bytes_over = self.bytes + entry.size - limits.max_bytes
        count_over = self.count + 1 - limits.max_items
        ranks = RANKS[entry.rank :]
        if bytes_over > sum(self._waiting_bytes[r] for r in ranks) or count_over > sum(
            self._waiting_count[r] for r in ranks
        ):
            raise OutboxFullError(
                f"the outbox holds {len(self)} items of {self.bytes} bytes (max_items {limits.max_items}, max_bytes "
                f"{limits.max_bytes}), and none that may be evicted for {entry.size} bytes of {PRIORITIES[entry.rank]}"
            )
        victims: list[Entry] = []
        for rank in reversed(ranks):
            for candidate in self._entries[rank].values():
                if bytes_over <= 0 and count_over <= 0:
                    break
                if not candidate.leased:
                    victims.append(candidate)
                    bytes_over -= candidate.size
                    count_over -= 1
        for victim in victims:
            self._remove(victim)
        return victims

    def _ready(self, entry: Entry, opened: set[_Lane]) -> bool:
        """Whether an entry is its lane's front and may be taken; if not, it is a stale head."""
        lane = entry.lane
        return (not lane.leased or lane in opened) and lane.front() is entry

    def _lane(self, entry: Entry) -> _Lane:
        key = (entry.rank, entry.device)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        entry.lane = lane
        return lane

    def _settle(self, entry: Entry) -> None:
        entry.lane.leased -= 1
        self._reopen(entry.lane)

    def _reopen(self, lane: _Lane) -> None:
        """Let a lane be taken from again, with what came back in its place; forget an empty one."""
        if lane.leased:
            return
        if lane.returned:
            lane.waiting.extendleft(sorted(lane.returned, key=lambda entry: entry.seq, reverse=True))
            lane.returned.clear()
        front = lane.front()
        if front is None:
            self._lanes.pop(lane.key, None)
            return
        heads = self._heads[lane.key[0]]
        heappush(heads, front.seq)
        if len(heads) > 64 + 4 * len(self._lanes):  # mostly stale: keep what is true
            lanes = (lane for (rank, _), lane in self._lanes.items() if rank == front.rank)
            heads[:] = [front.seq for front in map(_Lane.front, lanes) if front is not None]
            heapify(heads)

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.rank][entry.seq] = entry
        self.bytes += entry.size
        self.count += 1
        self._count(entry, 1)

    def _remove(self, entry: Entry) -> None:
        """Evict a waiting entry; its place in the lane is dropped when it comes to the front."""
        del self._entries[entry.rank][entry.seq]
        entry.evicted = True
        self.bytes -= entry.size
        self.count -= 1
        self._count(entry, -1)
        self._reopen(entry.lane)

    def _count(self, entry: Entry, sign: int) -> None:
        self._waiting_count[entry.rank] += sign
        self._waiting_bytes[entry.rank] += sign * entry.size
