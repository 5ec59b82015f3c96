"""Thresholds with a certificate: that the promise is kept, and what is refused."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped, unused-ignore]

from escalade.policies import (
    Batch,
    Certificate,
    Context,
    FitError,
    NotFittedError,
    PolicyConfigError,
    RiskControlled,
    Trace,
    TraceError,
    check_policy,
    load_policy,
    load_score,
    softmax,
)
from escalade.policies.bounds import binomial_cdf, upper_bound
from escalade.policies.fitting_data import FittingData
from escalade.policies.threshold_grid import ThresholdGrid, front, plain_ladder

DIGESTS = ["a" * 64, "b" * 64, "c" * 64]


def made(rows: int, seed: int = 0, skills: tuple[float, ...] = (2.0, 3.0, 4.0)) -> Trace:
    """Tiers that see the label through noise, the higher the less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    tiers = [softmax(skill * np.eye(3)[labels] + rng.normal(size=(rows, 3))) for skill in skills]
    return Trace.of(tiers, labels, costs=(0.01, 0.1, 1.0, 2.0)[: len(skills)])


def cascade(policy: RiskControlled, trace: Trace) -> tuple[NDArray[np.bool_], float]:
    """Where the cascade is right, and its mean cost, by the policy's own decisions."""
    here, right, cost = np.ones(len(trace), bool), np.zeros(len(trace), bool), trace.costs[0]
    for tier in range(trace.tiers - 1):
        score = trace.score(tier, load_score(policy.score, "posterior"))
        accepted = here & (policy.at_tier(tier).decide(Batch.of(score, trace.posteriors[tier])).action == 0)
        right |= accepted & trace.correct(tier)
        here &= ~accepted
        cost += trace.costs[tier + 1] * float(here.mean())
    return right | (here & trace.correct(trace.tiers - 1)), cost


def lost(policy: RiskControlled, trace: Trace, loss: str = "regret") -> float:
    """What the cascade loses against the top tier."""
    right, top = cascade(policy, trace)[0], trace.correct(trace.tiers - 1)
    return float((top & ~right).mean()) if loss == "regret" else float(top.mean() - right.mean())


@pytest.mark.parametrize("loss", ["regret", "net"])
@pytest.mark.parametrize("skills", [(2.0, 3.0, 4.0), (1.5, 4.0)])
def test_the_promise_is_kept_in_enough_of_many_draws(loss: Any, skills: tuple[float, ...]) -> None:
    """Over 60 calibration sets the loss exceeds alpha in no more cases than delta explains, and often comes near."""
    pool = made(20_000, 1, skills)
    rng, broken, near = np.random.default_rng(2), 0, 0
    for _ in range(60):
        sample = pool.take(rng.integers(0, len(pool), 1500))
        policy = RiskControlled(0.03, 0.1, loss=loss, reserve=0.0).fit(sample)
        seen = lost(policy, pool, loss)
        broken += seen > 0.03
        near += seen > 0.015
    assert broken <= stats.binom.ppf(0.99, 60, 0.1)
    assert near >= 30


def test_the_plain_empirical_choice_would_not_keep_it() -> None:
    """The same draws without a test break the promise in a third of the cases or more: the test can fail."""
    pool = made(20_000, 1, (1.5, 4.0))
    data, rng, broken = FittingData.of(pool, "max_prob", 0), np.random.default_rng(2), 0
    for _ in range(60):
        sample = data.take(rng.integers(0, len(pool), 1500))
        grid = ThresholdGrid((plain_ladder(sample.scores[0], 500),))
        cells = grid.cells(grid.held(sample.scores, sample.predicted), sample.losses("regret"), sample.costs)
        within = np.flatnonzero(cells.loss[0] / 1500 <= 0.03)
        limit = grid.ladders[0][within[cells.cost[within].argmin()], 0]
        broken += float((data.lost(0) & (data.scores[0] >= limit)).mean()) > 0.03
    assert broken >= 20


@pytest.mark.parametrize("options", [{}, {"per_class": False}, {"score": "margin"}, {"loss": "net"}])
def test_the_certificate_says_what_the_rows_show(options: dict[str, Any]) -> None:
    """What was measured is what the decisions give on the same rows; bound and p-value are within the promise."""
    trace = made(4000)
    policy = RiskControlled(0.02, 0.1, **options).fit(trace, date="2025-01-31")
    certificate = policy.certificate
    assert lost(policy, trace, policy.loss) == pytest.approx(certificate.measured, abs=1e-12)
    assert certificate.bound <= 0.02 + 1e-4
    assert certificate.p_value <= 0.1
    assert (certificate.n, certificate.n_test, certificate.date) == (4000, 2000, "2025-01-31")
    assert certificate.data_digest == trace.digest()
    assert cascade(policy, trace)[1] < sum(trace.costs)


