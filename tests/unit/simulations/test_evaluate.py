"""What a policy gives up and saves, judged on a trace."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import (
    ENERGY,
    MARGIN,
    UNKNOWN,
    Action,
    AlwaysAccept,
    AlwaysEscalate,
    Batch,
    Decisions,
    Feedback,
    FittedPolicy,
    NotFittedError,
    Policy,
    Threshold,
    Trace,
    TraceError,
    softmax,
)
from escalade.simulations.bootstrap import interval, resampled_means
from escalade.simulations.evaluate import Conditions, cascade, compare, curve, evaluate, run
from escalade.simulations.oracle import oracle_cost_at, oracle_curve, oracle_tiers

COSTS = (0.01, 0.1, 1.0)


def trace(rows: int = 500, classes: int = 4, seed: int = 0, tiers: int = 3) -> Trace:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = [
        ((1 + tier) * np.eye(classes)[labels] + rng.normal(size=(rows, classes))).astype(np.float32)
        for tier in range(tiers)
    ]
    return Trace.of([softmax(z) for z in logits], labels, logits=logits, costs=COSTS[-tiers:])


class TwoLevels(FittedPolicy):
    """Fitted for two deciding tiers: another threshold at each."""

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self.limits: list[float] | None = None

    @property
    def fitted(self) -> bool:
        return self.limits is not None

    def fit(self, trace: Trace) -> TwoLevels:
        self.limits = [0.9, 0.6][: trace.tiers - 1]
        return self

    def at_tier(self, level: int) -> TwoLevels:
        assert self.limits
        if level >= len(self.limits):
            raise ValueError(f"fitted for {len(self.limits)} tiers")
        view = TwoLevels(level)
        view.limits = self.limits
        return view

    def decide(self, batch: Batch) -> Decisions:
        assert self.limits
        return Threshold(self.limits[self.level]).decide(batch)


class Counts(Policy):
    """Learns: sends up everything until it has seen ten upper labels, then nothing."""

    def __init__(self) -> None:
        self.seen: list[Feedback] = []
        self.known = 0

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.full(len(batch), self.known < 10, np.int8))

    def observe(self, feedback: Feedback) -> None:
        self.seen.append(feedback)
        self.known += int((feedback.upper != UNKNOWN).sum())


def test_shares_cost_and_accuracy_are_those_of_the_tiers_reached() -> None:
    """Counted by hand: every input pays for each tier it reaches, over the price of the top alone."""
    data = trace()
    found = evaluate(data, [Threshold(0.7), Threshold(0.8)])
    stays = data.score(0) >= np.float32(0.7)
    middle = ~stays & (data.score(1) >= np.float32(0.8))
    top = ~stays & ~middle
    assert found.share == {"tier 1": stays.mean(), "tier 2": middle.mean(), "tier 3": top.mean()}
    assert found.relative_cost == pytest.approx(0.01 + 0.1 * (~stays).mean() + 1.0 * top.mean())
    right = np.where(stays, data.correct(0), np.where(middle, data.correct(1), data.correct(2)))
    assert found.accuracy == right.mean()
    assert found.values["given_up"] == pytest.approx(data.correct(2).mean() - right.mean())


def test_intervals_hold_their_value_and_json_has_the_promised_keys() -> None:
    """``evaluation.json`` holds accuracy, accuracy_top, share and relative_cost."""
    data = evaluate(trace(), Threshold(0.7)).to_dict()
    assert data["accuracy_top"] == trace().correct(2).mean()
    assert set(data["share"]) == {"tier 1", "tier 2", "tier 3"}
    low, high = data["intervals"]["accuracy"]
    assert low < data["accuracy"] < high
    low, high = data["intervals"]["relative_cost"]
    assert low < data["relative_cost"] < high
    assert data == evaluate(trace(), Threshold(0.7)).to_dict()


def test_bytes_latency_and_energy_add_up_over_the_hops() -> None:
    """An input that reaches the top has paid both hops; one that stays has paid its own tier only."""
    data = trace(rows=4)
    given = Conditions(row_bytes=np.full((4, 2), [100.0, 10.0]), latency_ms=(1.0, 5.0, 40.0), energy_mj=(2.0, 0.0, 8.0))
    up = evaluate(data, AlwaysEscalate(), given).values
    assert (up["bytes_up"], up["latency_ms"], up["energy_mj"]) == (110.0, 46.0, 10.0)
    here = evaluate(data, AlwaysAccept(), given).values
    assert (here["bytes_up"], here["latency_ms"], here["energy_mj"]) == (0.0, 1.0, 2.0)


def test_the_tiers_own_predictions_count_even_where_the_posterior_says_otherwise() -> None:
    """A tier's answer is what the trace says it answered."""
    posterior = [[0.9, 0.1]]
    data = Trace.of([posterior, posterior], [1], predictions=[[1], [0]])
    assert evaluate(data, AlwaysAccept()).accuracy == 1.0
    assert evaluate(data, AlwaysEscalate()).accuracy == 0.0


