"""Which corrections are kept: at most so many, none too old, the oldest dropped first. No clock, no I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Set


class Ledger:
    """Numbers and ages of the corrections on the disk.

    Parameters
    ----------
    kept:
        Number and time of each, oldest first.
    last_seq:
        The greatest number ever given; never given again, even when nothing is left.
    """

    def __init__(
        self, max_count: int, max_age_s: float, kept: Iterable[tuple[int, float]] = (), last_seq: int = 0
    ) -> None:
        self.last_seq = last_seq
        self._max_count, self._max_age_s = max_count, max_age_s
        self._kept = deque(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def surplus(self, new: int, now: float) -> int:
        """Return how many of the oldest must go when so many are added."""
        count = 0
        for _, since in self._kept:
            if len(self) + new - count <= self._max_count and now - since <= self._max_age_s:
                break
            count += 1
        return max(count, len(self) + new - self._max_count)

    def first_kept(self, new: int, surplus: int) -> int:
        """Return the number of the first that stays when so many are added and so many go."""
        if surplus < len(self):
            return self._kept[surplus][0]
        return self.last_seq + 1 + surplus - len(self)

    def add(self, new: int, now: float, surplus: int) -> None:
        """Note what has been written: so many more, so many of the oldest gone."""
        self._kept.extend((self.last_seq + place, now) for place in range(1, new + 1))
        self.last_seq += new
        for _ in range(surplus):
            self._kept.popleft()

    def forget(self, seqs: Set[int]) -> None:
        """Drop some that are not there any more."""
        self._kept = deque(pair for pair in self._kept if pair[0] not in seqs)
