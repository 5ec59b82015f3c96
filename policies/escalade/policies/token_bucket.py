"""A cap that holds over any window: `TokenBucket`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENTRIES = ("debt", "since")


class TokenBucket:
    """Allows a cost while what was spent lately, less what was earned back since, stays within a burst.

    It keeps a debt: ``debt(t) = max(0, debt - rate * (t - since))``; a cost passes when ``debt(t) + cost <=
    burst``, and is then added. So in any window of length ``T``, wherever it begins,

        spent <= burst + rate * T,

    for the debt is never below 0 when a window begins and never above `burst` after a cost that passed. This
    is the leaky bucket as a meter (Turner 1986). Time that runs backwards earns nothing.

    Parameters
    ----------
    rate
        What is earned in a unit of time, in units of cost; above 0.
    burst
        The most that may be spent at once; a single cost above it never passes.

    Notes
    -----
    It holds to the rounding of float64: each cost adds an error below ``burst * 2e-16``.

    Examples
    --------
    >>> bucket = TokenBucket(rate=1.0, burst=2.0)
    >>> bucket.spend(0.0, 1.0), bucket.spend(0.0, 1.0), bucket.passes(0.5, 1.0), bucket.passes(1.0, 1.0)
    (True, True, False, True)
    """

    __slots__ = ("burst", "debt", "rate", "since")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.debt = self.since = 0.0

    def debt_at(self, time: float) -> float:
        """Return what is not yet earned back."""
        if time <= self.since:
            return self.debt
        left = self.debt - self.rate * (time - self.since)
        return left if left > 0.0 else 0.0

    def passes(self, time: float, cost: float) -> bool:
        """Whether a cost may be spent at that time."""
        return self.debt_at(time) + cost <= self.burst

    def charge(self, time: float, cost: float) -> None:
        """Note that a cost was spent."""
        self.debt = self.debt_at(time) + cost
        if time > self.since:
            self.since = time

    def spend(self, time: float, cost: float) -> bool:
        """Spend a cost if it passes, and say whether it did."""
        if not self.passes(time, cost):
            return False
        self.charge(time, cost)
        return True

    def refused(self, times: Sequence[float], costs: Sequence[float], wanted: Sequence[bool]) -> list[bool]:
        """Return where a cost would not pass, spending in order those that are wanted and do; it is not changed."""
        trial = TokenBucket(self.rate, self.burst)
        trial.debt, trial.since = self.debt, self.since
        return [
            not (trial.spend(time, cost) if wants else trial.passes(time, cost))
            for time, cost, wants in zip(times, costs, wanted, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the debt and the time of it."""
        return {name: getattr(self, name) for name in _ENTRIES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a debt; ValueError if the state is not one."""
        if sorted(state) != sorted(_ENTRIES):
            raise ValueError(f"a budget's state has the entries {', '.join(_ENTRIES)}, got {sorted(state)}")
        values = {name: float(state[name]) for name in _ENTRIES}
        if not (0.0 <= values["debt"] < float("inf") and abs(values["since"]) < float("inf")):
            raise ValueError(f"a budget's debt must be 0 or more and its time finite, got {values}")
        self.debt, self.since = values["debt"], values["since"]
