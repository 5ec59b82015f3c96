"""Replay of recorded traffic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from escalade.policies import (
    MAX_PROB,
    Action,
    AlwaysAccept,
    AlwaysEscalate,
    Batch,
    Budgeted,
    Decisions,
    Policy,
    Threshold,
)
from escalade.simulations.replay import NO_ANSWER, Recording, replay, threshold_curve

TIERS = ("endpoint", "edge_node", "edge_server")
SURE_0, SURE_1, UNSURE_0 = [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]


@dataclass
class Always(Policy):
    """Takes one action for everything."""

    action: Action

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.full(len(batch), self.action, np.int8))


def recording(
    endpoint: list[list[float]], node: list[list[float]], server: list[list[float]], labels: list[int]
) -> Recording:
    """Record two classes; the first hop costs 100 bytes, the second 10."""
    posteriors = tuple(np.array(rows, np.float32).reshape(-1, 2) for rows in (endpoint, node, server))
    return Recording(TIERS, posteriors, np.array(labels, np.int64), hop_bytes=(100, 10))


def random_recording(rows: int = 300, classes: int = 5, seed: int = 0) -> Recording:
    """Record three tiers of growing skill."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    posteriors = []
    for skill in (1.0, 2.0, 4.0):
        weight = np.exp(rng.normal(size=(rows, classes)) + skill * np.eye(classes)[labels])
        posteriors.append((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))
    return Recording(TIERS, tuple(posteriors), labels, hop_bytes=(150, 150))


def test_each_input_goes_up_until_a_policy_accepts_it() -> None:
    """A sure endpoint answers; else a sure node; else the server, whatever its score."""
    result = replay(
        recording(
            endpoint=[SURE_0, UNSURE_0, UNSURE_0],
            node=[SURE_1, SURE_1, UNSURE_0],
            server=[SURE_1, SURE_0, UNSURE_0],
            labels=[0, 1, 0],
        ),
        [Threshold(0.8), Threshold(0.8)],
    )
    assert result.tier.tolist() == [0, 1, 2]
    assert result.label.tolist() == [0, 1, 0]
    assert result.accuracy == 1.0


def test_every_hop_costs_its_bytes() -> None:
    """An input that ends at the server has paid for both hops, one that stays has paid nothing."""
    result = replay(
        recording([SURE_0, UNSURE_0, UNSURE_0], [SURE_0, SURE_0, UNSURE_0], [SURE_0] * 3, labels=[0, 0, 0]),
        [Threshold(0.8), Threshold(0.8)],
    )
    assert result.bytes_up.tolist() == [0, 100, 110]


def test_shares_and_accuracies_are_told_by_tier() -> None:
    """Shares add up to one; a tier that answered nothing has no accuracy."""
    result = replay(
        recording([SURE_0, SURE_0, UNSURE_0, UNSURE_0], [SURE_0] * 4, [SURE_1] * 4, labels=[0, 1, 0, 0]),
        [Threshold(0.8), AlwaysAccept()],
    )
    assert result.share == {"endpoint": 0.5, "edge_node": 0.5, "edge_server": 0.0}
    assert result.accuracy_by_tier == {"endpoint": 0.5, "edge_node": 1.0}


def test_a_deferred_input_counts_with_its_correction() -> None:
    """DEFER goes up as ESCALATE does."""
    result = replay(recording([UNSURE_0], [SURE_1], [SURE_0], labels=[1]), [Always(Action.DEFER), AlwaysAccept()])
    assert (result.tier.tolist(), result.accuracy, result.bytes_up.tolist()) == ([1], 1.0, [100])


def test_an_input_that_a_policy_abstains_on_has_no_answer() -> None:
    """It belongs to no tier's share and is not correct."""
    result = replay(recording([UNSURE_0], [SURE_1], [SURE_0], labels=[0]), [Always(Action.ABSTAIN), AlwaysAccept()])
    assert (result.tier.tolist(), result.label.tolist()) == ([NO_ANSWER], [NO_ANSWER])
    assert (result.accuracy, sum(result.share.values())) == (0.0, 0.0)


def test_an_unusable_posterior_is_never_accepted_below_the_top() -> None:
    """A row of NaN goes up whatever the threshold."""
    nothing = [float("nan"), float("nan")]
    result = replay(recording([nothing], [nothing], [SURE_1], labels=[1]), [Threshold(0.0), Threshold(float("-inf"))])
    assert (result.tier.tolist(), result.label.tolist()) == ([2], [1])


def test_no_inputs_give_no_numbers_and_no_error() -> None:
    """An empty recording has an accuracy of nan."""
    result = replay(recording([], [], [], labels=[]), [AlwaysEscalate(), AlwaysEscalate()])
    assert np.isnan(result.accuracy)
    assert result.accuracy_by_tier == {}


def test_replay_decides_as_the_service_does_one_by_one() -> None:
    """The batch decisions of replay are those of `decide_one`, input by input."""
    recorded = random_recording()
    policies = [Threshold(0.7), Threshold(0.9)]
    result = replay(recorded, policies)
    for row in range(len(recorded)):
        tier = 0
        while tier < 2:
            batch = Batch.of(MAX_PROB.batch(recorded.posteriors[tier][[row]]), recorded.posteriors[tier][[row]])
            if policies[tier].decide_one(*batch.row(0)) == Action.ACCEPT:
                break
            tier += 1
        assert result.tier[row] == tier


def test_the_threshold_curve_is_replay_at_every_threshold() -> None:
    """Each point of the curve is what `replay` gives for that threshold alone."""
    recorded = random_recording()
    thresholds = [0.0, 0.3, float(MAX_PROB.batch(recorded.posteriors[0])[17]), 0.8, 1.0, np.inf]
    curve = threshold_curve(recorded, thresholds, [Threshold(0.9)])
    for index, threshold in enumerate(thresholds):
        result = replay(recorded, [Threshold(threshold), Threshold(0.9)])
        assert curve.accuracy[index] == pytest.approx(result.accuracy)
        assert curve.share_escalated[index] == pytest.approx(1 - result.share["endpoint"])
        assert curve.bytes_up[index] == pytest.approx(result.bytes_up.sum())
    assert (curve.share_escalated[0], curve.share_escalated[-1]) == (0.0, 1.0)


def test_a_recording_whose_parts_do_not_fit_is_refused() -> None:
    """The message says which tier's posterior has which shape."""
    with pytest.raises(ValueError, match=r"edge_node: a posterior must have shape \(2, classes\), got \(1, 2\)"):
        recording([SURE_0, SURE_0], [SURE_0], [SURE_0, SURE_0], labels=[0, 0])
    with pytest.raises(ValueError, match="one fewer hop_bytes"):
        Recording(("a", "b"), (np.ones((1, 2), np.float32),) * 2, np.zeros(1, np.int64), hop_bytes=())


def test_a_policy_too_few_is_refused() -> None:
    """Every tier but the highest needs its policy."""
    with pytest.raises(ValueError, match="3 tiers need 2 policies, got 1"):
        replay(random_recording(), [AlwaysAccept()])


def test_a_policy_with_a_memory_decides_the_rows_in_their_order() -> None:
    """A budget lets the first through and then its share, the same each time: replay leaves the policy as it was."""
    posterior = np.tile(np.array([[0.6, 0.4]], np.float32), (12, 1))
    recording = Recording(("low", "high"), (posterior, posterior), np.zeros(12, np.int64), (100.0,))
    policy = Budgeted(Threshold(0.9), share=0.25, burst=1)
    for _ in range(2):
        assert replay(recording, [policy]).tier.tolist() == [1, 0, 0, 0] * 3
