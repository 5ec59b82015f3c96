"""Every built-in policy, and every combinator over every one, keeps the rules of the interface."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from escalade.policies import (
    Batch,
    Context,
    check_policy,
    load_state,
    save_state,
)
from escalade.policies.loading import BUILT_IN

from .examples import CLASSES, COMBINATORS, EXAMPLES, build, named, random_rows

ROWS = 10_000
"""For policies that look at more than the score: a row's context takes 3 us to make, and one with chance or
memory in several layers 50 us to decide. Policies of the score alone are held to a million."""


NEAR = np.array([0.7, 0.1 + 0.2, 0.5, 0.9], np.float32)
SCORE_ALONE = {"AlwaysAccept", "AlwaysEscalate", "SloController", "TargetThreshold", "Threshold"}
SIMPLE = [one for one in named() if one[0] in SCORE_ALONE]


def test_every_built_in_has_an_example() -> None:
    """A policy that is added to the built-ins comes under this contract, or this fails."""
    assert set(BUILT_IN) <= set(EXAMPLES)
    for name, number in named():
        assert type(build(name, number)) is BUILT_IN[name]


@pytest.mark.parametrize(("name", "number"), named())
def test_every_built_in_passes_the_conformance_kit(name: str, number: int) -> None:
    """`check_policy` finds nothing."""
    check_policy(build(name, number), classes=CLASSES)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name in EXAMPLES])
@pytest.mark.parametrize("around", COMBINATORS)
def test_every_combinator_passes_over_every_built_in(around: str, name: str) -> None:
    """Also over one that learns, is random, has a memory or is a combinator itself."""
    check_policy(COMBINATORS[around](build(name, len(EXAMPLES[name]) - 1)), classes=CLASSES)


@pytest.mark.parametrize(("name", "number"), SIMPLE)
def test_a_million_scores_are_decided_alike_in_arrays_and_one_by_one(name: str, number: int) -> None:
    """Bit for bit, at the policy's own boundaries and over all kinds of float32 numbers."""
    policy = build(name, number)
    score = random_rows(1_000_000, seed=number, near=NEAR).score
    decided = policy.decide(Batch.of(score)).action
    context, decide_one = Context(), policy.decide_one
    single = np.fromiter((decide_one(one, context) for one in score.tolist()), np.int8, len(score))
    assert np.array_equal(decided, single)


@pytest.mark.parametrize(("name", "number"), [one for one in named() if one not in SIMPLE])
def test_rows_with_a_context_are_decided_alike_in_arrays_and_one_by_one(name: str, number: int) -> None:
    """Bit for bit; a policy with a memory is told of each row before the next."""
    policy, single = build(name, number), build(name, number)
    batch = random_rows(ROWS, seed=number, near=NEAR)
    decided = policy.decide(batch).action
    for row in range(len(batch)):
        score, context = batch.row(row)
        action = single.decide_one(score, context)
        assert action == decided[row], (row, score, context)
        if policy.sequential:
            single.commit_one(score, context, action)


@pytest.mark.parametrize(("name", "number"), named())
@pytest.mark.parametrize("ending", ["npz", "json"])
def test_state_survives_files_and_pickling(name: str, number: int, ending: str, tmp_path: Path) -> None:
    """What was learnt and remembered decides the same in another process."""
    policy = build(name, number)
    batch = random_rows(500, seed=9)
    policy.commit(batch, policy.decide(batch).action)
    save_state(tmp_path / f"state.{ending}", policy)
    other = build(name, number)
    other.load_state_dict(load_state(tmp_path / f"state.{ending}", name))
    twin = pickle.loads(pickle.dumps(policy))
    later = random_rows(500, seed=10)
    expected = policy.decide(later)
    for found in (other.decide(later), twin.decide(later)):
        assert np.array_equal(found.action, expected.action)
        assert np.array_equal(found.propensity, expected.propensity)
