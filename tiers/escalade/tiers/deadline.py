"""How a deadline is split between a tier and the tiers above it. No clock, no I/O."""

from __future__ import annotations


def upstream_budget_s(remaining_s: float, reserve_s: float, timeout_s: float) -> float:
    """Return how long the tier above may take, in seconds; zero or less means: do not ask.

    Parameters
    ----------
    remaining_s:
        What is left of the request's deadline.
    reserve_s:
        What this tier keeps back to give its own answer in time. At most a quarter of what is left is
        kept, so that a short deadline is shared rather than eaten.
    timeout_s:
        The most that the tier waits for the one above, whatever the deadline.

    Examples
    --------
    >>> upstream_budget_s(remaining_s=0.100, reserve_s=0.010, timeout_s=1.0)
    0.09
    >>> upstream_budget_s(remaining_s=0.020, reserve_s=0.010, timeout_s=1.0)
    0.015
    >>> upstream_budget_s(remaining_s=-0.001, reserve_s=0.010, timeout_s=1.0) <= 0
    True
    """
    return min(remaining_s - min(reserve_s, remaining_s / 4), timeout_s)
