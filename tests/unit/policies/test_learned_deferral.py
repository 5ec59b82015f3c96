"""Escalating where the tier above is expected to gain."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from escalade.policies import (
    Action,
    Batch,
    Context,
    FitError,
    NotFittedError,
    Trace,
    TraceError,
    check_policy,
    load_policy,
    softmax,
)
from escalade.policies.gain_fit import GainFit
from escalade.policies.gain_model import GainModel
from escalade.policies.learned_deferral import LearnedDeferral

DATA = Path(os.environ.get("ESCALADE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "traces"


def cascade(rows: int = 1500, classes: int = 4, tiers: int = 2, seed: int = 0) -> Trace:
    """Tiers that see the same inputs with less and less noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    clear = 2.0 * np.eye(classes)[labels]
    tables = [softmax(clear + rng.normal(0.0, 1.6 - 0.5 * tier, (rows, classes))) for tier in range(tiers)]
    return Trace.of(tables, labels, costs=[0.01, 0.2, 1.0][:tiers])


FITTED = LearnedDeferral(cost=0.1).fit(cascade(classes=10))


@pytest.mark.parametrize("level", [0, 1])
def test_a_fitted_deferral_keeps_every_rule(level: int) -> None:
    """A fit to three tiers passes the conformance kit at each of its levels."""
    policy = LearnedDeferral(cost=0.1).fit(cascade(classes=10, tiers=3))
    check_policy(policy.at_tier(level))


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.just(10)), elements=st.floats(width=32)))
def test_one_row_is_estimated_as_a_batch_is_to_the_last_bit(posterior: np.ndarray) -> None:
    """For any float32 values at all, the gain of a row alone equals the batch's."""
    batch = FITTED.gain(posterior)
    model, _ = FITTED._model()
    assert batch.tolist() == [model.one(row) for row in posterior.tolist()]


def test_many_rows_are_decided_as_they_are_one_by_one() -> None:
    """On many random posteriors and their ties, `decide` and `decide_one` agree on each."""
    rng = np.random.default_rng(0)
    posterior = softmax(rng.normal(0.0, 3.0, (20_000, 10)).round(1))
    score = posterior.max(axis=1)
    whole = FITTED.decide(Batch.of(score, posterior)).action.tolist()
    rows = zip(score.tolist(), posterior.tolist(), strict=True)
    assert whole == [FITTED.decide_one(one, Context(posterior=row)) for one, row in rows]


def test_it_keeps_what_the_upper_tier_is_worse_at() -> None:
    """Unsure inputs of a class on which the tier above is worse stay; a threshold would send them up."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 4000)
    right = rng.random((2, 4000)) < np.where(labels == 0, [[0.7], [0.95]], [[0.7], [0.4]])
    answers = np.where(right, labels, 1 - labels)
    trace = Trace.of([np.where(np.eye(2)[a] == 1, 0.6, 0.4) for a in answers], labels)
    policy = LearnedDeferral(cost=0.05).fit(trace)
    gain = policy.gain(np.array([[0.6, 0.4], [0.4, 0.6]], np.float32))
    for answer in (0, 1):
        chosen = answers[0] == answer
        measured = (right[1][chosen].astype(float) - right[0][chosen]).mean()
        assert gain[answer] == pytest.approx(measured, abs=0.02)


def test_the_estimated_gain_is_the_measured_one_on_average() -> None:
    """Over the rows fitted to, the mean of the estimates is the difference of the tiers' accuracies."""
    trace = cascade()
    policy = LearnedDeferral(cost=0.1).fit(trace)
    measured = trace.correct(1).mean() - trace.correct(0).mean()
    assert policy.gain(trace.posteriors[0]).mean() == pytest.approx(measured, abs=0.005)


