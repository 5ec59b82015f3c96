"""The conformance kit catches every policy that touches what it must not, and reports what it found."""

from __future__ import annotations

from typing import Any

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


class WritesToTheBatch(Plain):
    """Replaces nan in the caller's column."""

    def decide(self, batch: Batch) -> Decisions:
        batch.upstream_ms[np.isnan(batch.upstream_ms)] = 0.0
        return super().decide(batch)


class UnlocksTheBatch(Plain):
    """Takes the read-only flag off before it writes."""

    def decide(self, batch: Batch) -> Decisions:
        batch.bytes_up.flags.writeable = True
        batch.bytes_up[:] = 0
        return super().decide(batch)


class WritesToTheContext(Plain):
    """Sorts the caller's posterior."""

    def decide_one(self, score: float, context: Context) -> Action:
        action = super().decide_one(score, context)
        if context.posterior is not None:
            context.posterior.sort()
        return action


class CountsInItsState(Plain):
    """Learns while it decides."""

    def __init__(self) -> None:
        self.seen = 0

    def decide(self, batch: Batch) -> Decisions:
        self.seen += len(batch)
        return super().decide(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class CountsAside(Plain):
    """Keeps a counter outside its state."""

    def __init__(self) -> None:
        self.calls = [0]

    def decide_one(self, score: float, context: Context) -> Action:
        self.calls[0] += 1
        return super().decide_one(score, context)


class HoldsAFunction(Plain):
    """Keeps something that no other process can be given."""

    def __init__(self) -> None:
        self.rule = lambda score: score


class PicklesAnotherThreshold(Plain):
    """Comes back from pickling with its default threshold."""

    def __init__(self, limit: float = 0.7) -> None:
        self.limit = limit

    def __reduce__(self) -> Any:
        return PicklesAnotherThreshold, ()

    def __deepcopy__(self, memo: Any) -> PicklesAnotherThreshold:
        return PicklesAnotherThreshold(self.limit)


class LosesItsState(Plain):
    """Forgets a part of the state that it loads."""

    def __init__(self) -> None:
        self.rates = np.array([0.25, 0.5])

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates = state["rates"][:1]


class KeepsObjectsInItsState(Plain):
    """Hands out a set as state."""

    def state_dict(self) -> dict[str, Any]:
        return {"inner": {"seen": {1, 2}}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class KeepsComplexNumbers(Plain):
    """Has an array that no state file holds."""

    def state_dict(self) -> dict[str, Any]:
        return {"rates": np.array([1j])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class WritesToTheContextWhenTold(Plain):
    """Sorts the caller's posterior when it is told what was done."""

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        if context.posterior is not None:
            context.posterior.sort()


class HasNoWayBack(Plain):
    """Has a state that it cannot load."""

    def state_dict(self) -> dict[str, Any]:
        return {"rate": 0.5}


BROKEN = [
    (WritesToTheBatch, "input untouched"),
    (UnlocksTheBatch, "input untouched"),
    (WritesToTheContext, "input untouched"),
    (WritesToTheContextWhenTold, "input untouched"),
    (CountsInItsState, "state untouched"),
    (CountsAside, "state untouched"),
    (HoldsAFunction, "pickles"),
    (PicklesAnotherThreshold, "pickles"),
    (LosesItsState, "state round trip"),
    (KeepsObjectsInItsState, "state round trip"),
    (HasNoWayBack, "state round trip"),
    (KeepsComplexNumbers, "state travels"),
]

#: Faults that cannot but show in other rules as well.
MANIFOLD: dict[type[Policy], set[str]] = {
    WritesToTheBatch: {"awkward input"},  # of which some is read-only
    KeepsObjectsInItsState: {"state travels"},
}


def broken(kind: type[Policy]) -> Policy:
    return PicklesAnotherThreshold(0.6) if kind is PicklesAnotherThreshold else kind()


@pytest.mark.parametrize(("kind", "rule"), BROKEN)
def test_a_broken_policy_is_caught_by_the_rule_that_it_breaks(kind: type[Policy], rule: str) -> None:
    """Each broken policy is refused in the name of its rule, and of no rule that it keeps."""
    with pytest.raises(PolicyCheckError) as caught:
        check_policy(broken(kind))
    assert rule in caught.value.rules
    assert set(caught.value.rules) <= {rule} | MANIFOLD.get(kind, set())


def test_every_rule_has_a_policy_that_breaks_it() -> None:
    """No rule about state stands untested."""
    rules = {name for name, rule in RULES.items() if rule.__module__.endswith(".state")}
    assert {rule for _, rule in BROKEN} == rules


class Randomised(Plain):
    """Explores: accepts more likely the higher the score, by the row's own random number."""

    def decide(self, batch: Batch) -> Decisions:
        chance = np.where(batch.score > -np.inf, np.clip(batch.score.astype(np.float64), 0.1, 0.9), 0.0)
        accept = batch.uniform < chance
        return Decisions((~accept).astype(np.int8), np.where(accept, chance, 1.0 - chance))


class Learnt(Plain):
    """Has a state, defers by the deadline and looks at the posterior."""

    def __init__(self) -> None:
        self.limits = np.linspace(0.5, 0.9, 4)

    def decide(self, batch: Batch) -> Decisions:
        label = np.zeros(len(batch), int) if batch.posterior is None else batch.posterior.argmax(axis=1)
        limit = self.limits.astype(np.float32)[np.minimum(label, 3)]
        late = np.where(batch.remaining_ms < 10.0, Action.DEFER, Action.ESCALATE)
        return Decisions.of(np.where(batch.score >= limit, Action.ACCEPT, late))

    def state_dict(self) -> dict[str, Any]:
        return {"limits": self.limits.copy(), "rounds": 3, "inner": {"nan": float("nan")}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.limits = state["limits"]


@pytest.mark.parametrize("policy", [Plain(), Randomised(), Learnt()], ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_a_correct_policy_passes(policy: Policy, seed: int) -> None:
    """A policy that keeps the rules passes, be it random, stateful or one that looks at everything."""
    check_policy(policy, seed=seed)


def test_the_report_lists_every_broken_rule() -> None:
    """One run tells an author everything: each rule by name, with what was seen."""

    class Bad(Plain):
        def decide(self, batch: Batch) -> Decisions:
            return Decisions.of((batch.score < np.float32(0.7)).astype(np.int8))

        def state_dict(self) -> dict[str, Any]:
            return {"rate": 0.5}

        def __repr__(self) -> str:
            return "Bad()"

    with pytest.raises(PolicyCheckError) as caught:
        check_policy(Bad())
    assert caught.value.rules == ["unusable never accepted", "pickles", "state round trip"]
    lines = str(caught.value).splitlines()
    assert lines[0] == "Bad() breaks 3 rules:"
    assert lines[1] == "  - unusable never accepted: decide accepted a row with score nan"
    assert "  - state round trip: raised ValueError: Bad keeps no state, got ['rate']" in lines


def test_a_policy_that_raises_is_reported_not_raised() -> None:
    """An error in the policy is a finding of each rule that meets it."""

    class Raises(Plain):
        def decide(self, batch: Batch) -> Decisions:
            raise KeyError("rate")

    with pytest.raises(PolicyCheckError, match="batch equals loop: raised KeyError: 'rate'"):
        check_policy(Raises())


def test_checking_leaves_the_policy_as_it_was() -> None:
    """A policy that changes itself does so on copies while it is checked."""
    policy = CountsInItsState()
    with pytest.raises(PolicyCheckError):
        check_policy(policy)
    assert policy.seen == 0
