"""Which received items are remembered: the newest, within bounds. No clock, no I/O."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Set

Name = tuple[str, str]
"""Device and id."""


@dataclass(frozen=True)
class InboxLimits:
    """What an inbox remembers; whatever is over one of the limits is forgotten, the oldest first."""

    window_s: float = 24 * 3600.0
    max_items: int = 100_000
    """Each costs about 500 bytes of memory."""
    max_bytes: int = 256 * 1024 * 1024
    """Of answers, payloads, names and 128 bytes an item; the file takes up to twice as much."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_items < 1 or not self.window_s > 0:
            raise ValueError(f"every limit of an inbox must be positive: {self}")


class Remembered(NamedTuple):
    """What is known in memory about one item on the disk."""

    seq: int
    kind: int
    size: int
    since: float


class Victim(NamedTuple):
    """An item to be forgotten, and for what."""

    seq: int
    kind: int
    reason: Literal["age", "room"]


class Window:
    """The remembered items, oldest first."""

    def __init__(self, limits: InboxLimits) -> None:
        self.limits = limits
        self.bytes = 0
        self.kinds: Counter[int] = Counter()
        self.last_stored = 0
        """The greatest number of an item that is not an answer."""
        self._items: OrderedDict[Name, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def find(self, name: Name, now: float) -> Remembered | None:
        """Return what is known of an item; None when it is not in the window."""
        known = self._items.get(name)
        return known if known is not None and now - known.since < self.limits.window_s else None

    def since(self, name: Name, default: float) -> float:
        """Return when an item came, in the window or not."""
        known = self._items.get(name)
        return default if known is None else known.since

    def oldest_since(self) -> float | None:
        """Return when the oldest came; None when there is none."""
        return next((known.since for known in self._items.values()), None)

    def victims(self, count: int, size: int, now: float) -> list[Victim]:
        """Return what must be forgotten when so many items of so many bytes are added."""
        found: list[Victim] = []
        size_left = self.bytes
        for known in self._items.values():
            if now - known.since >= self.limits.window_s:
                reason: Literal["age", "room"] = "age"
            elif len(self) - len(found) + count > self.limits.max_items or size_left + size > self.limits.max_bytes:
                reason = "room"
            else:
                break
            found.append(Victim(known.seq, known.kind, reason))
            size_left -= known.size
        return found

    def add(self, name: Name, new: Remembered) -> None:
        """Append an item."""
        self._items[name] = new
        self.bytes += new.size
        self.kinds[new.kind] += 1
        if new.kind:
            self.last_stored = new.seq

    def forget_oldest(self, count: int) -> None:
        """Drop so many."""
        for _ in range(count):
            self._drop(self._items.popitem(last=False)[1])

    def of(self, devices: Set[str]) -> set[int]:
        """Return the numbers of what is remembered of some devices."""
        return {known.seq for (device, _), known in self._items.items() if device in devices}

    def forget(self, seqs: set[int]) -> None:
        """Drop some that are not there any more."""
        for name in [name for name, known in self._items.items() if known.seq in seqs]:
            self._drop(self._items.pop(name))

    def _drop(self, known: Remembered) -> None:
        self.bytes -= known.size
        self.kinds[known.kind] -= 1