@pytest.mark.parametrize("score", [MARGIN, ENERGY])
def test_a_policy_is_given_the_score_that_was_asked_for(score: Any) -> None:
    """Energy comes from the logits."""
    data = trace()
    limit = float(np.median(data.score(0, score)))
    found = evaluate(data, [Threshold(limit), AlwaysAccept()], Conditions(score=score))
    assert found.share["tier 1"] == (data.score(0, score) >= np.float32(limit)).mean()


def test_a_fitted_policy_decides_at_each_tier_with_its_own_view() -> None:
    """`at_tier` is asked for every tier but the top."""
    data = trace()
    found = evaluate(data, TwoLevels().fit(data))
    assert found.share == evaluate(data, [Threshold(0.9), Threshold(0.6)]).share


def test_a_policy_of_another_number_of_tiers_is_refused() -> None:
    """Fitted for fewer, for more, not at all, or a list of the wrong length."""
    three, two = trace(), trace(tiers=2)
    with pytest.raises(TraceError, match="does not know tier 2"):
        cascade(TwoLevels().fit(two), 3)
    with pytest.raises(TraceError, match="fitted for more"):
        cascade(TwoLevels().fit(three), 2)
    with pytest.raises(NotFittedError, match="escalade policy fit"):
        cascade(TwoLevels(), 3)
    with pytest.raises(TraceError, match="1 policies for 3 tiers; 2 are needed"):
        cascade([Threshold(0.5)], 3)


def test_a_policy_that_learns_is_told_what_a_tier_would_be() -> None:
    """One feedback an input: upper labels only where it was asked, true ones only where audited, nothing is changed."""
    data, policy = trace(rows=50), Counts()
    found = run(data, policy, Conditions(audit=0.5))
    assert policy.seen == []
    assert (found.reached > 0).sum() == 10 + (found.reached[10:] > 0).sum()
    assert (found.reached[:10] >= 1).all()
    assert (found.reached[10:] == 0).all()


def test_feedback_counts_the_hops_and_hides_unaudited_truth() -> None:
    """An input that went two tiers up comes back with hops 2 to the lowest, 1 to the middle."""

    class Spy(Counts):
        heard: list[Feedback] = []  # noqa: RUF012 - shared with the copy on purpose

        def decide(self, batch: Batch) -> Decisions:
            return AlwaysEscalate().decide(batch)

        def observe(self, feedback: Feedback) -> None:
            self.heard.append(feedback)

        def __deepcopy__(self, memo: object) -> Spy:
            return self

    data = trace(rows=30)
    run(data, Spy(), Conditions(audit=0.0))
    assert len(Spy.heard) == 60
    assert [int(f.hops[0]) for f in Spy.heard[:4]] == [2, 1, 2, 1]
    assert all(int(f.truth[0]) == UNKNOWN for f in Spy.heard)
    assert [int(f.upper[0]) for f in Spy.heard[::2]] == data.predictions[2].tolist()
    assert [int(f.local[0]) for f in Spy.heard[1::2]] == data.predictions[1].tolist()


def test_an_input_that_is_abstained_on_pays_for_the_tiers_it_reached() -> None:
    """It belongs to no share, is not right, and has cost what was asked."""

    class Abstains(Policy):
        def decide(self, batch: Batch) -> Decisions:
            return Decisions.of(np.full(len(batch), Action.ABSTAIN, np.int8))

    found = evaluate(trace(), [AlwaysEscalate(), Abstains()])
    assert (found.accuracy, sum(found.share.values())) == (0.0, 0.0)
    assert found.relative_cost == pytest.approx(0.11)


