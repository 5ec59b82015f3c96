"""What another policy would have done on recorded traffic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import Action, AlwaysAccept, AlwaysEscalate, Batch, Decisions, Policy, Threshold
from escalade.simulations.off_policy import Logged, OffPolicyError, action_probabilities, estimate

CLASSES = 5


class Chance(Policy):
    """Goes up with probability `likely` below the threshold and `seldom` above it."""

    def __init__(self, threshold: float, seldom: float = 0.2, likely: float = 0.8) -> None:
        self.threshold, self.seldom, self.likely = np.float32(threshold), seldom, likely

    def decide(self, batch: Batch) -> Decisions:
        chance = np.where(batch.score >= self.threshold, self.seldom, self.likely)
        up = batch.uniform < chance
        return Decisions(up.astype(np.int8), np.where(up, chance, 1 - chance))


World = tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], np.random.Generator]


def world(rows: int, seed: int) -> World:
    """Inputs whose local answer is right as often as its score; the upper tier is best on hard ones."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows).astype(np.float32)
    truth = rng.integers(0, CLASSES, rows)
    local = np.where(rng.random(rows) < score, truth, (truth + 1) % CLASSES)
    upper = np.where(rng.random(rows) < 0.5 + 0.4 * (1 - score), truth, (truth + 2) % CLASSES)
    return score, truth, local, upper, rng


def log(policy: Policy, rows: int = 1500, seed: int = 0, labelled: bool = True) -> Logged:
    score, truth, local, upper, rng = world(rows, seed)
    batch = Batch.of(score, uniform=rng.random(rows))
    decided = policy.decide(batch)
    seen = np.where(decided.action == Action.ESCALATE, upper, -1)
    return Logged(batch, decided.action, decided.propensity, local, seen, truth if labelled else np.full(rows, -1))


def truth_of(policy: Threshold, reference: str) -> float:
    score, truth, local, upper, _ = world(1_000_000, 12345)
    accept = policy.decide(Batch.of(score)).action == Action.ACCEPT
    right = truth if reference == "truth" else upper
    return float(np.where(accept, local == right, upper == right).mean())


@pytest.mark.parametrize("reference", ["truth", "upper"])
def test_intervals_cover_what_would_have_been(reference: str) -> None:
    """Of 100 recordings, the 95 % intervals of both estimates hold the true accuracy in 89 or more."""
    policy = Threshold(0.6)
    value = truth_of(policy, reference)
    held = [0, 0]
    for seed in range(100):
        logged = log(Chance(0.5), seed=seed, labelled=reference == "truth")
        found = estimate(logged, policy, reference=reference, seed=seed, resamples=400)
        held[0] += found.interval[0] <= value <= found.interval[1]
        held[1] += found.interval_dr[0] <= value <= found.interval_dr[1]
    assert min(held) >= 89


def test_ignoring_the_propensities_would_be_wrong() -> None:
    """The plain mean over the rows where both policies agree is far from the truth; the estimate is not."""
    policy, logged = Threshold(0.6), log(Chance(0.5, 0.02, 0.5), rows=60_000, labelled=False)
    value = truth_of(policy, "upper")
    found = estimate(logged, policy, reference="upper", resamples=200)
    known = logged.upper >= 0
    accept = policy.decide(logged.batch).action == Action.ACCEPT
    naive = float(np.where(accept, logged.local == logged.upper, True)[known].mean())
    assert abs(found.accuracy - value) < 0.01
    assert abs(naive - value) > 0.04


def test_the_share_that_goes_up_needs_no_weights() -> None:
    """What a policy does is known for every recorded input."""
    found = estimate(log(Chance(0.5)), Threshold(0.6), resamples=100)
    assert found.share_up == pytest.approx((world(1500, 0)[0] < np.float32(0.6)).mean())


