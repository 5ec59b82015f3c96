"""The conformance kit catches every policy that remembers or learns as it must not."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import (
    Action,
    AlwaysEscalate,
    Batch,
    Budgeted,
    Context,
    Decisions,
    Explore,
    Feedback,
    FittedPolicy,
    NotFittedError,
    Policy,
    PolicyCheckError,
    Trace,
    check_policy,
)
from escalade.policies.checks import RULES


class Alternates(Policy):
    """A correct policy with a memory: accepts every second usable row."""

    sequential = True

    def __init__(self) -> None:
        self.count = 0

    def decide(self, batch: Batch) -> Decisions:
        place = (self.count + np.arange(len(batch))) % 2 == 1
        return Decisions.of(np.where(place & (batch.score > -np.inf), 0, 1))

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.count += len(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if list(state) != ["count"]:
            raise ValueError("no count")
        self.count = state["count"]


class DecidesBatchesAsIfAllWereFirst(Alternates):
    """Forgets, within a batch, the rows before."""

    def decide(self, batch: Batch) -> Decisions:
        first = np.full(len(batch), self.count % 2 == 1)
        return Decisions.of(np.where(first & (batch.score > -np.inf), 0, 1))


class LooksAhead(Alternates):
    """Decides by how many rows follow."""

    def decide(self, batch: Batch) -> Decisions:
        place = (self.count + np.arange(len(batch)) + len(batch)) % 2 == 1
        return Decisions.of(np.where(place & (batch.score > -np.inf), 0, 1))


class CommitsAnotherWayForOne(Alternates):
    """Counts double in the fast path."""

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        self.count += 2


class KeepsItsMemoryToItself(Alternates):
    """Does not hand out what it remembers."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError("no count")


class RemembersNothing(Alternates):
    """Says that it is sequential, and is not."""

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        pass

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.score >= np.float32(0.5), 0, 1))


