"""How far each node's clock is off, from when its reports were sent and when they came. No clock, no I/O."""

from __future__ import annotations

from collections import deque

SAMPLES, KEPT_S = 64, 120.0
"""The estimate rests on so many reports, none older than this."""


class Skew:
    """The offset of one node's clock: what has to be added to its times to get the aggregator's.

    A report that was sent at `s` by the node's clock and came at `a` by ours says that the offset is
    ``a - s`` less the time that it travelled, which is never negative. So the least of the recent
    differences is nearest to the truth: it is too large by the shortest recent travel time, and by nothing
    else. (The minimum filter of NTP: Mills, 1991, "Internet time synchronization".)

    A clock that is set back shows at the latest when `SAMPLES` reports have come or `KEPT_S` have
    passed, one that is set forward at once.

    Examples
    --------
    >>> skew = Skew()
    >>> for sent_s, came_s in ((10.0, 12.03), (11.0, 13.01), (12.0, 14.5)):  # 2 s behind; 10 to 500 ms on the way
    ...     skew.saw(sent_s, came_s)
    >>> round(skew.offset_s, 3)
    2.01
    """

    __slots__ = ("_samples", "offset_s")

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self.offset_s = 0.0
        """0 until something was seen."""

    def known(self, now: float) -> bool:
        """Whether the estimate rests on something recent."""
        return bool(self._samples) and now - self._samples[-1][0] <= KEPT_S

    def saw(self, sent_s: float, now: float) -> None:
        """Take note of one report."""
        samples = self._samples
        samples.append((now, now - sent_s))
        while now - samples[0][0] > KEPT_S:
            samples.popleft()
        self.offset_s = min(difference for _, difference in samples)