def test_a_deadline_and_arrivals_reach_the_policy() -> None:
    """What is left after the tiers below, the latency of the tier above, and when the input came."""

    class Looks(Policy):
        seen: list[tuple[float, float, float]] = []  # noqa: RUF012 - shared with the copy on purpose

        def decide(self, batch: Batch) -> Decisions:
            self.seen.append((float(batch.remaining_ms[0]), float(batch.upstream_ms[0]), float(batch.time_s[-1])))
            return AlwaysEscalate().decide(batch)

    data = trace(rows=5)
    run(data, Looks(), Conditions(latency_ms=(1.0, 5.0, 40.0), deadline_ms=100.0, time_s=np.arange(5) / 2))
    assert Looks.seen == [(100.0, 5.0, 2.0), (95.0, 40.0, 2.0)]


def test_differences_are_paired() -> None:
    """Two policies that differ on few inputs have a narrow interval about their difference."""
    data = trace(rows=2000)
    first, second = evaluate(data, Threshold(0.70)), evaluate(data, Threshold(0.72))
    (found,) = compare([first, second])
    assert found["accuracy"]["difference"] == pytest.approx(second.accuracy - first.accuracy)
    low, high = found["accuracy"]["interval"]
    single = first.intervals["correct"][1] - first.intervals["correct"][0]
    assert high - low < single / 2
    assert found["relative_cost"]["sure"]


def brute_force(data: Trace) -> dict[float, float]:
    """Return the least total price at every number of right answers, over all assignments."""
    price = np.cumsum(data.costs)
    best: dict[float, float] = {}
    for tiers in product(range(data.tiers), repeat=len(data)):
        right = sum(bool(data.correct(t)[row]) for row, t in enumerate(tiers)) / len(data)
        cost = sum(price[t] for t in tiers) / len(data)
        best[right] = min(best.get(right, np.inf), cost)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_oracle_is_the_best_of_all_assignments(seed: int) -> None:
    """On seven inputs and three tiers every assignment is tried; none is right as often for less."""
    data = trace(rows=7, seed=seed)
    best = brute_force(data)
    right = np.take_along_axis(
        np.stack([data.correct(t) for t in range(3)]), oracle_tiers(data)[None].astype(np.intp), axis=0
    )
    assert right.mean() == pytest.approx(max(best))
    for accuracy, cost in best.items():
        if accuracy >= data.correct(0).mean():
            assert oracle_cost_at(data, accuracy) == pytest.approx(cost)
    costs, accuracies = oracle_curve(data)
    assert costs[0] == pytest.approx(0.01)
    assert accuracies[-1] == pytest.approx(max(best))
    assert np.isnan(oracle_cost_at(data, 1.01))


@pytest.mark.parametrize("points", [10_000, 20])
def test_the_curve_is_what_thresholds_give(points: int) -> None:
    """Each point of the curve is a threshold at the lowest tier with everything else asked of the top."""
    data = trace(rows=300)
    found = curve(data, Conditions(), points=points)
    for share, accuracy, limit in zip(found["share_up"], found["accuracy"], found["threshold"], strict=True):
        result = evaluate(data, [Threshold(float(limit)), AlwaysEscalate()], Conditions(resamples=2))
        assert 1 - result.share["tier 1"] == pytest.approx(share)
        assert result.accuracy == pytest.approx(accuracy)
    assert len(found["share_up"]) <= points
    assert (found["share_up"][0], found["share_up"][-1]) == (1.0, 0.0)


def means_by_rows(columns: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.stack([columns[rng.integers(0, len(columns), len(columns))].mean(axis=0) for _ in range(4000)])


def test_the_bootstrap_of_distinct_rows_is_that_of_rows() -> None:
    """Mean, spread and correlation of the resampled means are those of drawing rows one by one."""
    rng = np.random.default_rng(1)
    columns = rng.integers(0, 2, (200, 2)) * [1.0, 3.0]
    columns[:, 1] += columns[:, 0]
    fast, slow = resampled_means(columns, resamples=4000), means_by_rows(columns, 2)
    assert np.allclose(fast.mean(axis=0), slow.mean(axis=0), atol=0.01)
    assert np.allclose(np.cov(fast.T), np.cov(slow.T), rtol=0.15)


def test_bootstrap_intervals_cover_in_about_their_level() -> None:
    """Of 200 samples of 300 coins of 0.8, the 95 % interval holds 0.8 in 180 or more."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        columns = (rng.random((300, 1)) < 0.8).astype(np.float64)
        low, high = interval(resampled_means(columns, resamples=500, seed=seed)[:, 0])
        held += low <= 0.8 <= high
    assert 180 <= held <= 199


def test_a_top_tier_that_is_free_has_no_relative_cost() -> None:
    """The error says what to give."""
    data = replace(trace(), costs=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="--costs"):
        evaluate(data, AlwaysAccept())
