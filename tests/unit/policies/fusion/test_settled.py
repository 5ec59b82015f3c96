"""Answering early, and rules from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import PolicyConfigError
from escalade.policies.fusion import (
    FeatureFusion,
    FusionRule,
    HealthChecked,
    LogOpinionPool,
    MajorityVote,
    MaxConfidence,
    MeanProbability,
    Stacking,
    load_rule,
)
from escalade.policies.state_file import save_state

DECIDABLE: list[FusionRule] = [MeanProbability(), MajorityVote()]


def certain(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    return np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], shape[:-1])]


@pytest.mark.parametrize("rule", DECIDABLE, ids=repr)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(2, 5),
    st.floats(0.05, 3.0),
    st.sampled_from([None, "random", "some zero"]),
)
def test_what_is_settled_stays_whatever_the_missing_nodes_say(
    rule: FusionRule, seed: int, nodes: int, classes: int, spread: float, weighted: str | None
) -> None:
    """Random posteriors, and every single certain class for all that are missing: the label stays."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, spread), (40, nodes)).astype(np.float32)
    mask = rng.random((40, nodes)) < 0.7
    mask[:, 0] = True
    weights = (
        None if weighted is None else rng.random(nodes) * (2 if weighted == "random" else rng.integers(0, 2, nodes))
    )
    settled = rule.settled(p, mask, weights)
    before = rule.fuse(p, mask, weights)
    answered = settled & before.used.any(axis=1)
    adversaries = [certain(p.shape, rng) for _ in range(3)]
    adversaries += [np.broadcast_to(np.eye(classes, dtype=np.float32)[c], p.shape) for c in range(classes)]
    for other in adversaries:
        whole = np.where(mask[:, :, None], p, other)
        for more in (np.ones_like(mask), mask | (rng.random(mask.shape) < 0.5)):
            after = rule.fuse(whole, more, weights).posterior.argmax(axis=1)
            assert (after == before.posterior.argmax(axis=1))[answered].all()


@pytest.mark.parametrize("rule", DECIDABLE, ids=repr)
def test_what_one_missing_node_can_turn_is_not_settled(rule: FusionRule) -> None:
    """Two against one with one missing may become a tie, three against none may not."""
    two = np.array([[[1, 0], [1, 0], [0, 1], [0, 0]], [[1, 0], [1, 0], [1, 0], [0, 0]]], np.float32)
    mask = np.array([[True, True, True, False]] * 2)
    assert rule.settled(two, mask).tolist() == [False, True]


def test_nodes_that_are_not_trusted_are_not_waited_for() -> None:
    """Behind a health check the missing node counts only while it is trusted."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    p = 0.1 + 0.7 * np.eye(3, dtype=np.float32)[truth][:, None].repeat(4, axis=1)
    p[:, 3] = [0.98, 0.01, 0.01]
    rule = HealthChecked(MeanProbability())
    mask = np.array([[True, True, False, False]])
    assert not rule.settled(p[:1], mask)[0]
    rule.observe(p)
    assert rule.health.weights.tolist() == [1, 1, 1, 0]
    assert rule.settled(p[:1], mask)[0]


@pytest.mark.parametrize("rule", [MaxConfidence(), LogOpinionPool()], ids=repr)
def test_rules_without_a_bound_are_settled_only_when_all_have_reported(rule: FusionRule) -> None:
    """One certain node may overrule all others there."""
    p = np.array([[[0.99, 0.01]] * 3] * 2, np.float32)
    assert rule.settled(p, np.array([[True, True, True], [True, True, False]])).tolist() == [True, False]


def test_a_fit_is_loaded_with_and_without_a_health_check(tmp_path: Path) -> None:
    """What `escalade fusion fit` writes serves both; a health check that was not fitted begins with what is assumed."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    p = (
        rng.dirichlet(np.ones(3), (300, 2)).astype(np.float32) * 0.4
        + 0.6 * np.eye(3, dtype=np.float32)[labels][:, None]
    )
    plain = Stacking().fit(p, labels)
    save_state(tmp_path / "checked.npz", HealthChecked(Stacking()).fit(p, labels))
    save_state(tmp_path / "plain.json", plain)
    for file in ("checked.npz", "plain.json"):
        for health in (True, False):
            rule = load_rule({"name": "Stacking", "state": file, "health": health}, folder=tmp_path)
            assert isinstance(rule, HealthChecked) is health
            assert np.allclose(rule.fuse(p).posterior, plain.fuse(p).posterior)


@pytest.mark.parametrize(
    ("spec", "key", "says"),
    [
        ("mean", "rule", "expected a mapping"),
        ({"name": "MeanProb"}, "rule.name", "did you mean 'MeanProbability'"),
        ({"name": "Stacking"}, "rule.state", "escalade fusion fit"),
        ({"name": "MeanProbability", "memory": 3}, "rule.memory", "no parameter"),
        ({"name": "ReliabilityWeighted", "memory": 0}, "rule", "at least 1 event"),
        ({"name": "MeanProbability", "health": {"alarm": -1}}, "rule.health.alarm", "greater than 0"),
        ({"name": "Stacking", "state": "none.npz"}, "rule.state", "cannot be read"),
        ({"name": "os:path"}, "rule.name", "no fusion rule"),
    ],
)
def test_a_mistake_in_a_rule_is_one_line_with_its_key(spec: Any, key: str, says: str) -> None:
    """What is wrong, where, and what to do."""
    with pytest.raises(PolicyConfigError, match=says) as caught:
        load_rule(spec)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_a_rule_of_features_is_loaded_without_a_health_check(tmp_path: Path) -> None:
    """Features do not say what a node would answer."""
    x = np.random.default_rng(0).normal(size=(50, 2, 3))
    save_state(tmp_path / "fit.npz", FeatureFusion("concat").fit(x, np.arange(50) % 2))
    rule = load_rule({"name": "FeatureFusion", "how": "concat", "state": "fit.npz"}, folder=tmp_path)
    assert isinstance(rule, FeatureFusion)