class DeniesItsMemory(Policy):
    """Stops escalating after a thousand rows, and does not say that it is sequential."""

    def __init__(self) -> None:
        self.count = 0

    def decide(self, batch: Batch) -> Decisions:
        here = (batch.score > -np.inf) & (self.count >= 1000)
        return Decisions.of(np.where(here, 0, 1))

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.count += len(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Learner(Policy):
    """A correct learner: the threshold is the mean score of what was wrong."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def decide(self, batch: Batch) -> Decisions:
        limit = np.float32(self.total / self.count if self.count else 0.5)
        return Decisions.of(np.where(batch.score >= limit, 0, 1))

    def observe(self, feedback: Feedback) -> None:
        label = feedback.best_label()
        wrong = (label >= 0) & (label != feedback.local) & (np.abs(feedback.score) <= 1)
        self.total += float(feedback.score[wrong].sum(dtype=np.float64))
        self.count += int(wrong.sum())

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.count = state["total"], state["count"]


class NeedsALabel(Learner):
    """Fails where nobody gave a label."""

    def observe(self, feedback: Feedback) -> None:
        np.bincount(feedback.best_label())
        super().observe(feedback)


class WritesToTheFeedback(Learner):
    """Replaces unknown labels by its own."""

    def observe(self, feedback: Feedback) -> None:
        np.copyto(feedback.truth, feedback.local, where=feedback.truth < 0)


class LearnsAside(Learner):
    """Leaves out of its state what decides."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class LearnsToAcceptAnything(Learner):
    """Lets nan through once it has learnt that all is well."""

    def decide(self, batch: Batch) -> Decisions:
        if not self.count:
            return super().decide(batch)
        return Decisions.of(np.zeros(len(batch)))


class Fitted(FittedPolicy):
    """A correct fitted policy."""

    def __init__(self) -> None:
        self.limit: float | None = 0.6

    @property
    def fitted(self) -> bool:
        return self.limit is not None

    def fit(self, trace: Trace) -> Self:
        self.limit = float(len(trace))
        return self

    def decide(self, batch: Batch) -> Decisions:
        if self.limit is None:
            raise NotFittedError("fit it first")
        return Decisions.of(np.where(batch.score >= np.float32(self.limit), 0, 1))

    def state_dict(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if list(state) != ["limit"]:
            raise ValueError("no limit")
        self.limit = state["limit"]


class LosesItsFit(Fitted):
    """Has a fit and no state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError("no limit")


class TakesAnyState(Fitted):
    """Takes over what it knows of a state and does not miss the rest."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limit = state.get("limit", self.limit)


class StumblesOverAForeignState(Fitted):
    """Raises what the lookup raises."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limit = state["limit"]


class BreaksOnAForeignState(Fitted):
    """Lets go of its fit before it looks at the new one."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limit = 0.1
        super().load_state_dict(state)


LOOP = "a batch decides as the loop decide_one, commit"
COMMIT = "commit alone changes the memory"
DECLARED = "memory is declared"
LEARNS = "learns from anything"
FIT = "the fit is the state"

BROKEN = [
    (DecidesBatchesAsIfAllWereFirst, LOOP),
    (LooksAhead, LOOP),
    (CommitsAnotherWayForOne, LOOP),
    (CommitsAnotherWayForOne, COMMIT),
    (KeepsItsMemoryToItself, COMMIT),
    (RemembersNothing, COMMIT),
    (DeniesItsMemory, DECLARED),
    (NeedsALabel, LEARNS),
    (WritesToTheFeedback, LEARNS),
    (LearnsAside, LEARNS),
    (LearnsToAcceptAnything, LEARNS),
    (LosesItsFit, FIT),
    (TakesAnyState, FIT),
    (StumblesOverAForeignState, FIT),
    (BreaksOnAForeignState, FIT),
]

#: Faults that cannot but show in other rules as well.
MANIFOLD: dict[type[Policy], set[str]] = {
    LooksAhead: {"rows are independent"},
    CommitsAnotherWayForOne: {LOOP, COMMIT},
}


@pytest.mark.parametrize(("kind", "rule"), BROKEN)
def test_a_broken_policy_is_caught_by_the_rule_that_it_breaks(kind: type[Policy], rule: str) -> None:
    """Each broken policy is refused in the name of its rule, and of no rule that it keeps."""
    with pytest.raises(PolicyCheckError) as caught:
        check_policy(kind())
    assert rule in caught.value.rules
    assert set(caught.value.rules) <= {rule} | MANIFOLD.get(kind, set())


def test_every_rule_has_a_policy_that_breaks_it() -> None:
    """No rule about memory stands untested."""
    rules = {name for name, rule in RULES.items() if rule.__module__.endswith(".memory")}
    assert {rule for _, rule in BROKEN} == rules


@pytest.mark.parametrize("kind", [Alternates, Learner, Fitted])
@pytest.mark.parametrize("seed", range(3))
def test_a_correct_policy_with_memory_or_a_fit_passes(kind: type[Policy], seed: int) -> None:
    """A policy that keeps the rules passes."""
    check_policy(kind(), seed=seed)


class Dishonest(Explore):
    """States the propensities of a policy that is never varied."""

    def decide_rows(self, batch: Batch) -> Decisions:
        return Decisions.of(super().decide_rows(batch).action)


@pytest.mark.parametrize("inner", [AlwaysEscalate(), Budgeted(AlwaysEscalate(), share=0.5)], ids=repr)
def test_a_combinator_that_loses_a_propensity_is_caught(inner: Policy) -> None:
    """Also over a part with a memory, where each row is tried by itself."""
    with pytest.raises(PolicyCheckError) as caught:
        check_policy(Dishonest(inner, epsilon=0.3))
    assert caught.value.rules == ["propensity is honest"]


def test_a_policy_that_is_not_fitted_is_not_checked() -> None:
    """The finding is what to do; deciding without a fit is a finding of its own."""
    policy = Fitted()
    policy.limit = None
    with pytest.raises(PolicyCheckError, match="fitted: it is not; fit it, or load its state") as caught:
        check_policy(policy)
    assert caught.value.rules == ["fitted"]

    class Eager(Fitted):
        fitted = False

    with pytest.raises(PolicyCheckError, match="decide decided, though") as caught:
        check_policy(Eager())
    assert caught.value.rules == ["fitted", "unfitted"]
