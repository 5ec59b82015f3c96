"""How a tier recognises what was sent to it twice. No clock, no I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Set

V = TypeVar("V")


class Seen(NamedTuple, Generic[V]):
    """What is known about a repeated item: its answer, or None while the first is still being worked on."""

    answer: V | None


class DedupWindow(Generic[V]):
    """Remembers which (device, id) were accepted and what was answered, within a window.

    An outbox sends at least once: after a lost answer or a crash it sends again. The receiver claims
    each item before it acts; a repeat within the window gets the first one's answer and has no effect.

    The window: a repeat is recognised for certain as long as less than `window_s` seconds passed since the
    claim *and* fewer than `max_items` other items were claimed since. It lives in memory: a receiver
    that restarts recognises nothing from before. So choose `window_s` longer than a sender may take
    between two attempts, and make effects that must survive a restart idempotent themselves.

    Examples
    --------
    >>> window = DedupWindow[str](window_s=60.0, max_items=1000)
    >>> window.claim("cam-1", "7", now=0.0)  # new: act on it
    >>> window.claim("cam-1", "7", now=0.1)  # again, while the first is at work
    Seen(answer=None)
    >>> window.answered("cam-1", "7", "cat")
    >>> window.claim("cam-1", "7", now=30.0)
    Seen(answer='cat')
    >>> window.claim("cam-1", "7", now=60.0)  # the window is over
    """

    def __init__(self, *, window_s: float = 3600.0, max_items: int = 100_000) -> None:
        if window_s <= 0 or max_items < 1:
            raise ValueError(f"a window needs window_s > 0 and max_items >= 1, not {window_s} and {max_items}")
        self._window_s, self._max_items = window_s, max_items
        self._claims: OrderedDict[tuple[str, str], tuple[float, V | None]] = OrderedDict()
        self._now = float("-inf")

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, device: str, id: str, now: float) -> Seen[V] | None:  # noqa: A002  # the wire's word
        """Return None for a new item, now claimed, else what is known about it. A `now` never runs back."""
        self._now = max(now, self._now)
        while self._claims and self._now - next(iter(self._claims.values()))[0] >= self._window_s:
            self._claims.popitem(last=False)
        if (known := self._claims.get((device, id))) is not None:
            return Seen(known[1])
        if len(self._claims) >= self._max_items:
            self._claims.popitem(last=False)
        self._claims[device, id] = (self._now, None)
        return None

    def answered(self, device: str, id: str, answer: V) -> None:  # noqa: A002
        """Keep the answer for repeats; nothing happens when the claim has left the window meanwhile."""
        if (known := self._claims.get((device, id))) is not None:
            self._claims[device, id] = (known[0], answer)

    def forget(self, devices: Set[str]) -> None:
        """Forget what came from some devices; what is being worked on too."""
        for name in [name for name in self._claims if name[0] in devices]:
            del self._claims[name]

    def release(self, device: str, id: str) -> None:  # noqa: A002
        """Forget a claim that came to nothing, so that the next attempt is taken as new."""
        self._claims.pop((device, id), None)
