"""Thresholds learnt online: HILF, HILN, HILCB."""

from __future__ import annotations

import copy
import pickle
from math import inf, log, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import (
    HILCB,
    HILF,
    HILN,
    UNKNOWN,
    Action,
    Batch,
    Context,
    Feedback,
    check_policy,
    load_policy,
)
from escalade.policies.hilf import RandomThreshold
from escalade.policies.threshold_learner import UNIT, ThresholdLearner, accept_probabilities

LEARNERS: list[ThresholdLearner] = [HILF(0.3), HILN(0.3), HILCB(0.3)]
KINDS = [HILF, HILN, HILCB]


def outcomes(rows: int, seed: int = 0) -> Feedback:
    """Escalated rows of a tier that is wrong with probability 1 - score; 0 is the right class."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows).astype(np.float32)
    local = (rng.random(rows) > score).astype(int)
    return Feedback.of(score, local=local, action=1, propensity=rng.uniform(0.1, 1.0, rows), upper=0, hops=1)


def run(policy: ThresholdLearner, rows: int, *, full: bool, seed: int = 0) -> tuple[float, float]:
    """Return what the learner and the best threshold, 1 - cost, pay on a stream of such rows."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows).astype(np.float32)
    local = (rng.random(rows) > score).astype(int)
    uniform = rng.random(rows)
    paid = 0.0
    for start in range(0, rows, 5):
        part = slice(start, start + 5)
        done = policy.decide(Batch.of(score[part], uniform=uniform[part]))
        paid += float(np.where(done.action == 1, policy.cost, local[part]).sum())
        known = (done.action == 1) | full
        policy.observe(
            Feedback.of(
                score[part],
                local=local[part],
                action=done.action,
                propensity=done.propensity,
                upper=np.where(known, 0, UNKNOWN),
                hops=known.astype(int),
            )
        )
    return paid, float(np.where(score >= 1 - policy.cost, local, policy.cost).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 300])
def test_a_learner_keeps_every_rule_before_and_while_it_learns(kind: type[ThresholdLearner], rows: int) -> None:
    """A learner passes the conformance kit as it begins and in the middle of its stream."""
    policy = kind(0.3)  # type: ignore[call-arg]
    policy.observe(outcomes(rows))
    check_policy(policy)


@pytest.mark.parametrize("policy", LEARNERS, ids=repr)
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(1, 11)))
def test_late_and_reordered_feedback_gives_the_same_state(
    policy: ThresholdLearner, order: list[int], cuts: set[int]
) -> None:
    """Rows in any order and in any portions end in the very same sums and decisions as rows in order."""
    rows = outcomes(12)
    straight, shuffled = copy.deepcopy(policy), copy.deepcopy(policy)
    straight.observe(rows)
    for part in np.split(np.array(order), sorted(cuts)):
        shuffled.observe(rows.take(part))
    one, other = straight.state_dict(), shuffled.state_dict()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    batch = Batch.of(np.linspace(0, 1, 500))
    assert straight.decide(batch).propensity.tolist() == shuffled.decide(batch).propensity.tolist()


@pytest.mark.parametrize("policy", LEARNERS, ids=repr)
def test_a_copy_goes_on_learning_exactly_as_the_original(policy: ThresholdLearner) -> None:
    """A pickled copy and one that took over the state stay equal to the original through more feedback."""
    policy = copy.deepcopy(policy)
    policy.observe(outcomes(50))
    loaded = copy.deepcopy(LEARNERS[LEARNERS.index(next(p for p in LEARNERS if type(p) is type(policy)))])
    loaded.load_state_dict(policy.state_dict())
    twins = [pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), loaded]
    before = policy.state_dict()
    for twin in twins:
        twin.observe(outcomes(50, seed=1))
    assert all(np.array_equal(before[name], policy.state_dict()[name]) for name in before), "copies share nothing"
    policy.observe(outcomes(50, seed=1))
    for twin in twins:
        assert all(np.array_equal(twin.state_dict()[name], value) for name, value in policy.state_dict().items())


@pytest.mark.parametrize(("kind", "full", "limit"), [(HILF, True, 1.03), (HILCB, False, 1.08), (HILN, False, 1.15)])
def test_a_learner_comes_close_to_the_best_threshold(kind: type[ThresholdLearner], full: bool, limit: float) -> None:
    """Over 6,000 inputs it pays little more than the threshold that is best for this tier."""
    paid, best = run(kind(0.3), 6000, full=full)  # type: ignore[call-arg]
    assert best < paid + 60
    assert paid < limit * best


