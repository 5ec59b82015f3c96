"""The cheapest thresholds for a target accuracy, their interval, and when it warns."""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import (
    Batch,
    Context,
    FitError,
    NotFittedError,
    Policy,
    TargetThreshold,
    Trace,
    TraceError,
    check_policy,
    softmax,
)
from escalade.policies.bounds import interval


def made(rows: int, seed: int = 0, skills: tuple[float, ...] = (2.0, 3.0, 4.0)) -> Trace:
    """Tiers that see the label through noise, the higher the less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    tiers = [softmax(skill * np.eye(3)[labels] + rng.normal(size=(rows, 3))) for skill in skills]
    return Trace.of(tiers, labels, costs=(0.01, 0.1, 1.0)[-len(skills) :])


def outcome(policy: Policy | list[float], trace: Trace) -> tuple[float, float]:
    """Accuracy and mean cost of the cascade, of a policy's decisions or with these thresholds."""
    here, right, cost = np.ones(len(trace), bool), np.zeros(len(trace), bool), trace.costs[0]
    for tier in range(trace.tiers - 1):
        score = trace.score(tier)
        if isinstance(policy, Policy):
            accepted = here & (policy.at_tier(tier).decide(Batch.of(score, trace.posteriors[tier])).action == 0)
        else:
            accepted = here & (score >= np.float32(policy[tier]))
        right |= accepted & trace.correct(tier)
        here &= ~accepted
        cost += trace.costs[tier + 1] * float(here.mean())
    return float((right | (here & trace.correct(trace.tiers - 1))).mean()), cost


def quietly(policy: TargetThreshold, trace: Trace) -> TargetThreshold:
    """Fit, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return policy.fit(trace)


@given(seed=st.integers(0, 500), target=st.sampled_from([0.7, 0.8, 0.9]))
def test_nothing_cheaper_reaches_the_target(seed: int, target: float) -> None:
    """With two tiers no threshold at all is cheaper and as accurate as the target, on these rows."""
    trace = made(40, seed, (1.0, 3.0))
    policy = quietly(TargetThreshold(target), trace)
    accuracy, cost = outcome(policy, trace)
    assert accuracy == pytest.approx(policy.accuracy)
    rivals = [outcome([limit], trace) for limit in [*trace.score(0).tolist(), 2.0]]
    if accuracy >= target:
        assert cost <= min(price for right, price in rivals if right >= target - 1e-9) + 1e-9
    else:
        assert accuracy >= max(right for right, _ in rivals) - 1e-9


def test_three_tiers_are_fitted_at_once() -> None:
    """No pair of thresholds of a coarse grid beats the fitted pair by more than the grid is fine."""
    trace = made(2000)
    policy = quietly(TargetThreshold(0.93), trace)
    accuracy, cost = outcome(policy, trace)
    assert accuracy >= 0.93
    levels = np.linspace(0.35, 0.99, 33).tolist()
    rivals = (outcome(list(pair), trace) for pair in itertools.product(levels, levels))
    assert cost <= min(price for right, price in rivals if right >= 0.93) + 0.005


def test_the_interval_is_kept_and_shown() -> None:
    """The accuracy's Clopper-Pearson interval is in the state and in the explanation."""
    trace = made(1000)
    policy = quietly(TargetThreshold(0.9), trace)
    right = round(policy.accuracy * 1000)
    assert (policy.low, policy.high) == interval(right, 1000)
    state = policy.state_dict()
    assert (state["low"], state["high"], state["rows"]) == (policy.low, policy.high, 1000)
    shown = policy.explain(0.5, Context())
    assert shown["accuracy"] == policy.accuracy
    assert shown["threshold"] == policy.thresholds[0]


def test_it_warns_when_the_interval_reaches_below_the_target() -> None:
    """That the rows reach the target does not show that others will; the warning stays in the state."""
    with pytest.warns(UserWarning, match=r"do not support the target accuracy 0.9: it is 0.90.* on 1000 rows") as seen:
        policy = TargetThreshold(0.9).fit(made(1000))
    assert policy.warning == str(seen[0].message) == policy.state_dict()["warning"]
    assert policy.explain(0.5, Context())["warning"] == policy.warning


def test_a_cautious_fit_is_supported_where_it_can_be() -> None:
    """It pays more for an interval above the target, and then has nothing to warn of."""
    trace = made(1000)
    policy = TargetThreshold(0.9, cautious=True).fit(trace)
    assert policy.low >= 0.9
    assert policy.warning == ""
    assert outcome(policy, trace)[1] > outcome(quietly(TargetThreshold(0.9), trace), trace)[1]


