"""The conformance kit catches every policy that decides wrongly, and names the rule it breaks."""

from __future__ import annotations

import random

import numpy as np
import pytest

from escalade.policies import (
    Action,
    Batch,
    Context,
    Decisions,
    Policy,
    PolicyCheckError,
    check_policy,
)
from escalade.policies.checks import RULES


class Plain(Policy):
    """A correct policy of which each broken one is a variation."""

    limit: float = 0.7

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.score >= np.float32(self.limit), Action.ACCEPT, Action.ESCALATE))


class ComparesInFloat64(Plain):
    """Rounds the threshold for arrays and not for one score."""

    limit = 0.1 + 0.6

    def decide_one(self, score: float, context: Context) -> Action:
        return Action.ACCEPT if score >= 0.7000000001 else Action.ESCALATE


class StrictForOne(Plain):
    """Accepts a tie in arrays only; its threshold is no round number."""

    limit = 0.734_561

    def decide_one(self, score: float, context: Context) -> Action:
        return Action.ACCEPT if score > float(np.float32(self.limit)) else Action.ESCALATE


class ForgetsTheDeadlineForOne(Plain):
    """Heeds the deadline in arrays only."""

    def decide(self, batch: Batch) -> Decisions:
        hurried = (batch.remaining_ms < 20.0) & (batch.score > -np.inf)
        return Decisions.of((~((batch.score >= np.float32(0.7)) | hurried)).astype(np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        return Action.ACCEPT if score >= float(np.float32(0.7)) else Action.ESCALATE


class UsesTheMeanOfTheBatch(Plain):
    """Accepts what is surer than the batch is on average."""

    def decide(self, batch: Batch) -> Decisions:
        known = batch.score[np.isfinite(batch.score) & (np.abs(batch.score) < 100)]
        return Decisions.of((~(batch.score > (known.mean() if len(known) else 0.5))).astype(np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        return super().decide_one(score, context)


class AcceptsEverySecondRow(Plain):
    """Decides by the place in the batch."""

    def decide(self, batch: Batch) -> Decisions:
        usable = batch.score > -np.inf
        return Decisions.of(np.where(usable & (np.arange(len(batch)) % 2 == 0), 0, 1))


class UsesGlobalChance(Plain):
    """Draws its own random numbers."""

    def decide(self, batch: Batch) -> Decisions:
        lucky = np.array([random.random() < 0.5 for _ in range(len(batch))], bool)
        return Decisions(
            np.where(lucky & (batch.score > -np.inf), 0, 1).astype(np.int8),
            np.where(batch.score > -np.inf, 0.5, 1.0),
        )


class AcceptsNan(Plain):
    """Escalates what is below the threshold, which nan is not."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of((batch.score < np.float32(0.7)).astype(np.int8))


class AcceptsMinusInfinity(Plain):
    """Accepts whatever is a number."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.isnan(batch.score).astype(np.int8))


class AcceptsNanForOne(Plain):
    """Accepts nan in the fast path only."""

    def decide_one(self, score: float, context: Context) -> Action:
        return Action.ESCALATE if score < float(np.float32(0.7)) else Action.ACCEPT


class NeedsARow(Plain):
    """Cannot take an empty batch."""

    def decide(self, batch: Batch) -> Decisions:
        batch.score.max()
        return super().decide(batch)


class NeedsTwoClasses(Plain):
    """Looks at the second-best class."""

    def decide(self, batch: Batch) -> Decisions:
        if batch.posterior is not None:
            np.partition(batch.posterior, -2, axis=1)
        return super().decide(batch)


class NeedsContiguousColumns(Plain):
    """Reads the memory of a column as if its rows lay side by side."""

    def decide(self, batch: Batch) -> Decisions:
        score = np.ndarray(batch.score.shape, np.float32, memoryview(batch.score.tobytes()))
        if not batch.score.flags.c_contiguous:
            score = score[::-1]
        return Decisions.of((~(score >= np.float32(0.7))).astype(np.int8))


class OverstatesItsPropensity(Plain):
    """Accepts half of the unsure rows by chance and says it was certain."""

    def decide(self, batch: Batch) -> Decisions:
        accept = (batch.score >= np.float32(0.7)) | ((batch.score > -np.inf) & (batch.uniform < 0.5))
        return Decisions.of((~accept).astype(np.int8))


class GivesThePropensityOfTheOther(Plain):
    """States the probability of accepting also where it escalated."""

    def decide(self, batch: Batch) -> Decisions:
        usable = batch.score > -np.inf
        accept = usable & (batch.uniform < 0.25)
        return Decisions((~accept).astype(np.int8), np.where(usable, 0.25, 1.0))


class HasNoPropensity(Plain):
    """Says that what it did could not happen."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions(super().decide(batch).action, np.zeros(len(batch)))


class InventsAnAction(Plain):
    """Takes an action that does not exist."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.score >= np.float32(0.7), 4, Action.ESCALATE))

    def decide_one(self, score: float, context: Context) -> Action:
        return Action.ACCEPT


class GivesWideActions(Plain):
    """Gives actions as int64."""

    def decide(self, batch: Batch) -> Decisions:
        decisions = super().decide(batch)
        return Decisions(decisions.action.astype(np.int64), decisions.propensity)


class GivesAList(Plain):
    """Gives actions as a list."""

    def decide(self, batch: Batch) -> Decisions:
        decisions = super().decide(batch)
        return Decisions(decisions.action.tolist(), decisions.propensity)


class GivesOneDecisionTooFew(Plain):
    """Drops the last row."""

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(super().decide(batch).action[:-1])


class GivesABareArray(Plain):
    """Returns the actions without their propensities."""

    def decide(self, batch: Batch) -> Decisions:
        return super().decide(batch).action  # type: ignore[return-value]


class GivesATruthValue(Plain):
    """Returns a truth value for one input."""

    def decide_one(self, score: float, context: Context) -> Action:
        return score < float(np.float32(0.7))  # type: ignore[return-value]


BROKEN = [
    (ComparesInFloat64, "batch equals loop"),
    (StrictForOne, "batch equals loop"),
    (ForgetsTheDeadlineForOne, "batch equals loop"),
    (UsesTheMeanOfTheBatch, "rows are independent"),
    (AcceptsEverySecondRow, "rows are independent"),
    (UsesGlobalChance, "deterministic"),
    (AcceptsNan, "unusable never accepted"),
    (AcceptsMinusInfinity, "unusable never accepted"),
    (AcceptsNanForOne, "unusable never accepted"),
    (NeedsARow, "awkward input"),
    (NeedsTwoClasses, "awkward input"),
    (NeedsContiguousColumns, "awkward input"),
    (OverstatesItsPropensity, "propensity is honest"),
    (GivesThePropensityOfTheOther, "propensity is honest"),
    (HasNoPropensity, "propensity is honest"),
    (InventsAnAction, "well formed"),
    (GivesWideActions, "well formed"),
    (GivesAList, "well formed"),
    (GivesOneDecisionTooFew, "well formed"),
    (GivesABareArray, "well formed"),
    (GivesATruthValue, "well formed"),
]

#: Faults that cannot but show in other rules as well.
MANIFOLD: dict[type[Policy], set[str]] = {
    UsesTheMeanOfTheBatch: {"batch equals loop"},
    AcceptsEverySecondRow: {"batch equals loop", "awkward input", "propensity is honest"},
    UsesGlobalChance: set(RULES),
    AcceptsNanForOne: {"batch equals loop"},
    NeedsContiguousColumns: {"rows are independent"},
    InventsAnAction: set(RULES),
    GivesAList: set(RULES),
    GivesOneDecisionTooFew: set(RULES),
    GivesABareArray: set(RULES),
    GivesATruthValue: {"batch equals loop", "unusable never accepted"},
}


@pytest.mark.parametrize(("kind", "rule"), BROKEN)
def test_a_broken_policy_is_caught_by_the_rule_that_it_breaks(kind: type[Policy], rule: str) -> None:
    """Each broken policy is refused in the name of its rule, and of no rule that it keeps."""
    with pytest.raises(PolicyCheckError) as caught:
        check_policy(kind())
    assert rule in caught.value.rules
    assert set(caught.value.rules) <= {rule} | MANIFOLD.get(kind, set())


@pytest.mark.parametrize("kind", [StrictForOne, AcceptsNan, OverstatesItsPropensity, NeedsContiguousColumns])
@pytest.mark.parametrize(("classes", "seed"), [(1, 0), (2, 1), (100, 2)])
def test_a_fault_is_found_with_other_rows_too(kind: type[Policy], classes: int, seed: int) -> None:
    """Which rows are drawn does not decide whether a fault is found."""
    with pytest.raises(PolicyCheckError):
        check_policy(kind(), classes=classes, seed=seed)


@pytest.mark.parametrize("limit", [0.123_457, 0.500_000_1, 1e-7, -12.345])
def test_a_tie_is_found_wherever_the_threshold_is(limit: float) -> None:
    """A fault at exactly the threshold is found, though no random score would hit it."""
    policy = StrictForOne()
    policy.limit = limit
    with pytest.raises(PolicyCheckError, match="batch equals loop"):
        check_policy(policy)


def test_every_rule_has_a_policy_that_breaks_it() -> None:
    """No rule about decisions stands untested."""
    rules = {name for name, rule in RULES.items() if rule.__module__.endswith(".decisions")}
    assert {rule for _, rule in BROKEN} == rules