def test_the_same_rows_and_seed_give_the_same_fit() -> None:
    """Fitting twice gives the same tables, bit for bit."""
    one, other = (LearnedDeferral().fit(cascade()).state_dict() for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_without_a_cost_it_finds_the_highest_that_keeps_the_top_tiers_accuracy() -> None:
    """On new rows the cascade is about as accurate as the top tier, at a part of its cost."""
    policy, fresh = LearnedDeferral().fit(cascade(4000)), cascade(4000, seed=1)
    action = policy.decide(Batch.of(fresh.score(0), fresh.posteriors[0])).action
    right = np.where(action == Action.ESCALATE, fresh.correct(1), fresh.correct(0))
    assert right.mean() == pytest.approx(fresh.correct(1).mean(), abs=0.015)
    assert 0.2 < (action == Action.ESCALATE).mean() < 0.8


def test_a_higher_cost_escalates_less() -> None:
    """What is escalated at a cost is escalated at every lower one."""
    trace = cascade()
    shares = [
        LearnedDeferral(cost=cost).fit(trace).decide(Batch.of(trace.score(0), trace.posteriors[0])).action
        for cost in (0.0, 0.3, 1.0, 3.0)
    ]
    assert all(np.all(more >= less) for more, less in pairwise(shares))


def test_cross_fitting_does_not_see_the_row_itself() -> None:
    """Where the target is noise, estimates for rows left out have no relation to it, those of the fit have."""
    rng = np.random.default_rng(2)
    trace, noise = cascade(600), rng.normal(0.0, 1.0, 600)
    fit = GainFit(trace.posteriors[0], knots=21, ridge=0.1, seed=0)
    inside = np.corrcoef(fit.model(noise).batch(trace.posteriors[0]), noise)[0, 1]
    assert inside > 0.25
    assert abs(np.corrcoef(fit.cross_fitted(noise), noise)[0, 1]) < 0.15


def test_the_fit_is_ridge_regression() -> None:
    """scikit-learn's Ridge on the same columns gives the same estimates."""
    linear = pytest.importorskip("sklearn.linear_model")
    trace = cascade(800, classes=3)
    target = trace.correct(1).astype(float) - trace.correct(0)
    fit = GainFit(trace.posteriors[0], knots=5, ridge=1.0, seed=0)
    columns = np.zeros((len(trace), int(fit._starts[-1])))
    for where, value in zip(fit._where, fit._value, strict=True):
        columns[np.arange(len(trace)), where] += value
    oracle = linear.Ridge(alpha=1.0, fit_intercept=False).fit(columns, target).predict(columns)
    assert np.abs(fit.model(target).batch(trace.posteriors[0]) - oracle).max() < 1e-6


def test_state_and_pickle_round_trips_are_exact() -> None:
    """Another object that takes over the state decides the same at every level."""
    policy = LearnedDeferral(cost=0.1).fit(cascade(tiers=3))
    state = policy.state_dict()
    for level in (0, 1):
        twin = LearnedDeferral(cost=0.1, level=level)
        twin.load_state_dict(state)
        posterior = cascade(tiers=3, seed=3).posteriors[level]
        for other in (twin, pickle.loads(pickle.dumps(twin))):
            assert np.array_equal(other.gain(posterior), policy.at_tier(level).gain(posterior))
            assert other.state_dict().keys() == state.keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"cost": "cheap"}, "could not convert"),
        ({"limits": None}, "'limits' must be finite"),
        ({"extra": 1}, "extra"),
        ({"curve_0": np.zeros((2, 2))}, "'curve' is"),
        ({"knots_0": np.array([1.0, 0.0])}, "ascending"),
        ({"runner_up_0": np.array([np.nan] * 10)}, "finite"),
    ],
)
def test_a_state_that_cannot_be_is_refused(spoil: dict[str, object], message: str) -> None:
    """A missing, unknown or misshapen entry is named."""
    with pytest.raises(ValueError, match=message):
        LearnedDeferral().load_state_dict(FITTED.state_dict() | spoil)