def test_bound_and_p_value_are_exact_binomial_ones() -> None:
    """Some whole number of losses in the tested half explains both."""
    certificate = RiskControlled(0.02).fit(made(4000)).certificate
    counts = range(100)
    assert certificate.p_value in [binomial_cdf(count, 2000, 0.02) for count in counts]
    assert certificate.bound in [upper_bound(count, 2000, 0.1) for count in counts]


@pytest.mark.parametrize("skills", [(2.0, 4.0), (2.0, 3.0, 4.0), (1.5, 2.0, 3.0, 4.0)])
def test_all_tiers_are_fitted_at_once(skills: tuple[float, ...]) -> None:
    """There are thresholds for every tier but the highest, and they save something."""
    trace = made(3000, skills=skills)
    policy = RiskControlled(0.05).fit(trace)
    assert len(policy.thresholds) == len(skills) - 1
    assert cascade(policy, trace)[1] < 0.9 * sum(trace.costs)


def test_the_reserve_is_left_unused() -> None:
    """With a reserve the measured loss stays that much below alpha, at a higher cost."""
    trace = made(4000)
    plain, careful = (RiskControlled(0.03, reserve=share).fit(trace) for share in (0.0, 0.5))
    assert careful.certificate.measured <= 0.015 < plain.certificate.measured
    assert cascade(careful, trace)[1] > cascade(plain, trace)[1]


def test_a_net_loss_is_cheaper_than_a_regret() -> None:
    """Where wins make up for losses, the same alpha buys more."""
    trace = made(8000, skills=(3.0, 3.2, 3.4))
    regret, net = (RiskControlled(0.02, loss=loss, reserve=0.0).fit(trace) for loss in ("regret", "net"))
    assert cascade(net, trace)[1] < cascade(regret, trace)[1]


@pytest.mark.parametrize("rows", [2, 30, 100, 229, 286])
def test_too_few_rows_are_not_guessed_about(rows: int) -> None:
    """Below what a test without a single loss needs, nothing is certified, and about that number is asked for."""
    with pytest.raises(
        FitError, match=f"alpha=0.01 at delta=0.1 cannot be certified with {rows} rows; about 290 labels"
    ):
        RiskControlled(0.01, 0.1).fit(made(rows + 4).take(slice(rows)))


def test_the_number_of_labels_asked_for_is_enough() -> None:
    """With as many rows as the error names, most draws can be certified."""
    with pytest.raises(FitError) as caught:
        RiskControlled(0.01, 0.1).fit(made(250))
    found = re.search(r"about (\d+) labels needed", str(caught.value))
    assert found
    certified = 0
    for seed in range(20):
        try:
            certified += RiskControlled(0.01, 0.1).fit(made(int(found[1]), seed)).fitted
        except FitError:
            continue
    assert certified >= 14


