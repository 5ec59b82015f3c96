from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.deadline import link_budget_s, upstream_budget_s

seconds = st.floats(min_value=0, max_value=1e6)


@given(remaining=seconds, reserve=seconds, timeout=seconds)
def test_the_tier_above_never_gets_more_than_what_is_left_or_the_timeout(
    remaining: float, reserve: float, timeout: float
) -> None:
    """A hop's budget is within the deadline and within the configured timeout."""
    budget = upstream_budget_s(remaining, reserve, timeout)
    assert budget <= remaining
    assert budget <= timeout


@given(remaining=st.floats(min_value=1e-6, max_value=1e6), reserve=seconds)
def test_a_short_deadline_is_shared_not_eaten(remaining: float, reserve: float) -> None:
    """Whatever the reserve, three quarters of what is left go upward, and something is kept back."""
    budget = upstream_budget_s(remaining, reserve, float("inf"))
    assert budget >= remaining * 0.75 * (1 - 1e-9)
    if reserve > 0:
        assert budget < remaining or reserve < remaining * 1e-12


def test_no_deadline_means_the_timeout() -> None:
    """A request that may take for ever still waits no longer than the timeout."""
    assert upstream_budget_s(float("inf"), 0.01, 0.5) == 0.5


@given(late=st.floats(min_value=-1e6, max_value=0))
def test_a_spent_deadline_asks_nobody(late: float) -> None:
    """With nothing left the budget is not positive."""
    assert upstream_budget_s(late, 0.01, 1.0) <= 0


@given(left=seconds, links=st.integers(1, 6))
def test_links_asked_one_after_the_other_never_take_more_than_there_is(left: float, links: int) -> None:
    """Each takes all that it may: the last one still has its part, and the sum is what there was."""
    taken: list[float] = []
    for place in range(links):
        taken.append(link_budget_s(left - sum(taken), others=place < links - 1))
    assert sum(taken) <= left * (1 + 1e-9)
    assert min(taken) >= left / 2**links * (1 - 1e-9)
