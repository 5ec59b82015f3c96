"""Giving up a policy when the world has changed."""

from __future__ import annotations

import copy
import pickle
from math import nan

import numpy as np
import pytest

from escalade.policies import (
    HILF,
    UNKNOWN,
    Action,
    AlwaysEscalate,
    Batch,
    Context,
    DriftGuard,
    Feedback,
    Policy,
    Threshold,
    check_policy,
    load_policy,
)
from escalade.policies.label_mix import LabelMix


def stream(
    guard: DriftGuard,
    rows: int,
    *,
    score: float = 0.8,
    local: float = 0.9,
    upper: float = 0.95,
    audited: float = 0.02,
    seed: int = 0,
    classes: int = 10,
) -> float:
    """Feed back rows of tiers that are right so often; return the accuracy of what was answered."""
    rng = np.random.default_rng(seed)
    right = 0
    for _ in range(rows // 10):
        scores = np.clip(rng.normal(score, 0.1, 10), 0, 1).astype(np.float32)
        truth = rng.integers(0, classes, 10)
        answers = [np.where(rng.random(10) < share, truth, (truth + 1) % classes) for share in (local, upper)]
        asked = guard.decide(Batch.of(scores, uniform=rng.random(10))).action == Action.ESCALATE
        right += int((np.where(asked, answers[1], answers[0]) == truth).sum())
        audit = rng.random(10) < audited
        guard.observe(
            Feedback.of(
                scores,
                local=answers[0],
                action=(asked | audit).astype(int),
                upper=np.where(asked | audit, answers[1], UNKNOWN),
                hops=(asked | audit).astype(int),
                truth=np.where(audit, truth, UNKNOWN),
            )
        )
    return right / max(rows, 1)


def guarded(rows: int = 2000, policy: Policy | None = None) -> DriftGuard:
    """Return a guard that has seen ordinary rows."""
    guard = DriftGuard(policy or Threshold(0.8))
    stream(guard, rows)
    return guard


def in_mode(mode: str) -> DriftGuard:
    """Return a guard in that mode."""
    guard = guarded()
    if mode == "accept":
        stream(guard, 3000, score=0.4, local=0.8, upper=0.3)
    if mode == "escalate":
        stream(guard, 3000, local=0.4, upper=0.95, score=0.5)
        guard.policy = Threshold(0.0)
        stream(guard, 3000, local=0.4, upper=0.95, score=0.5)
    assert guard.mode == mode
    return guard


@pytest.mark.parametrize("mode", ["policy", "accept", "escalate"])
def test_a_guard_keeps_every_rule_in_every_mode(mode: str) -> None:
    """It passes the conformance kit whatever it has concluded."""
    check_policy(in_mode(mode))


@pytest.mark.parametrize("policy", [AlwaysEscalate(), HILF(0.3), DriftGuard(Threshold(0.5))], ids=repr)
def test_it_guards_any_policy(policy: Policy) -> None:
    """Also one that learns or is random, and another guard."""
    check_policy(guarded(300, policy))


def test_while_nothing_changes_the_policy_decides() -> None:
    """Ten thousand ordinary rows leave certificate and decisions alone."""
    guard = guarded(10_000)
    assert (guard.withdrawn, guard.reason, guard.mode) == (False, "", "policy")
    scores = np.linspace(0, 1, 101)
    assert guard.decide(Batch.of(scores)).action.tolist() == Threshold(0.8).decide(Batch.of(scores)).action.tolist()


def test_a_shift_of_the_scores_withdraws_the_certificate_without_any_label() -> None:
    """Scores alone are enough, within some hundred rows."""
    guard = guarded()
    stream(guard, 300, score=0.6, audited=0.0)
    assert (guard.withdrawn, guard.reason) == (True, "scores")


def test_other_classes_at_the_same_scores_withdraw_the_certificate() -> None:
    """Inputs of another kind may be taken for other classes with the same confidence."""
    guard = guarded()
    stream(guard, 600, classes=2, audited=0.0)
    assert (guard.withdrawn, guard.reason) == (True, "labels")


def test_it_stops_escalating_to_a_tier_that_has_become_worse() -> None:
    """The upper tier's fall shows in the audits; what follows is answered here, almost as well as can be."""
    guard = guarded()
    stream(guard, 1500, score=0.5, local=0.8, upper=0.4, audited=0.05)
    assert guard.mode == "accept"
    assert stream(guard, 3000, score=0.5, local=0.8, upper=0.4, audited=0.05, seed=1) > 0.78


def test_audits_alone_raise_the_alarm_when_scores_stay() -> None:
    """An upper tier that was replaced by a worse one does not move this tier's scores; the bets see it."""
    guard = guarded()
    stream(guard, 4000, local=0.9, upper=0.3, audited=0.1)
    assert (guard.withdrawn, guard.reason, guard.mode) == (True, "audits", "accept")


def test_it_returns_when_the_tier_above_recovers() -> None:
    """After another change the audits of before do not count, and the policy decides again."""
    guard = in_mode("accept")
    stream(guard, 4000, score=0.8, local=0.7, upper=0.95, audited=0.05)
    assert guard.withdrawn
    assert guard.mode != "accept"


def test_restore_trusts_the_policy_again() -> None:
    """After a new fit the guard begins as new."""
    guard = in_mode("accept")
    guard.restore()
    fresh = DriftGuard(Threshold(0.8))
    assert str(guard.state_dict()) == str(fresh.state_dict())


def test_a_row_without_a_usable_score_is_escalated_in_every_mode() -> None:
    """Accepting everything does not accept what the model gave no answer for."""
    guard = in_mode("accept")
    assert guard.decide_one(nan, Context()) is Action.ESCALATE
    assert guard.decide(Batch.of([nan, 0.1])).action.tolist() == [1, 0]


@pytest.mark.parametrize("rows", [0, 400, 2500])
def test_a_copy_goes_on_exactly_as_the_original(rows: int) -> None:
    """From a pickle or from the state, in the middle of a drift, the next conclusions are the same."""
    guard = DriftGuard(HILF(0.3))
    stream(guard, rows)
    stream(guard, rows // 3, score=0.5, upper=0.4, audited=0.1)
    loaded = DriftGuard(HILF(0.3))
    loaded.load_state_dict(guard.state_dict())
    twins = [loaded, pickle.loads(pickle.dumps(guard))]
    for each in (guard, *twins):
        stream(each, 1000, score=0.4, upper=0.2, seed=5, audited=0.1)
    for twin in twins:
        ours, theirs = guard.state_dict(), twin.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "spoil",
    [{"mode": 7}, {"reason": "bad luck"}, {"audits": np.zeros((2, 3))}, {"mix": np.zeros((3, 2))}, {"more": 1}],
)
def test_a_state_that_cannot_be_is_refused(spoil: dict[str, object]) -> None:
    """Entries that are unknown or of the wrong shape or value are refused."""
    guard = guarded(100)
    with pytest.raises(ValueError, match=r"mode|reason|audits|mix|more"):
        copy.deepcopy(guard).load_state_dict(guard.state_dict() | spoil)


@pytest.mark.parametrize(
    "parameters",
    [{"delta": 0.0}, {"false_alarm": 0.0}, {"margin": -1.0}, {"keep_audits": 0}, {"reference": 0}, {"cost": nan}],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        DriftGuard(Threshold(0.5), **parameters)  # type: ignore[arg-type]


def test_explain_tells_mode_and_evidence() -> None:
    """It shows the policy's numbers, the mode, the alarm and by how much each alternative leads."""
    numbers = in_mode("accept").explain(0.5, Context())
    assert numbers["mode"] == "accept"
    assert numbers["certificate_withdrawn"] is True
    assert isinstance(numbers["accept_leads_by"], float)


def test_it_loads_from_a_configuration() -> None:
    """A guarded policy is nested in a tier's YAML."""
    guard = load_policy({"name": "DriftGuard", "policy": {"name": "Threshold", "threshold": 0.9}, "margin": 1.0})
    assert repr(guard) == "DriftGuard(Threshold(0.9))"


def test_the_label_mix_suspects_a_tier_that_answers_one_class() -> None:
    """An upper tier that gives one class to all inputs is suspected; a real change of the mix cancels."""
    rng = np.random.default_rng(0)
    mix = LabelMix(reference=300)
    for label in rng.integers(0, 10, 300).tolist():
        mix.add(label, UNKNOWN, learn=True)
    for label in rng.integers(0, 3, 400).tolist():
        mix.add(label, label, learn=False)
    assert mix.suspicion() == 0.0
    mix.restart()
    for label in rng.integers(0, 10, 400).tolist():
        mix.add(label, 8, learn=False)
    assert mix.suspicion() > 0.5