def test_a_deterministic_recording_is_refused_where_it_knows_nothing() -> None:
    """A policy that escalates what was never sent up cannot be judged; the text counts the inputs and names one."""
    logged = log(Threshold(0.5))
    first = int((logged.batch.score[:, None] >= 0.5).argmax())
    with pytest.raises(OffPolicyError, match=rf"escalates .* never sent up \(the first is row {first}\)"):
        estimate(logged, Threshold(0.99))
    with pytest.raises(OffPolicyError, match=r"accepts .* never sent up"):
        estimate(log(Threshold(0.5), labelled=False), Threshold(0.4), reference="upper")


def test_a_deterministic_recording_answers_what_it_knows() -> None:
    """With true labels, a policy that escalates less than the recorded one is known row by row."""
    logged = log(Threshold(0.7), rows=4000)
    found = estimate(logged, Threshold(0.5), resamples=100)
    score, truth, local, upper, _ = world(4000, 0)
    exact = np.where(score >= np.float32(0.5), local == truth, upper == truth).mean()
    assert found.accuracy == pytest.approx(exact)
    assert found.accuracy_dr == pytest.approx(exact, abs=1e-9)
    assert found.effective_rows == pytest.approx(4000)


def test_too_few_effective_rows_are_refused() -> None:
    """One escalation in a thousand says nothing about escalating everything."""
    with pytest.raises(OffPolicyError, match=r"worth .* fewer than 50; record more traffic"):
        estimate(log(Chance(0.5, 0.002, 0.002), rows=4000), AlwaysEscalate())


def test_missing_labels_are_refused_with_the_way_out() -> None:
    """Against the truth every row needs one; without any the tier above may stand for it."""
    logged = log(Chance(0.5), labelled=False)
    with pytest.raises(OffPolicyError, match=r"1500 of 1500 rows have no true label.*reference: upper"):
        estimate(logged, AlwaysAccept())
    assert estimate(logged, AlwaysAccept(), reference="upper", resamples=100).reference == "upper"


def test_an_outage_is_told_and_a_long_one_refused() -> None:
    """Escalations without an answer count as lost by chance up to a fifth."""
    logged = log(Chance(0.5), rows=4000)
    lost = np.random.default_rng(3).random(4000)
    some = replace(logged, upper=np.where(lost < 0.1, -1, logged.upper))
    found = estimate(some, Threshold(0.6), resamples=200)
    assert 0.05 < found.unanswered < 0.15
    assert found.interval[0] <= truth_of(Threshold(0.6), "truth") <= found.interval[1]
    many = replace(logged, upper=np.where(lost < 0.3, -1, logged.upper))
    with pytest.raises(OffPolicyError, match="no answer came"):
        estimate(many, Threshold(0.6))


def test_a_propensity_of_zero_is_refused() -> None:
    """What was done cannot have been impossible."""
    logged = log(Chance(0.5))
    logged.propensity[4] = 0.0
    with pytest.raises(OffPolicyError, match="row 4"):
        estimate(logged, AlwaysAccept())


def test_an_empty_recording_is_refused() -> None:
    """There is nothing to say."""
    with pytest.raises(OffPolicyError, match="no rows"):
        estimate(log(Chance(0.5), rows=0), AlwaysAccept())


def test_probabilities_of_chance_are_read_off_exactly() -> None:
    """However small, and for either action."""
    batch = Batch.of(np.array([0.9, 0.1], np.float32))
    accept, up = action_probabilities(Chance(0.5, 0.001, 0.999), batch)
    assert accept == pytest.approx([0.999, 0.001])
    assert up == pytest.approx([0.001, 0.999])


def test_a_random_policy_is_weighed_by_its_probabilities() -> None:
    """Judging the recorded policy itself gives what it had, within the interval."""
    policy = Chance(0.5)
    score, truth, local, upper, _ = world(1_000_000, 7)
    chance = np.where(score >= np.float32(0.5), 0.2, 0.8)
    value = float((chance * (upper == truth) + (1 - chance) * (local == truth)).mean())
    found = estimate(log(policy, rows=6000), policy, resamples=300)
    assert found.interval[0] <= value <= found.interval[1]
    assert found.share_up == pytest.approx(0.5, abs=0.02)