@pytest.mark.parametrize("cautious", [False, True])
def test_it_warns_when_even_the_top_tier_falls_short(cautious: bool) -> None:
    """A target above what the tiers reach gives the most accurate thresholds and says what the top has."""
    trace = made(1000, skills=(1.0, 1.5, 2.0))
    with pytest.warns(UserWarning, match=r"no thresholds reach the target accuracy 1: .* the top tier alone has"):
        policy = TargetThreshold(1.0, cautious=cautious).fit(trace)
    assert policy.accuracy >= trace.correct(2).mean()


def test_every_tier_keeps_every_rule_of_a_policy() -> None:
    """Fitted, at each tier, it passes the conformance kit; an own threshold decides there."""
    policy = quietly(TargetThreshold(0.95), made(500, skills=(1.0, 1.5, 4.0)))
    for level in (0, 1):
        view = policy.at_tier(level)
        check_policy(view)
        limit = np.float32(policy.thresholds[level])
        below = np.nextafter(limit, np.float32(0))
        assert view.decide(Batch.of([limit, below])).action.tolist() == [0, 1]


def test_the_fit_travels() -> None:
    """Another object takes the state over, through pickle too, and decides the same at every tier."""
    policy = quietly(TargetThreshold(0.93), made(500))
    twin = TargetThreshold(0.93, level=1)
    twin.load_state_dict(pickle.loads(pickle.dumps(policy.state_dict())))
    assert twin.thresholds == policy.thresholds
    assert twin.at_tier(0).explain(0.5, Context()) == policy.explain(0.5, Context())
    assert pickle.loads(pickle.dumps(policy)).thresholds == policy.thresholds


def test_before_the_fit_it_does_not_decide() -> None:
    """Deciding, and asking for the thresholds, is an error that says what to do."""
    policy = TargetThreshold(0.9)
    assert not policy.fitted
    for call in (lambda: policy.decide(Batch.of([0.5])), lambda: policy.decide_one(0.5, Context())):
        with pytest.raises(NotFittedError, match="fit it to calibration data or load its state"):
            call()
    with pytest.raises(NotFittedError):
        _ = policy.accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 0.8}, "target is 0.93, but the state was fitted for 0.8"),
        ({"thresholds": np.array([0.5])}, "must be float32 numbers"),
        ({"thresholds": np.array([np.nan], np.float32)}, "must be float32 numbers"),
        ({"thresholds": np.empty(0, np.float32)}, "must be float32 numbers"),
        ({"low": np.nan}, "must be finite"),
        ({"extra": 1}, "the state has thresholds"),
    ],
)
def test_another_state_is_refused(change: dict[str, Any], message: str) -> None:
    """What is not a fit of this policy is refused, and the policy keeps the fit it had."""
    policy = quietly(TargetThreshold(0.93), made(300))
    before = policy.thresholds
    with pytest.raises(ValueError, match=message):
        policy.load_state_dict({**policy.state_dict(), **change})
    assert policy.thresholds == before


def test_a_tier_that_was_not_fitted_is_refused() -> None:
    """A fit for three tiers says nothing of a fourth."""
    policy = quietly(TargetThreshold(0.93), made(300))
    with pytest.raises(ValueError, match="level is 2, but it was fitted for tiers 0 to 1"):
        policy.at_tier(2)
    with pytest.raises(TraceError, match="a policy at level 2 needs 4 tiers or more, its own and one above, got 3"):
        TargetThreshold(0.93, level=2).fit(made(300))


def test_data_of_one_class_are_refused() -> None:
    """They say nothing of the other classes."""
    trace = made(300)
    with pytest.raises(TraceError, match=r"labels: all .* rows are of class 1"):
        TargetThreshold(0.9).fit(trace.take(trace.labels == 1))


def test_a_score_that_the_trace_cannot_give_is_refused() -> None:
    """Energy needs logits."""
    with pytest.raises(FitError, match="needs logits"):
        TargetThreshold(0.9, score="energy").fit(made(300))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target": 0.0}, "target must be"),
        ({"target": 1.1}, "target must be"),
        ({"target": 0.9, "confidence": 1.0}, "confidence must be"),
        ({"target": 0.9, "level": -1}, "level must be"),
    ],
)
def test_senseless_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    """The constructor says which, and what it may be."""
    with pytest.raises(ValueError, match=message):
        TargetThreshold(**parameters)
