"""What policies made of other policies have in common: `Combinator`; and who wants to be told what: `listens`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from escalade.policies.policy import Policy
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from escalade.policies.feedback import Feedback, Telemetry

LARGEST_UNIFORM = 1.0 - 2.0**-53
_POWERS = [2.0**-power for power in range(2, 31)]
_PROBES = [0.0, LARGEST_UNIFORM, 0.5, *_POWERS, *(1.0 - p for p in _POWERS), *(np.arange(1, 256) / 256).tolist()]
_ALL = 1.0 - 1e-12


class Combinator(Policy):
    """A policy over others: it asks its parts, changes what they say, and hands everything else on to them.

    What was done, feedback, telemetry, the tier's level and the check of the model reach every part. The
    state is its own entries and those of each part with the part's name before them: ``policy.limit``. It
    is sequential when it says so or when a part is: batches are then decided row by row, about 50 us each,
    where a subclass knows no better way.

    A subclass names its parts in `parts`, decides in `decide_rows` and gives the probabilities of all
    actions in `probabilities`, so that propensities stay exact over parts that are random themselves.
    A part that is random must be honest about it: what it may do is read off its own propensities.
    """

    def __init__(self, **parts: Policy) -> None:
        for name, part in parts.items():
            if not isinstance(part, Policy):
                raise ValueError(f"{name} must be a policy, got {part!r}")
        self.sequential = type(self).sequential or any(part.sequential for part in parts.values())

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Policy]:
        """The policies that this one is made of, by name."""

    @abstractmethod
    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide as `decide` does; where a part is sequential, the batch has at most one row."""

    @abstractmethod
    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return ``[B, 4]``: each action's probability over `Batch.uniform`, for each row as if it came next."""

    def decide(self, batch: Batch) -> Decisions:
        """Decide on every row: in one go, or in their order where a part has a memory."""
        if len(batch) > 1 and any(part.sequential for part in self.parts.values()):
            return in_order(self, batch)
        return self.decide_rows(batch)

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        """Tell every part what was really done."""
        for part in self.parts.values():
            part.commit(batch, action)

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        """Tell every part what was really done."""
        for part in self.parts.values():
            part.commit_one(score, context, action)

    def observe(self, feedback: Feedback) -> None:
        """Give the feedback to every part."""
        for part in self.parts.values():
            part.observe(feedback)

    def retune(self, telemetry: Telemetry) -> None:
        """Give the telemetry to every part."""
        for part in self.parts.values():
            part.retune(telemetry)

    def at_tier(self, level: int) -> Self:
        """Return a copy of this over its parts at that tier: each tier has a memory of its own."""
        return copy.deepcopy(self, {id(part): part.at_tier(level) for part in self.parts.values()})

    def check_model(self, sha256: str) -> None:
        """Ask every part; ValueError from the first that refuses."""
        for part in self.parts.values():
            part.check_model(sha256)

    def check_score(self, name: str) -> None:
        """Ask every part; ValueError from the first that refuses."""
        for part in self.parts.values():
            part.check_score(name)

    def own_state(self) -> dict[str, Any]:
        """Return what this policy itself has learnt; override it with `load_own_state`."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` gave; ValueError if it is not that."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state of its own, got {sorted(state)}")

    def state_dict(self) -> dict[str, Any]:
        """Return its own state and that of every part under ``part.``."""
        state = self.own_state()
        for name, part in self.parts.items():
            state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give every part its share of the state and take over the rest; ValueError leaves parts half loaded."""
        own = dict(state)
        for name, part in self.parts.items():
            mine = [key for key in own if key.startswith(f"{name}.")]
            part.load_state_dict({key.removeprefix(f"{name}."): own.pop(key) for key in mine})
        self.load_own_state(own)

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the parts' numbers, each under the part's name where there are several."""
        parts = self.parts
        if len(parts) == 1:
            return next(iter(parts.values())).explain(score, context)
        numbers: dict[str, object] = {"score": score}
        for name, part in parts.items():
            numbers |= {f"{name}.{key}": value for key, value in part.explain(score, context).items() if key != "score"}
        return numbers


def in_order(policy: Combinator, batch: Batch) -> Decisions:
    """Decide row by row on a copy of the policy, each row after the copy was told of those before it."""
    twin = copy.deepcopy(policy)
    action = np.empty(len(batch), np.int8)
    propensity = np.empty(len(batch))
    for row in range(len(batch)):
        one = batch.take(slice(row, row + 1))
        decided = twin.decide_rows(one)
        action[row], propensity[row] = decided.action[0], decided.propensity[0]
        twin.commit(one, decided.action)
    return Decisions(action, propensity)


def probabilities(policy: Policy, batch: Batch, decided: Decisions | None = None) -> NDArray[np.float64]:
    """Return ``[B, 4]``: the probability over `Batch.uniform` of each action, for each row as if it came next.

    A combinator knows. Of another policy the rows that were not certain are decided again with other random
    numbers, until the propensities that are found sum to 1; an action that no probe finds stays at 0.

    Parameters
    ----------
    decided
        What the policy decided on the batch, where that is known.
    """
    if isinstance(policy, Combinator):
        return policy.probabilities(batch)
    if decided is None:
        decided = policy.decide(batch)
    table = np.zeros((len(batch), len(Action)))
    table[np.arange(len(batch)), decided.action] = decided.propensity
    left = np.flatnonzero(decided.propensity < _ALL)
    for probe in _PROBES:
        if not len(left):
            break
        found = policy.decide(replace(batch.take(left), uniform=np.full(len(left), probe)))
        table[left, found.action] = found.propensity
        left = left[table[left].sum(axis=1) < _ALL]
    return table


def of_table(action: NDArray[np.int8], table: NDArray[np.float64]) -> Decisions:
    """Make decisions with the propensities that the table of probabilities has for the actions taken."""
    return Decisions(action, table[np.arange(len(action)), action])


def withhold(policy: Policy, batch: Batch, decided: Decisions, refused: NDArray[np.bool_]) -> Decisions:
    """Take `ESCALATE` back in the rows `refused`: accept them, and defer those that cannot be accepted.

    Parameters
    ----------
    refused
        Bool ``[B]``: where an escalation would be refused, whether or not the row was escalated.
    """
    usable = batch.score > -inf
    action = decided.action.copy()
    up = refused & (action == Action.ESCALATE)
    action[up] = np.where(usable[up], Action.ACCEPT, Action.DEFER)
    propensity = decided.propensity
    chancy = np.flatnonzero(refused & (propensity < 1.0))
    if len(chancy):
        rows = batch.take(chancy)
        table = withheld(probabilities(policy, rows, Decisions(decided.action[chancy], propensity[chancy])), rows)
        propensity = propensity.copy()
        propensity[chancy] = table[np.arange(len(chancy)), action[chancy]]
    return Decisions(action, propensity)


def withheld(table: NDArray[np.float64], batch: Batch) -> NDArray[np.float64]:
    """Return the probabilities after `withhold` refused every row."""
    table = table.copy()
    usable = batch.score > -inf
    table[usable, Action.ACCEPT] += table[usable, Action.ESCALATE]
    table[~usable, Action.DEFER] += table[~usable, Action.ESCALATE]
    table[:, Action.ESCALATE] = 0.0
    return table


def with_uniform(context: Context, uniform: float) -> Context:
    """Return a context that differs in its random number."""
    return Context(
        context.time_s,
        uniform,
        context.remaining_ms,
        context.bytes_up,
        context.upstream_ms,
        context.posterior,
        context.device,
        context.upstream_load,
    )


def instead(score: float) -> Action:
    """Return what is done in place of an escalation that is refused: accept, or defer what cannot be accepted."""
    return Action.ACCEPT if score > -inf else Action.DEFER


def listens(policy: Policy, method: Literal["commit", "observe", "retune"]) -> bool:
    """Whether a policy, or a part of it, does anything when that method is called.

    Examples
    --------
    >>> from escalade.policies.budgeted import Budgeted
    >>> from escalade.policies.threshold import Threshold
    >>> listens(Threshold(0.8), "commit"), listens(Budgeted(Threshold(0.8), share=0.1), "commit")
    (False, True)
    """
    if isinstance(policy, Combinator) and getattr(type(policy), method) is getattr(Combinator, method):
        return any(listens(part, method) for part in policy.parts.values())
    return getattr(type(policy), method) is not getattr(Policy, method)
