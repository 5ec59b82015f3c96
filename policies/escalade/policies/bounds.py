"""Exact binomial tails and what follows from them: confidence bounds, p-values of a risk, rows needed.

Numpy and math only. The tests compare every function with scipy.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp, inf, lgamma, log, log1p
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEGLIGIBLE = 1e-18
POWER = 0.8
"""With which `rows_needed` counts on seeing what is there."""
_MOST_ROWS = 10_000_000
_VANISHING = 50.0


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) of a binomial variable of `n` trials with probability `p`.

    Parameters
    ----------
    k
        Any whole number: 0 below 0, 1 from `n` on.
    n
        Trials, 0 or more.
    p
        In [0, 1].

    Raises
    ------
    ValueError
        If `n` or `p` is out of range.

    Notes
    -----
    The terms are summed away from `k` on the side of the shorter tail, each from the one before it; the
    relative error is some 1e-12 for a thousand trials and 1e-8 for a million.

    Examples
    --------
    >>> round(binomial_cdf(0, 10, 0.1), 6), round(binomial_cdf(3, 10, 0.5), 6)
    (0.348678, 0.171875)
    """
    _checked(n, p)
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if p == 0.0 or p == 1.0:
        return 1.0 - p
    if k > n * p:
        return max(0.0, 1.0 - _upper_sum(k + 1, n, p))
    term = total = _pmf(k, n, p)
    odds = (1.0 - p) / p
    while k > 0 and term > _NEGLIGIBLE * total:
        term *= k / (n - k + 1) * odds
        total += term
        k -= 1
    return min(total, 1.0)


def binomial_sf(k: int, n: int, p: float) -> float:
    """Return P(X >= k), the upper tail with `k` itself; parameters and errors as in `binomial_cdf`.

    Examples
    --------
    >>> round(binomial_sf(10, 10, 0.5), 6)
    0.000977
    """
    _checked(n, p)
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    if p == 0.0 or p == 1.0:
        return p
    return min(_upper_sum(k, n, p), 1.0) if k > n * p else max(0.0, 1.0 - binomial_cdf(k - 1, n, p))


def upper_bound(k: int, n: int, delta: float) -> float:
    """Return the Clopper-Pearson upper bound of a probability: it is exceeded with probability `delta` at most.

    Parameters
    ----------
    k, n
        Events seen, of so many trials; ``0 <= k <= n``, ``n >= 1``.
    delta
        In (0, 1).

    Notes
    -----
    Clopper and Pearson (1934): the p at which `k` events or fewer have probability `delta`. Found by
    bisection to the last bits, rounded up.

    Examples
    --------
    >>> round(upper_bound(0, 100, 0.05), 5)                     # 1 - 0.05 ** (1 / 100)
    0.02951
    """
    _counted(k, n, delta)
    if k == n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if binomial_cdf(k, n, middle) <= delta else (middle, high)
    return high


def lower_bound(k: int, n: int, delta: float) -> float:
    """Return the Clopper-Pearson lower bound of a probability; as `upper_bound`.

    Examples
    --------
    >>> lower_bound(0, 10, 0.05), round(lower_bound(100, 100, 0.05), 5)
    (0.0, 0.97049)
    """
    return 1.0 - upper_bound(n - k, n, delta)


def interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Clopper-Pearson interval: it holds the probability in `confidence` of the cases or more.

    Examples
    --------
    >>> [round(end, 4) for end in interval(90, 100)]
    [0.8238, 0.951]
    """
    tail = (1.0 - confidence) / 2
    return lower_bound(k, n, tail), upper_bound(k, n, tail)


def hoeffding_bentkus_p_value(mean: float, n: int, alpha: float) -> float:
    """Return a p-value for "the expected loss is above alpha", for losses anywhere in [0, 1].

    Parameters
    ----------
    mean
        Of the `n` losses, in [0, 1].
    n
        Independent losses, 1 or more.
    alpha
        In (0, 1).

    Notes
    -----
    The smaller of Hoeffding's ``exp(-n KL(mean, alpha))`` and Bentkus's ``e P(Bin(n, alpha) <= ceil(n mean))``:
    Bates et al. (2021), "Distribution-free, risk-controlling prediction sets", section 3.1. For losses of 0
    and 1 `binomial_cdf` itself is a p-value, and e times smaller.

    Examples
    --------
    >>> round(hoeffding_bentkus_p_value(0.01, 1000, 0.02), 4), round(binomial_cdf(10, 1000, 0.02), 4)
    (0.0278, 0.0102)
    """
    _checked(n, alpha)
    if n < 1 or not 0.0 <= mean <= 1.0 or not 0.0 < alpha < 1.0:
        raise ValueError(f"the mean must be in [0, 1], n at least 1, alpha in (0, 1), got {mean}, {n}, {alpha}")
    if mean >= alpha:
        return 1.0
    divergence = (mean * log(mean / alpha) if mean else 0.0) + (1 - mean) * (log1p(-mean) - log1p(-alpha))
    events = ceil(n * mean - 1e-9)
    return min(1.0, exp(-n * divergence), exp(1.0) * binomial_cdf(events, n, alpha))


@lru_cache(maxsize=4096)
def most_events(n: int, alpha: float, delta: float) -> int:
    """Return the largest k with ``P(Bin(n, alpha) <= k) <= delta``; -1 where even none is too many.

    So many events in `n` rows still show, at level `delta`, that their probability is at most `alpha`.

    Examples
    --------
    >>> most_events(230, 0.01, 0.1), most_events(229, 0.01, 0.1)
    (0, -1)
    """
    _checked(n, alpha)
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, n, alpha) <= delta else (low, middle)
    return low


def rows_needed(risk: float, alpha: float, delta: float) -> float:
    """Return about how many rows show that an event of probability `risk` is one of at most `alpha`.

    So many that the exact test at level `delta` shows it in 80 % of the cases, rounded up to two digits.

    ``inf`` where the risk is not below alpha, or more than ten million rows would be needed.

    Examples
    --------
    >>> rows_needed(0.0, 0.01, 0.1), rows_needed(0.008, 0.01, 0.1), rows_needed(0.02, 0.01, 0.1)
    (230.0, 11000.0, inf)
    """
    if risk >= alpha:
        return inf

    def enough(n: int) -> bool:
        events = most_events(n, alpha, delta)
        return events >= 0 and binomial_cdf(events, n, risk) >= POWER

    high = ceil(log(delta) / log1p(-alpha))
    if enough(high):
        return float(high)
    low = high
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return inf
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    step = 10 ** max(0, len(str(high)) - 2)
    return float(-(-high // step) * step)


@lru_cache(maxsize=4096)
def most_net_events(n: int, won: int, alpha: float, delta: float) -> int:
    """Return the largest difference that still shows, at level `delta`, a net loss of at most `alpha`.

    Each of `n` independent rows counts +1 (lost), -1 (won) or 0. Of these, `won` count -1.

    Parameters
    ----------
    n
        Rows.
    won
        Rows that count -1.
    alpha
        In (0, 1): the net loss, ``P(+1) - P(-1)``.
    delta
        In (0, 1).

    Returns
    -------
    int
        The largest ``(rows that count +1) - (rows that count -1)``; below ``-won`` if there is none.

    Notes
    -----
    The exact unconditional test of a difference, with the nuisance parameter ``P(-1)`` confined as in Berger
    and Boos (1994): the p-value is the largest of ``P(difference <= seen)`` over ``P(-1)`` up to its
    Clopper-Pearson upper bound at ``delta / 20``, plus ``delta / 20``. The largest is taken over 12 values
    of ``P(-1)``; between them the tail is smooth.
    """
    slack = delta / 20
    passing = np.flatnonzero(_net_tail(n, won, alpha, slack, 12) + slack <= delta)
    return int(passing[-1]) - n if len(passing) else -n - 1


def net_p_value(n: int, lost: int, won: int, alpha: float, delta: float) -> float:
    """Return the p-value of "the net loss is above alpha" that `most_net_events` compares with `delta`.

    Parameters
    ----------
    n
        Rows, of which `lost` count +1 and `won` count -1.

    Examples
    --------
    >>> round(net_p_value(1000, 30, 20, 0.03, 0.1), 4), round(net_p_value(1000, 10, 0, 0.03, 0.1), 4)
    (0.0288, 0.0056)
    """
    slack = delta / 20
    return min(1.0, float(_net_tail(n, won, alpha, slack, 12)[lost - won + n]) + slack)


def net_upper_bound(n: int, lost: int, won: int, delta: float) -> float:
    """Return an upper bound of the net loss: the alpha at which its p-value is `delta`, to four digits.

    Examples
    --------
    >>> round(net_upper_bound(1000, 30, 20, 0.1), 3)
    0.023
    """
    slack = delta / 20
    low, high = (lost - won) / n, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        shown = middle > 0.0 and float(_net_tail(n, won, middle, slack, 6)[lost - won + n]) + slack <= delta
        low, high = (low, middle) if shown else (middle, high)
    return high


@lru_cache(maxsize=64)
def _net_tail(n: int, won: int, alpha: float, slack: float, points: int) -> NDArray[np.float64]:
    """Return the largest P(difference <= d), d = -n ... n, over what P(-1) can be, at the given net loss."""
    highest = min(upper_bound(won, n, slack), (1.0 - alpha) / 2)
    tail = np.zeros(2 * n + 1)
    for minus in np.linspace(0.0, highest, points).tolist():
        np.maximum(tail, _difference_cdf(n, alpha + minus, minus), out=tail)
    return tail


def _difference_cdf(n: int, plus: float, minus: float) -> NDArray[np.float64]:
    """Return P(difference <= d) for d = -n ... n, of `n` rows that are +1 and -1 with these probabilities.

    By its characteristic function at more points than it has values, which determines it.
    """
    points = 1 << (2 * n).bit_length()
    angle = 2.0 * np.pi * np.arange(points // 2 + 1) / points
    one = 1.0 - plus - minus + plus * np.exp(-1j * angle) + minus * np.exp(1j * angle)
    counts = np.abs(one) > exp(-_VANISHING / n)  # elsewhere its n-th power is 0 to the last bit of the sum
    transform = np.zeros_like(one)
    transform[counts] = one[counts] ** n
    mass = np.fft.irfft(transform, points)  # a negative value d stands at points + d
    mass = np.concatenate([mass[points - n :], mass[: n + 1]])
    cdf: NDArray[np.float64] = np.clip(np.cumsum(np.maximum(mass, 0.0)), 0.0, 1.0)
    return cdf


def _pmf(k: int, n: int, p: float) -> float:
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))


def _upper_sum(k: int, n: int, p: float) -> float:
    """Sum the tail from `k` up, for `k` above the mean."""
    term = total = _pmf(k, n, p)
    odds = p / (1.0 - p)
    while k < n and term > _NEGLIGIBLE * total:
        term *= (n - k) / (k + 1) * odds
        total += term
        k += 1
    return total


def _checked(n: int, p: float) -> None:
    if n < 0 or not 0.0 <= p <= 1.0:
        raise ValueError(f"n must be 0 or more and p in [0, 1], got {n} and {p}")


def _counted(k: int, n: int, delta: float) -> None:
    if n < 1 or not 0 <= k <= n or not 0.0 < delta < 1.0:
        raise ValueError(f"k must be 0 to n, n at least 1 and delta in (0, 1), got {k}, {n} and {delta}")