def test_what_no_number_of_labels_shows_is_said() -> None:
    """Where the surest answers of the lower tier are wrong too, more rows are not asked for."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    sure_and_wrong = np.where(np.eye(2)[1 - labels] > 0, 0.9, 0.1)
    trace = Trace.of([sure_and_wrong, np.eye(2)[labels]], labels)
    with pytest.raises(FitError, match=r"cannot be certified with 4000 rows; no number of labels would do"):
        RiskControlled(0.01, per_class=False).fit(trace)


def test_every_tier_keeps_every_rule_of_a_policy() -> None:
    """Fitted, at each tier, with thresholds by class or without, it passes the conformance kit."""
    for per_class in (True, False):
        policy = RiskControlled(0.05, per_class=per_class).fit(made(2000))
        assert len(policy.thresholds[0]) == (3 if per_class else 1)
        for level in (0, 1):
            check_policy(policy.at_tier(level), classes=3)
            check_policy(policy.at_tier(level), classes=10)


def test_rows_alone_and_together_are_decided_alike() -> None:
    """At the thresholds themselves and beside them, both ways agree for every class."""
    policy = RiskControlled(0.02).fit(made(4000))
    limits = np.repeat(np.array(policy.thresholds[0], np.float32), 3)
    score = np.concatenate([np.nextafter(limits, np.float32(0)), limits, np.nextafter(limits, np.float32(1))])
    posterior = np.tile(np.eye(3, dtype=np.float32), (9, 1))
    batch = policy.decide(Batch.of(score, posterior)).action.tolist()
    rows = zip(score.tolist(), posterior.tolist(), strict=True)
    assert [policy.decide_one(one, Context(posterior=row)) for one, row in rows] == batch
    assert set(batch) == {0, 1}


def test_a_class_that_was_never_seen_is_not_certified() -> None:
    """A posterior of more classes than the calibration data had is escalated where it names a new one."""
    policy = RiskControlled(0.05).fit(made(2000))
    assert policy.decide(Batch.of([1.0, 1.0], np.eye(5)[[0, 4]])).action.tolist() == [0, 1]


def test_the_certificate_travels_with_the_state() -> None:
    """Through the state as text and through pickle it is the same policy, certificate and all."""
    policy = RiskControlled(0.02, models=DIGESTS).fit(made(4000))
    state = policy.state_dict()
    assert Certificate.from_json(state["certificate"]) == policy.certificate
    twin = RiskControlled(0.02, level=1)
    twin.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert twin.certificate == policy.certificate
    assert twin.state_dict() == state
    score = np.linspace(0.3, 1, 1000)
    rows = Batch.of(score, np.eye(3)[np.arange(1000) % 3])
    assert np.array_equal(twin.decide(rows).action, policy.at_tier(1).decide(rows).action)
    assert np.array_equal(pickle.loads(pickle.dumps(policy)).decide(rows).action, policy.decide(rows).action)


def test_another_model_than_the_certified_is_refused_at_its_tier() -> None:
    """Each level asks for its own tier's model; both digests are named."""
    policy = RiskControlled(0.05, models=DIGESTS).fit(made(2000))
    policy.check_model("a" * 64)
    policy.at_tier(1).check_model("b" * 64)
    with pytest.raises(ValueError, match=f"tier 2: it names SHA-256 {'b' * 64}, the model is {'a' * 64}"):
        policy.at_tier(1).check_model("a" * 64)
    RiskControlled(0.05).fit(made(2000)).check_model("f" * 64)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0.01}, "alpha is 0.01, but the certificate is of alpha 0.02; fit again"),
        ({"alpha": 0.02, "delta": 0.05}, "delta is 0.05, but"),
        ({"alpha": 0.02, "loss": "net"}, "loss is 'net', but"),
        ({"alpha": 0.02, "score": "margin"}, "score is 'margin', but"),
        ({"alpha": 0.02, "level": 2}, "level is 2, but the certificate is for tiers 0 to 1"),
        ({"alpha": 0.02, "models": ["f" * 64]}, "is of another model of tier 1"),
    ],
)
def test_a_certificate_of_something_else_is_refused(parameters: dict[str, Any], message: str) -> None:
    """Another promise, score, tier or model than configured is an error, not a surprise later."""
    state = RiskControlled(0.02, models=DIGESTS).fit(made(4000)).state_dict()
    policy = RiskControlled(**parameters)
    with pytest.raises(ValueError, match=message):
        policy.load_state_dict(state)
    assert not policy.fitted


@pytest.mark.parametrize("state", [{"certificate": 1}, {"thresholds": "x"}, {"certificate": "{}"}, {"certificate": ""}])
def test_what_is_no_state_is_refused(state: dict[str, Any]) -> None:
    """A state is a certificate as text and nothing else."""
    with pytest.raises(ValueError, match=r"the state of RiskControlled is|not a valid certificate"):
        RiskControlled(0.02).load_state_dict(state)


def test_before_the_fit_it_neither_decides_nor_certifies() -> None:
    """All that needs a fit says what to do."""
    policy = RiskControlled(0.02)
    for call in (
        lambda: policy.decide(Batch.of([0.5])),
        lambda: policy.decide_one(0.5, Context()),
        lambda: policy.check_model("a" * 64),
        lambda: policy.explain(0.5, Context()),
    ):
        with pytest.raises(NotFittedError, match="fit it to calibration data or load its state"):
            call()
    assert policy.state_dict() == {}
    assert not policy.at_tier(1).fitted


def test_an_input_is_explained() -> None:
    """The class, its threshold and the promise stand beside the score."""
    policy = RiskControlled(0.02).fit(made(4000))
    shown = policy.explain(0.5, Context(posterior=[0.2, 0.5, 0.3]))
    assert (shown["class"], shown["threshold"]) == (1, policy.thresholds[0][1])
    assert (shown["alpha"], shown["delta"], shown["rows"]) == (0.02, 0.1, 4000)


