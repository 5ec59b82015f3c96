"""Second tries cost no more than was promised."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from escalade.tiers.retry import RetryBudget, jittered_s


class Attempts(RuleBasedStateMachine):
    """First attempts and wishes to retry in any order."""

    @initialize(ratio=st.sampled_from([0.0, 0.1, 0.25, 1.0]), burst=st.integers(0, 5))
    def begin(self, ratio: float, burst: int) -> None:
        self.budget, self.ratio, self.burst = RetryBudget(ratio=ratio, burst=burst), ratio, burst
        self.first = self.retries = self.lately = 0

    @rule(count=st.integers(1, 30))
    def first_attempts(self, count: int) -> None:
        for _ in range(count):
            self.budget.earn()
        self.first += count
        self.lately = 0

    @rule()
    def a_retry_is_wanted(self) -> None:
        if self.budget.spend():
            self.retries += 1
            self.lately += 1

    @invariant()
    def retries_stay_within_what_was_earned(self) -> None:
        assert self.retries <= self.burst + Fraction(self.ratio) * self.first

    @invariant()
    def what_is_saved_up_is_bounded(self) -> None:
        """After any quiet time no more than `burst` retries come at once."""
        assert self.lately <= self.burst

    @invariant()
    def a_full_budget_is_used(self) -> None:
        """One token earned is one retry: the budget does not just refuse."""
        if self.burst and not self.retries:
            assert self.budget.tokens >= 1


TestAttempts = Attempts.TestCase


@given(st.floats(0, 10), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_half_to_one_and_a_half_of_what_is_configured(pause_s: float, uniform: float) -> None:
    """Never none at all, so that callers who failed together spread out."""
    assert pause_s / 2 <= jittered_s(pause_s, uniform) <= pause_s * 1.5


def test_pauses_differ() -> None:
    """By chance alone."""
    assert jittered_s(0.02, 0.0) != pytest.approx(jittered_s(0.02, 0.9))
