from __future__ import annotations

import numpy as np
import pytest

from escalade.policies import Action, AlwaysEscalate, BackPressure, Batch, Context, Explore, Threshold

ROWS = 20_000


@pytest.mark.parametrize(("load", "share"), [(0.0, 1.0), (0.5, 1.0), (0.75, 0.6), (1.0, 0.2), (7.0, 0.2)])
def test_the_share_that_goes_up_falls_with_the_load(load: float, share: float) -> None:
    """From `start` on, down to `least` at full load; the propensity is that share."""
    uniform = (np.arange(ROWS) + 0.5) / ROWS
    decided = BackPressure(AlwaysEscalate(), start=0.5, least=0.2).decide(
        Batch.of(np.full(ROWS, 0.5), uniform=uniform, upstream_load=load)
    )
    up = decided.action == Action.ESCALATE
    assert up.mean() == pytest.approx(share, abs=1e-3)
    assert np.allclose(decided.propensity[up], share)
    assert np.allclose(decided.propensity[~up], 1 - share)


def test_what_is_accepted_anyway_is_left_alone_and_what_cannot_be_accepted_is_deferred() -> None:
    """Only escalations are taken back; a row without a usable score waits for later."""
    batch = Batch.of([0.9, 0.3, -np.inf], uniform=0.999, upstream_load=1.0)
    decided = BackPressure(Threshold(0.8)).decide(batch)
    assert decided.action.tolist() == [Action.ACCEPT, Action.ACCEPT, Action.DEFER]
    assert decided.propensity.tolist() == pytest.approx([1.0, 0.9, 0.9])


def test_a_policy_with_chance_inside_keeps_its_own_chances() -> None:
    """The random number serves both: among the rows that stand the inner policy explores as often as ever."""
    uniform = (np.arange(ROWS) + 0.5) / ROWS
    policy = BackPressure(Explore(Threshold(0.8), epsilon=0.25), start=0.0, least=0.5)
    decided = policy.decide(Batch.of(np.full(ROWS, 0.9), uniform=uniform, upstream_load=1.0))
    up = decided.action == Action.ESCALATE
    assert up.mean() == pytest.approx(0.25 * 0.5, abs=1e-3)
    assert np.allclose(decided.propensity[up], 0.125)


@pytest.mark.parametrize(("start", "least"), [(1.0, 0.1), (-0.1, 0.1), (0.5, 0.0), (0.5, 1.1), (float("nan"), 0.1)])
def test_numbers_out_of_range_are_refused(start: float, least: float) -> None:
    """At full load something must go up, or nobody finds out that it is over."""
    with pytest.raises(ValueError, match="start must be"):
        BackPressure(AlwaysEscalate(), start, least)


def test_it_explains_the_load_and_the_chance() -> None:
    """What `escalade policy explain` shows."""
    numbers = BackPressure(Threshold(0.8)).explain(0.3, Context(upstream_load=0.75))
    assert numbers["upstream_load"] == 0.75
    assert numbers["keep"] == pytest.approx(0.55)
