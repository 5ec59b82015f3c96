"""When a failed call may be tried again, and after what pause. No clock, no I/O."""

from __future__ import annotations


class RetryBudget:
    """Tokens that first attempts earn and retries spend, so that retries never multiply the load on a peer in trouble.

    There are never more retries than `burst + ratio * first attempts`.

    Parameters
    ----------
    ratio:
        Tokens that one first attempt earns.
    burst:
        The most that are kept, and what is there at the start; 0 means: never try again.

    Examples
    --------
    >>> budget = RetryBudget(ratio=0.5, burst=1)
    >>> budget.spend(), budget.spend()
    (True, False)
    >>> budget.earn(), budget.spend()
    (None, False)
    >>> budget.earn(), budget.spend()
    (None, True)
    """

    def __init__(self, *, ratio: float, burst: int) -> None:
        self._ratio, self._burst = ratio, burst
        self.tokens = float(burst)

    def earn(self) -> None:
        """A first attempt is made."""
        if self.tokens < self._burst:
            self.tokens = min(self.tokens + self._ratio, self._burst)

    def spend(self) -> bool:
        """Whether a retry may be made; it is paid for when it may."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def jittered_s(pause_s: float, uniform: float) -> float:
    """Return a pause around `pause_s`, so that callers who failed together do not come back together.

    Parameters
    ----------
    uniform:
        A random number in [0, 1).

    Examples
    --------
    >>> jittered_s(0.02, uniform=0.0), jittered_s(0.02, uniform=0.5)
    (0.01, 0.02)
    """
    return pause_s * (0.5 + uniform)
