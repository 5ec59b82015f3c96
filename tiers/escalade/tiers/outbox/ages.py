"""How old a kept item is, when clocks jump and devices restart. No clock, no I/O."""

from __future__ import annotations

CLOCK_SET_S = 1_577_836_800.0
"""2020-01-01: a time of day before it is a board's clock that was never set, and tells nothing."""

JUMP_S = 60.0
"""A time of day further than this from where it should be has jumped, or the machine slept."""


class Ages:
    """Stamps items in seconds since the outbox was opened, and remembers which time of day that was.

    While the process runs, ages come from the monotonic clock, so that no jump of the time of day makes
    an item older or younger. Only the time between two runs is taken from the time of day: as the
    difference of two stamps, never less than zero, and zero where a clock was not set. When the time of
    day jumps, the opening's is corrected, so that a clock that is set late, after the start, makes
    nothing old.

    Examples
    --------
    >>> ages = Ages(now=100.0, wall_s=0.0)  # a board starts in 1970
    >>> ages.jumped(now=160.0, wall_s=60.0)
    False
    >>> ages.jumped(now=170.0, wall_s=1_800_000_070.0), ages.opened_wall_s  # and is told the time
    (True, 1800000000.0)
    >>> age_s(ages.opened_wall_s, since_s=ages.stamp(now=170.0), wall_s=1_800_003_670.0)
    3600.0
    """

    def __init__(self, now: float, wall_s: float) -> None:
        self.opened_wall_s = wall_s
        self._opened = now

    def stamp(self, now: float) -> float:
        """Return what to store with an item."""
        return now - self._opened

    def jumped(self, now: float, wall_s: float) -> bool:
        """Whether the time of day has jumped since it was last asked; the opening's is then corrected."""
        opened = wall_s - (now - self._opened)
        if abs(opened - self.opened_wall_s) <= JUMP_S:
            return False
        self.opened_wall_s = opened
        return True


def age_s(opened_wall_s: float, since_s: float, wall_s: float) -> float:
    """Return the age of an item of an earlier run, stamped `since_s` after that run began."""
    stamp = opened_wall_s + since_s
    if not stamp >= CLOCK_SET_S or not wall_s >= CLOCK_SET_S:  # not: NaN too
        return 0.0
    return max(0.0, wall_s - stamp)
