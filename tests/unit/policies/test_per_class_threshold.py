"""A threshold for each predicted class."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import Action, Batch, Context, PerClassThreshold, PolicyConfigError, check_policy, load_policy

POLICIES = [
    PerClassThreshold({0: 0.6, 3: 0.9}, default=0.8),
    PerClassThreshold([0.1, 0.9]),
    PerClassThreshold([0.5] * 10, default=0.5),
    PerClassThreshold([], default=0.7),
    PerClassThreshold({2: -inf}, default=inf),
    PerClassThreshold({2: 1e300}, default=-inf),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_it_keeps_every_rule_of_a_policy(policy: PerClassThreshold, classes: int) -> None:
    """It passes the conformance kit, whether the model has more or fewer classes than were named."""
    check_policy(policy, classes=classes, seed=classes)


def test_a_million_random_rows_are_decided_alike_in_both_ways() -> None:
    """Arrays and single rows agree on every one of many rows, ties with a threshold among them."""
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.full(5, 0.5), 1_000_000).astype(np.float32)
    policy = PerClassThreshold([0.5, 0.6, 0.7, 0.8, 0.9])
    score = posterior.max(axis=1)
    score[::7] = np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32)[rng.integers(0, 5, len(score[::7]))]
    actions = policy.decide(Batch.of(score, posterior)).action
    limits = np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32)[posterior.argmax(axis=1)]
    assert np.array_equal(actions == 0, score >= limits)
    for row in range(0, 1_000_000, 50):
        one = policy.decide_one(float(score[row]), Context(posterior=posterior[row].tolist()))
        assert one == actions[row]


@given(
    thresholds=st.lists(st.floats(allow_nan=False), min_size=1, max_size=4),
    default=st.floats(allow_nan=False),
    score=st.floats(width=32),
    posterior=st.lists(st.floats(0, 1, width=32) | st.just(nan), min_size=1, max_size=6),
)
def test_one_row_is_decided_as_a_batch_is(
    thresholds: list[float], default: float, score: float, posterior: list[float]
) -> None:
    """Whatever the thresholds, the score and the posterior, nan in it too, both ways agree."""
    policy = PerClassThreshold(thresholds, default)
    batch = policy.decide(Batch.of([score], [posterior])).action.tolist()
    assert [policy.decide_one(score, Context(posterior=posterior))] == batch


def test_a_class_has_its_own_threshold() -> None:
    """The same score is accepted for one class and not for another; an equal score is accepted."""
    policy = PerClassThreshold({0: 0.6}, default=0.9)
    assert policy.decide_one(float(np.float32(0.6)), Context(posterior=[0.6, 0.4])) is Action.ACCEPT
    assert policy.decide_one(0.7, Context(posterior=[0.3, 0.7])) is Action.ESCALATE
    assert policy.explain(0.7, Context(posterior=[0.3, 0.7])) == {
        "score": 0.7,
        "class": 1,
        "threshold": pytest.approx(0.9),
    }


def test_classes_that_are_not_named_are_escalated() -> None:
    """Without a default nothing is accepted of a class without a threshold."""
    assert PerClassThreshold({1: 0.5}).decide(Batch.of([1.0, 1.0], np.eye(2))).action.tolist() == [1, 0]


def test_without_a_posterior_there_is_no_class() -> None:
    """Where the class matters and the model gives none, the error says so."""
    policy = PerClassThreshold([0.5, 0.9])
    with pytest.raises(ValueError, match="needs the posterior"):
        policy.decide(Batch.of([0.7]))
    with pytest.raises(ValueError, match="needs the posterior"):
        policy.decide_one(0.7, Context())


@pytest.mark.parametrize(
    ("thresholds", "message"), [({-1: 0.5}, "-1 is no class number"), ([0.5, nan], "got nan for class 1")]
)
def test_senseless_thresholds_are_refused(thresholds: Any, message: str) -> None:
    """A negative class and a threshold of nan are refused."""
    with pytest.raises(ValueError, match=message):
        PerClassThreshold(thresholds)


def test_it_is_loaded_from_a_configuration() -> None:
    """Thresholds come as a mapping of class numbers or as a list; a class by name is refused."""
    assert repr(load_policy({"name": "PerClassThreshold", "thresholds": {3: 0.5}, "default": 0.9})) == (
        "PerClassThreshold({3: 0.5}, default=0.9)"
    )
    assert repr(load_policy({"name": "PerClassThreshold", "thresholds": [0.5, 1]})).startswith(
        "PerClassThreshold([0.5, 1.0]"
    )
    with pytest.raises(PolicyConfigError, match=r"policy\.thresholds"):
        load_policy({"name": "PerClassThreshold", "thresholds": {"shirt": 0.5}})
