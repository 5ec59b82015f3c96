"""How a deadline is split between a tier, the tiers above it and the links to them. No clock, no I/O."""

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


def link_budget_s(left_s: float, *, others: bool) -> float:
    """Return how long one link may take of what is left for the tiers above, in seconds.

    Parameters
    ----------
    others:
        Whether another link can still be asked when this one gives no answer: then half is kept for it.

    Examples
    --------
    >>> link_budget_s(0.08, others=True), link_budget_s(0.08, others=False)
    (0.04, 0.08)
    """
    return left_s / 2 if others else left_s