def test_it_says_what_is_missing() -> None:
    """Not fitted, no tier above, too few rows, no posterior, a tier above that cannot be matched for free."""
    trace = cascade()
    with pytest.raises(NotFittedError, match="fit it to a trace"):
        LearnedDeferral().decide(Batch.of([0.5], [[0.5, 0.5]]))
    with pytest.raises(TraceError, match="level 1 needs 3 tiers, here are 2"):
        LearnedDeferral(level=1).fit(trace)
    with pytest.raises(TraceError, match="20 rows are too few"):
        LearnedDeferral().fit(trace.take(slice(0, 20)))
    with pytest.raises(ValueError, match="does not give"):
        FITTED.decide(Batch.of([0.5]))
    with pytest.raises(ValueError, match="does not give"):
        FITTED.decide_one(0.5, Context())
    free = Trace.of(trace.posteriors, trace.labels, costs=[0.0, 0.0])
    with pytest.raises(FitError, match="costs nothing"):
        LearnedDeferral().fit(free)


@pytest.mark.parametrize("parameters", [{"cost": -1.0}, {"level": -1}, {"knots": 1}, {"ridge": 0.0}])
def test_parameters_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        LearnedDeferral(**parameters)  # type: ignore[arg-type]


def test_a_posterior_of_other_classes_is_escalated() -> None:
    """A row that the fit knows nothing of is not accepted."""
    assert FITTED.decide_one(0.9, Context(posterior=[0.9, 0.1])) is Action.ESCALATE


def test_explain_gives_gain_and_price() -> None:
    """The gain shown is the one compared with the price shown."""
    row = [0.1] * 10
    numbers = FITTED.explain(0.1, Context(posterior=row))
    assert numbers["gain"] == FITTED.gain(np.array([row], np.float32))[0]
    assert numbers["price"] == pytest.approx(0.1 * 0.2)


def test_it_loads_from_a_configuration() -> None:
    """Its name and parameters work in a tier's YAML."""
    policy = load_policy({"name": "LearnedDeferral", "cost": 0.2, "level": 1}, unfitted=True)
    assert repr(policy) == "LearnedDeferral(cost=0.2, level=1)"


def test_more_classes_than_cells_share_one_curve() -> None:
    """With very many classes a class has an offset only, and it still fits."""
    trace = cascade(300, classes=300)
    model = LearnedDeferral(cost=0.1, knots=21, ridge=5.0).fit(trace)._model()[0]
    assert np.ptp(np.diff(model.arrays["curve"], axis=1), axis=0).max() < 1e-12


@pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not here: set ESCALADE_DATA")
def test_on_real_services_it_beats_a_plain_threshold() -> None:
    """On FER+ it reaches the best service's accuracy with far fewer calls than a threshold needs."""
    with np.load(DATA / "frugalml_ferplus.npz") as data:
        labels, local, upper = (data[name].astype(np.int64) for name in ("y", "pred_100", "pred_2"))
        confidence = data["conf_100"].astype(np.float64)
    posterior = np.repeat(((1 - confidence) / 6)[:, None], 7, axis=1)
    posterior[np.arange(len(labels)), local] = confidence
    trace = Trace.of([posterior, np.eye(7)[upper]], labels)
    halves = np.random.default_rng(0).permutation(len(trace))
    fitted, judged = trace.take(halves[::2]), trace.take(halves[1::2])
    gain = LearnedDeferral(cost=0.1).fit(fitted).gain(judged.posteriors[0])
    worth = judged.correct(1).astype(float) - judged.correct(0)
    share = [
        np.argmax(np.concatenate([[0.0], worth[np.argsort(-order, kind="stable")].cumsum()]) >= worth.sum())
        / len(judged)
        for order in (gain, -judged.score(0))
    ]
    assert share[0] < 0.38 < 0.45 < share[1]


def test_a_model_refuses_tables_that_do_not_fit() -> None:
    """Shapes and types are checked where the tables are made."""
    flat = np.zeros(2)
    with pytest.raises(ValueError, match="'margin_curve' has 3 values for 2 knots"):
        GainModel(np.array([0.0, 1.0]), np.zeros((2, 2)), np.array([0.0, 1.0]), np.zeros(3), flat)
