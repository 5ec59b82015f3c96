"""Escalation pays where the accuracy gained is worth more than the link costs."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import Action, Batch, Context, CostAware


@given(
    st.floats(0.0, 1.0, width=32), st.floats(0.01, 100), st.floats(0.5, 1.0), st.integers(0, 10**6), st.floats(0, 1e4)
)
def test_it_escalates_exactly_where_the_gain_exceeds_the_cost(
    score: float, price_error: float, upper: float, size: int, latency: float
) -> None:
    """The decision is that of the two numbers that `explain` gives, but for rounding at a tie."""
    policy = CostAware(price_error, upper, price_request=0.01, price_bytes=1e-6, price_ms=1e-4)
    context = Context(bytes_up=size, upstream_ms=latency)
    gain, cost = (upper - score) * price_error, 0.01 + 1e-6 * size + 1e-4 * latency
    numbers = policy.explain(score, context)
    assert numbers["gain"] == pytest.approx(gain)
    assert numbers["cost"] == pytest.approx(cost)
    if abs(gain - cost) > 1e-9 * (1 + cost):
        assert (policy.decide_one(score, context) is Action.ESCALATE) == (gain > cost)


@pytest.mark.parametrize(("latency", "action"), [(nan, 1), (inf, 0), (10.0, 1), (5000.0, 0)])
def test_a_slow_or_unreachable_tier_is_not_worth_asking(latency: float, action: int) -> None:
    """An endless latency costs endlessly, an unknown one `assumed_ms`."""
    policy = CostAware(1.0, 0.9, price_ms=1e-3, assumed_ms=100)
    assert policy.decide(Batch.of([0.6], upstream_ms=latency)).action.tolist() == [action]


def test_without_a_price_of_time_latency_does_not_matter() -> None:
    """No price times an endless latency is nothing, and not nan."""
    assert CostAware(1.0, 0.9).decide_one(0.6, Context(upstream_ms=inf)) is Action.ESCALATE
    assert CostAware(1.0, 0.9).decide(Batch.of([0.6, 0.95], upstream_ms=inf)).action.tolist() == [1, 0]


def test_a_score_that_is_unusable_is_escalated_at_any_price() -> None:
    """It is never accepted."""
    assert CostAware(1e-9, price_request=1e9).decide(Batch.of([nan, -np.inf, 0.0])).action.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "parameters",
    [{"price_error": 0.0}, {"upper_accuracy": 0.0}, {"upper_accuracy": 1.1}, {"price_ms": -1.0}, {"assumed_ms": nan}],
)
def test_wrong_prices_are_refused(parameters: dict[str, float]) -> None:
    """A number out of range raises ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        CostAware(**{"price_error": 1.0, **parameters})