def test_the_weights_are_those_of_exponential_weights() -> None:
    """The probability of accepting is the weight, exp(-rate * loss), of the thresholds at or below the score."""
    rng = np.random.default_rng(0)
    loss = (rng.normal(0.0, 2.0, 9) * UNIT).astype(np.int64)
    total = np.array([loss[k + 1 :].sum() / UNIT for k in range(9)])
    weight = np.exp(-0.7 * (total - total.min()))
    expected = [weight[:interval].sum() / weight.sum() for interval in range(9)]
    assert accept_probabilities(loss, 0.7) == pytest.approx(np.array(expected), abs=1e-12)


def test_with_the_rate_of_the_bound_the_expected_loss_keeps_it_on_an_adversarial_stream() -> None:
    """On a stream that turns round in the middle the expected loss stays within sqrt(T log(K+1) / 2)."""
    rows, experts = 2000, 18
    policy = HILF(0.5, rate=sqrt(8 * log(experts) / rows), count=16)
    score = np.tile(np.linspace(0.2, 0.99, 10), rows // 10).astype(np.float32)
    wrong = (score < 0.6) ^ (np.arange(rows) >= rows // 2)
    expected = 0.0
    for one, error in zip(score, wrong, strict=True):
        chance = policy.explain(float(one), Context())["escalate_probability"]
        assert isinstance(chance, float)
        expected += chance * 0.5 + (1 - chance) * error
        policy.observe(Feedback.of([one], local=int(error), action=0, truth=0))
    steps = [-inf, *policy._steps[1:], inf]
    best = min(np.where(score >= step, wrong, 0.5).sum() for step in steps)
    assert expected <= best + sqrt(rows * log(experts) / 2)


@pytest.mark.parametrize("policy", [HILF(0.3), HILN(0.3)], ids=repr)
def test_propensities_are_the_share_of_uniform_numbers(policy: RandomThreshold) -> None:
    """The propensity of an action is how often, over the row's uniform number, it is taken."""
    policy = copy.deepcopy(policy)
    policy.observe(outcomes(10))
    uniform = (np.arange(10_000) + 0.5) / 10_000
    for score in (0.3, 0.7, 0.95):
        done = policy.decide(Batch.of(np.full(10_000, score), uniform=uniform))
        for action in (0, 1):
            taken = done.action == action
            if taken.any():
                assert done.propensity[taken] == pytest.approx(taken.mean(), abs=1e-3)


def test_hiln_explores_what_it_would_accept() -> None:
    """However sure it is, every input is escalated with the probability to explore at least."""
    policy = HILN(0.3, explore=0.1)
    policy.observe(Feedback.of(np.full(5000, 0.99), local=0, action=1, upper=0, hops=1))
    assert policy.explain(0.99, Context())["escalate_probability"] == pytest.approx(0.1)


def test_hiln_sums_are_unbiased() -> None:
    """The sums from escalated rows, weighted, have the expectation of the sums over all rows."""
    rng = np.random.default_rng(0)
    score = rng.random(40_000).astype(np.float32)
    local = (rng.random(40_000) > score).astype(int)
    chance = np.where(score > 0.5, 0.1, 0.9)
    asked = rng.random(40_000) < chance
    full, partial = HILF(0.3, count=8), HILN(0.3, count=8)
    full.observe(Feedback.of(score, local=local, action=0, truth=0))
    partial.observe(
        Feedback.of(
            score,
            local=local,
            action=asked.astype(int),
            propensity=np.where(asked, chance, 1 - chance),
            upper=np.where(asked, 0, UNKNOWN),
            hops=asked.astype(int),
        )
    )
    difference = (full.state_dict()["loss"] - partial.state_dict()["loss"]) / UNIT
    assert np.abs(difference).max() < 4 * sqrt(9 * len(score) * 0.25)
    assert np.abs(difference).max() > 0


def test_hiln_learns_nothing_from_accepted_rows() -> None:
    """An audited row that was accepted would bias the sums, and is left out."""
    policy = HILN(0.3)
    policy.observe(Feedback.of([0.9], local=1, action=0, truth=0))
    assert policy.rows == 0


def test_hilcb_asks_until_it_is_confident_and_then_accepts_from_a_threshold_on() -> None:
    """Nothing is accepted at first, not even a score of inf; after enough right answers, that score and above are."""
    policy = HILCB(0.3)
    assert policy.decide_one(inf, Context()) is Action.ESCALATE
    policy.observe(Feedback.of(np.full(29, 0.8), local=0, action=1, upper=0, hops=1))
    assert policy.threshold == inf
    policy.observe(Feedback.of(np.full(100, 0.8), local=0, action=1, upper=0, hops=1))
    assert policy.threshold <= 0.8
    assert policy.decide(Batch.of([0.05, 0.8, 0.99, inf, nan])).action.tolist() == [1, 0, 0, 0, 1]


def test_hilcb_does_not_accept_what_is_wrong_too_often() -> None:
    """Scores at which the tier errs more often than escalating costs are never accepted."""
    policy = HILCB(0.3)
    policy.observe(Feedback.of(np.full(1000, 0.8), local=[1, 1, 0, 0, 0] * 200, action=1, upper=0, hops=1))
    assert policy.threshold == inf


@pytest.mark.parametrize("kind", KINDS)
def test_three_tiers_learn_from_the_top_only(kind: type[ThresholdLearner]) -> None:
    """With top=2 a label from the middle tier is not believed, one from the top tier or an audit is."""
    policy = kind(0.3, top=2)  # type: ignore[call-arg]
    policy.observe(Feedback.of([0.9, 0.9], local=0, action=1, upper=1, hops=1))
    assert policy.rows == 0
    policy.observe(Feedback.of([0.9, 0.9], local=0, action=1, upper=1, hops=[2, 1], truth=[UNKNOWN, 1]))
    assert policy.rows == 2


def test_an_audit_counts_the_upper_tiers_error() -> None:
    """Where the truth shows that the tier above erred too, escalating costs its price and the error."""
    policy = HILF(0.25)
    policy.observe(Feedback.of([0.9], local=1, action=1, upper=2, hops=1, truth=0))
    assert policy.state_dict()["loss"].sum() == -0.25 * UNIT
    policy.observe(Feedback.of([0.9], local=0, action=1, upper=2, hops=1, truth=0))
    assert policy.state_dict()["loss"].sum() == (-0.25 - 1.25) * UNIT


@pytest.mark.parametrize("policy", LEARNERS, ids=repr)
@pytest.mark.parametrize("score", [nan, -inf])
def test_rows_without_a_usable_score_teach_nothing(policy: ThresholdLearner, score: float) -> None:
    """Feedback on a row that could not be accepted anyway leaves the sums alone."""
    policy = copy.deepcopy(policy)
    policy.observe(Feedback.of([score], local=1, action=1, upper=0, hops=1))
    assert policy.rows == 0


@pytest.mark.parametrize("propensity", [0.0, -0.5, 1.5, nan, 1e-9])
def test_a_propensity_that_cannot_be_is_refused(propensity: float) -> None:
    """The error names the row; nothing of the feedback is learnt."""
    policy = HILN(0.3)
    with pytest.raises(ValueError, match="row 1 of the feedback has propensity"):
        policy.observe(Feedback.of([0.9, 0.9], local=1, action=1, upper=0, hops=1, propensity=[1.0, propensity]))
    assert policy.rows == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "parameters",
    [{"cost": 0.0}, {"cost": 1.0}, {"top": 0}, {"thresholds": []}, {"thresholds": [0.5, 0.5]}, {"thresholds": [nan]}],
)
def test_parameters_out_of_range_are_refused(kind: type[ThresholdLearner], parameters: dict[str, object]) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        kind(**({"cost": 0.3} | parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", LEARNERS, ids=repr)
def test_a_state_of_other_thresholds_is_refused(policy: ThresholdLearner) -> None:
    """The sums of another grid, or of none, do not fit."""
    other = HILF(0.3, thresholds=[0.5])
    with pytest.raises(ValueError, match="the thresholds are others"):
        copy.deepcopy(policy).load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="loss, squares, labels"):
        copy.deepcopy(policy).load_state_dict({"loss": np.zeros(3)})


@pytest.mark.parametrize("name", ["HILF", "HILN", "HILCB"])
def test_it_loads_from_a_configuration(name: str) -> None:
    """Its name and its parameters work in a tier's YAML; thresholds of a score of one's own too."""
    policy = load_policy({"name": name, "cost": 0.2, "thresholds": [-3.0, 0.0, 3.0]})
    assert isinstance(policy, ThresholdLearner)
    assert policy._steps[1:] == [-3.0, 0.0, 3.0]
    check_policy(policy)