def test_data_that_cannot_be_fitted_are_named() -> None:
    """Too few tiers, one class only, a score without its logits, nothing to save."""
    trace = made(1000)
    free = Trace.of(trace.posteriors, trace.labels, costs=(1.0, 0.0, 0.0))
    with pytest.raises(FitError, match="asking the tiers above costs nothing"):
        RiskControlled(0.02).fit(free)
    with pytest.raises(TraceError, match="a policy at level 0 needs 2 tiers or more, its own and one above, got 1"):
        RiskControlled(0.02).fit(trace.above(2))
    with pytest.raises(TraceError, match=r"labels: all \d+ rows are of class 2"):
        RiskControlled(0.02).fit(trace.take(trace.labels == 2))
    with pytest.raises(FitError, match="needs logits"):
        RiskControlled(0.02, score="energy").fit(trace)
    with pytest.raises(ValueError, match="models names 4 models, but the trace has 3 tiers"):
        RiskControlled(0.02, models=[*DIGESTS, "d" * 64]).fit(trace)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0.0}, "alpha must be"),
        ({"alpha": 1.0}, "alpha must be"),
        ({"alpha": 0.1, "delta": 0.0}, "delta must be"),
        ({"alpha": 0.1, "reserve": 1.0}, "reserve must be"),
        ({"alpha": 0.1, "learning": 1.0}, "learning must be"),
        ({"alpha": 0.1, "level": -1}, "level must be"),
        ({"alpha": 0.1, "loss": "gross"}, "loss must be"),
        ({"alpha": float("nan")}, "alpha must be"),
    ],
)
def test_senseless_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    """The constructor says which, and what it may be."""
    with pytest.raises(ValueError, match=message):
        RiskControlled(**parameters)


def test_a_configuration_is_checked() -> None:
    """A loss that there is not is refused where it stands."""
    with pytest.raises(PolicyConfigError, match=r"policy\.loss"):
        load_policy({"name": "RiskControlled", "alpha": 0.02, "loss": "gross"}, unfitted=True)


@given(seed=st.integers(0, 1000), deciding=st.integers(1, 3))
def test_the_grid_counts_as_a_loop_does(seed: int, deciding: int) -> None:
    """Losses and cost of every combination of rungs are those of going through the inputs one by one."""
    rng = np.random.default_rng(seed)
    trace = made(25, seed, tuple(rng.uniform(0, 3, deciding + 1)))
    data = FittingData.of(trace, "max_prob", 0)
    grid = ThresholdGrid(tuple(plain_ladder(score, 4) for score in data.scores))
    cells = grid.cells(grid.held(data.scores, data.predicted), data.losses("net"), data.costs)
    for cell in range(0, len(cells.cost), 3):
        cost, counts = 0.0, [0, 0]
        for row in range(25):
            tier = 0
            cost += data.costs[0]
            while tier < deciding and data.scores[tier][row] < grid.ladders[tier][cells.rungs[tier, cell], 0]:
                tier += 1
                cost += data.costs[tier]
            counts[0] += bool(data.correct[-1, row] and not data.correct[tier, row])
            counts[1] += bool(data.correct[tier, row] and not data.correct[-1, row])
        assert cells.cost[cell] == pytest.approx(cost / 25)
        assert cells.loss[:, cell].tolist() == counts
    best = front(cells, cells.loss[0])
    assert np.all(np.diff(cells.loss[0][best]) > 0)
    assert np.all(np.diff(cells.cost[best]) < 0)


def test_fashion_is_certified_at_a_ninth_of_the_cost() -> None:
    """On the real cascade the certified thresholds hold their targets on the official test set."""
    folder = Path(os.environ.get("ESCALADE_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    file = folder / "traces" / "fashion.npz"
    if not file.exists():
        pytest.skip(f"there is no {file.name}; set ESCALADE_DATA to the folder that holds traces/")
    parts = []
    with np.load(file) as arrays:
        for part in ("cal", "test"):
            tiers = [softmax(arrays[f"t{tier}_{part}"]) for tier in (1, 2, 3)]
            parts.append(Trace.of(tiers, arrays[f"y_{part}"], costs=(0.01, 0.1, 1.0)))
    policy = RiskControlled(0.02, 0.1).fit(parts[0])
    right, cost = cascade(policy, parts[1])
    assert cost <= 0.11
    assert right.mean() >= 0.929
    assert lost(policy, parts[1]) <= 0.02
