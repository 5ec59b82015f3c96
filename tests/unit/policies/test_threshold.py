"""The policies that are built in."""

from __future__ import annotations

import pickle
from math import inf, nan

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from escalade.policies import Action, AlwaysAccept, AlwaysEscalate, Batch, Context, Policy, Threshold, check_policy

BUILT_IN = [
    Threshold(0.8),
    Threshold(0.9),
    Threshold(0.0),
    Threshold(-12.5),
    Threshold(inf),
    Threshold(-inf),
    Threshold(1e300),
    AlwaysAccept(),
    AlwaysEscalate(),
]


@pytest.mark.parametrize("policy", BUILT_IN, ids=repr)
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_every_built_in_policy_keeps_every_rule(policy: Policy, classes: int) -> None:
    """Every built-in policy passes the conformance kit that users' policies have to pass."""
    check_policy(policy, classes=classes, seed=classes)


@given(
    threshold=st.floats(allow_nan=False),
    scores=st.lists(st.floats(width=32), max_size=20),
)
@example(threshold=0.9, scores=[float(np.float32(0.9))])
@example(threshold=-inf, scores=[-inf, nan, -3.4028234663852886e38])
def test_one_score_is_decided_as_a_batch_is(threshold: float, scores: list[float]) -> None:
    """For every threshold and every float32 score, one decision equals the batch's."""
    policy = Threshold(threshold)
    batch = policy.decide(Batch.of(np.array(scores, np.float32))).action.tolist()
    assert batch == [policy.decide_one(score, Context()) for score in scores]


def test_a_score_equal_to_the_threshold_is_accepted() -> None:
    """A score of 0.9 that a model computed in float32 meets a threshold of 0.9 from a file."""
    assert Threshold(0.9).decide_one(float(np.float32(0.9)), Context()) is Action.ACCEPT


@pytest.mark.parametrize("policy", [Threshold(-inf), AlwaysAccept()], ids=repr)
@pytest.mark.parametrize("score", [nan, -inf])
def test_no_policy_accepts_a_row_without_a_usable_score(policy: Policy, score: float) -> None:
    """Even the most generous policy escalates a row whose score is nan or -inf."""
    assert policy.decide_one(score, Context()) is Action.ESCALATE
    assert policy.decide(Batch.of([score])).action.tolist() == [Action.ESCALATE]


def test_a_threshold_must_be_a_number() -> None:
    """A threshold of nan, which nothing could meet, is refused."""
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        Threshold(nan)


def test_the_threshold_stays_as_it_was_given() -> None:
    """The threshold reads back as it was written, also from a pickled copy."""
    assert pickle.loads(pickle.dumps(Threshold(0.8))).threshold == 0.8
    assert repr(Threshold(0.8)) == "Threshold(0.8)"


def test_always_escalate_escalates_the_surest() -> None:
    """AlwaysEscalate asks the tier above about every input."""
    assert AlwaysEscalate().decide_one(1.0, Context()) is Action.ESCALATE


def test_a_policy_without_state_refuses_one() -> None:
    """A state meant for another class is refused rather than ignored."""
    policy = Threshold(0.5)
    policy.load_state_dict(policy.state_dict())
    with pytest.raises(ValueError, match=r"Threshold keeps no state, got \['rate'\]"):
        policy.load_state_dict({"rate": 0.1})
