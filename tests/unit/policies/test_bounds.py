"""Exact binomial tails and bounds, compared with scipy."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped, unused-ignore]

from escalade.policies.bounds import (
    binomial_cdf,
    binomial_sf,
    hoeffding_bentkus_p_value,
    interval,
    lower_bound,
    most_events,
    most_net_events,
    net_p_value,
    net_upper_bound,
    rows_needed,
    upper_bound,
)

probabilities = st.floats(1e-6, 1 - 1e-6)


@given(n=st.integers(0, 5000), share=st.floats(-0.1, 1.1), p=probabilities)
def test_tails_are_those_of_scipy(n: int, share: float, p: float) -> None:
    """Both tails agree with scipy's to nine digits, far out too."""
    k = round(n * share)
    assert binomial_cdf(k, n, p) == pytest.approx(float(stats.binom.cdf(k, n, p)), rel=1e-9, abs=1e-15)
    assert binomial_sf(k, n, p) == pytest.approx(float(stats.binom.sf(k - 1, n, p)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("k", "p"), [(0, 1e-6), (19_700, 0.02), (20_000, 0.02), (20_400, 0.02), (999_999, 0.999)])
def test_tails_of_a_million_trials(k: int, p: float) -> None:
    """A million trials cost seven digits at most."""
    assert binomial_cdf(k, 1_000_000, p) == pytest.approx(float(stats.binom.cdf(k, 1_000_000, p)), rel=1e-7, abs=1e-15)


@given(n=st.integers(1, 3000), share=st.floats(0, 1), delta=st.floats(0.001, 0.5))
def test_bounds_are_clopper_pearson(n: int, share: float, delta: float) -> None:
    """Upper and lower bound are the beta quantiles of Clopper and Pearson."""
    k = round(n * share)
    high = 1.0 if k == n else float(stats.beta.ppf(1 - delta, k + 1, n - k))
    low = 0.0 if k == 0 else float(stats.beta.ppf(delta, k, n - k + 1))
    assert upper_bound(k, n, delta) == pytest.approx(high, rel=1e-8, abs=1e-11)
    assert lower_bound(k, n, delta) == pytest.approx(low, rel=1e-8, abs=1e-11)
    assert interval(k, n, 1 - 2 * delta) == pytest.approx((low, high), rel=1e-8, abs=1e-11)


@given(n=st.integers(1, 2000), alpha=st.floats(0.001, 0.5), delta=st.floats(0.01, 0.3))
def test_most_events_is_the_edge_of_the_test(n: int, alpha: float, delta: float) -> None:
    """So many events pass at level delta, and one more does not."""
    edge = most_events(n, alpha, delta)
    assert edge == -1 or stats.binom.cdf(edge, n, alpha) <= delta * (1 + 1e-9)
    assert stats.binom.cdf(edge + 1, n, alpha) > delta * (1 - 1e-9)


@pytest.mark.parametrize("n", [50, 400, 3000])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_hoeffding_bentkus_p_value_is_valid(n: int, alpha: float) -> None:
    """Of losses with mean alpha it falls below 0.1 in no more than a tenth of the cases, exactly counted."""
    low = [k for k in range(n + 1) if hoeffding_bentkus_p_value(k / n, n, alpha) <= 0.1]
    assert low == list(range(len(low)))
    assert not low or binomial_cdf(low[-1], n, alpha) <= 0.1
    assert hoeffding_bentkus_p_value(alpha, n, alpha) == 1.0


def test_the_hoeffding_bentkus_p_value_follows_its_formula() -> None:
    """It is the smaller of Hoeffding's and Bentkus's bounds."""
    hoeffding = np.exp(-200 * (0.05 * np.log(0.05 / 0.1) + 0.95 * np.log(0.95 / 0.9)))
    bentkus = np.e * stats.binom.cdf(10, 200, 0.1)
    assert hoeffding_bentkus_p_value(0.05, 200, 0.1) == pytest.approx(min(hoeffding, bentkus))


@pytest.mark.parametrize(("n", "alpha"), [(100, 0.05), (300, 0.02), (300, 0.05)])
@pytest.mark.parametrize("won_share", [0.0, 0.01, 0.05, 0.2, 0.4])
def test_the_net_test_errs_seldom_enough(n: int, alpha: float, won_share: float) -> None:
    """With a net loss of exactly alpha, it passes in no more than delta of all outcomes, summed exactly."""
    delta, plus = 0.1, alpha + won_share
    wrong = 0.0
    for won in range(n + 1):
        chance = float(stats.binom.pmf(won, n, won_share))
        if chance > 1e-9:
            most_lost = most_net_events(n, won, alpha, delta) + won
            wrong += chance * float(stats.binom.cdf(most_lost, n - won, min(1.0, plus / (1 - won_share))))
    assert wrong <= delta


def test_the_net_p_value_and_bound_agree_with_the_test() -> None:
    """At the edge the p-value is within delta and the bound about alpha; one more loss passes neither."""
    n, won, alpha, delta = 2000, 30, 0.02, 0.1
    edge = most_net_events(n, won, alpha, delta)
    assert net_p_value(n, won + edge, won, alpha, delta) <= delta < net_p_value(n, won + edge + 1, won, alpha, delta)
    assert alpha - 0.001 < net_upper_bound(n, won + edge, won, delta) <= alpha + 1e-4
    assert net_upper_bound(n, won + edge + 2, won, delta) > alpha


def test_a_tie_of_losses_and_wins_bounds_the_net_loss_better_than_the_losses_alone() -> None:
    """Wins count: 40 losses beside 40 wins show a smaller net loss than 40 losses alone show a loss."""
    assert net_upper_bound(2000, 40, 40, 0.1) < upper_bound(40, 2000, 0.1)


@pytest.mark.parametrize(("risk", "alpha"), [(0.0, 0.01), (0.005, 0.01), (0.01, 0.02), (0.04, 0.05)])
def test_so_many_rows_are_needed(risk: float, alpha: float) -> None:
    """With the rows it names the test passes in 80 % of the cases, with a third less it does not."""
    n = rows_needed(risk, alpha, 0.1)

    def power(rows: int) -> float:
        return float(stats.binom.cdf(most_events(rows, alpha, 0.1), rows, risk))

    assert power(int(n)) >= 0.78
    assert power(int(n * 2 / 3)) < 0.8


def test_no_number_of_rows_shows_what_is_not_so() -> None:
    """A risk at alpha or above needs infinitely many rows, one just below too many."""
    assert rows_needed(0.02, 0.02, 0.1) == rows_needed(0.3, 0.02, 0.1) == rows_needed(0.0199999, 0.02, 0.1) == inf


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (binomial_cdf, (1, -1, 0.5)),
        (binomial_sf, (1, 2, 1.5)),
        (upper_bound, (3, 2, 0.1)),
        (upper_bound, (0, 0, 0.1)),
        (lower_bound, (1, 2, 0.0)),
        (hoeffding_bentkus_p_value, (1.2, 10, 0.1)),
        (hoeffding_bentkus_p_value, (0.0, 0, 0.1)),
    ],
)
def test_impossible_numbers_are_refused(function: Callable[..., float], arguments: tuple[float, ...]) -> None:
    """Counts and probabilities out of range are an error."""
    with pytest.raises(ValueError, match="must be"):
        function(*arguments)
