"""Several policies, the first with an opinion decides: `FirstOf`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from escalade.policies.combinator import Combinator, of_table, probabilities, with_uniform
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MASK = 2**64 - 1
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_GOLDEN = 0x9E3779B97F4A7C15


class FirstOf(Combinator):
    """Ask policies in order; the first that has something else to say than `skip` decides.

    A policy that takes the action `skip` leaves it to the next one. When all do, that action is taken. So

    - ``skip="escalate"``: accepted here if any policy accepts (or another action of the first that does
      not escalate): several reasons to answer here, such as a sure score or a deadline that is near;
    - ``skip="accept"``: accepted here only if all accept: several reasons to ask above.

    Parameters
    ----------
    policies
        At least one, in order.
    skip
        ``"escalate"`` or ``"accept"``.

    Raises
    ------
    ValueError
        If there is no policy, or `skip` is another word.

    Notes
    -----
    Each policy gets a random number of its own, a hash of the row's and of its place (the finaliser of
    Steele, Lea and Flood 2014, "SplitMix"). They are independent for all practical purposes, and the
    propensity, the product of the policies' own, says so; no proof goes with that. All policies are told what
    was really done and what became of it, those that were not asked too.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> from escalade.policies.deadline_aware import DeadlineAware
    >>> late = DeadlineAware(Threshold(float("inf")), margin_ms=5)
    >>> rows = Batch.of([0.9, 0.3, 0.3], remaining_ms=[500.0, 500.0, 10.0], upstream_ms=20.0)
    >>> FirstOf([Threshold(0.8), late]).decide(rows).action.tolist()
    [0, 1, 0]
    """

    def __init__(self, policies: list[Policy], skip: Literal["escalate", "accept"] = "escalate") -> None:
        if not policies:
            raise ValueError("policies: give at least one")
        if skip not in ("escalate", "accept"):
            raise ValueError(f"skip must be 'escalate' or 'accept', got {skip!r}")
        self.policies, self.skip = list(policies), skip
        super().__init__(**self.parts)
        self._skip = Action.ESCALATE if skip == "escalate" else Action.ACCEPT

    @property
    def parts(self) -> dict[str, Policy]:
        """The policies: ``policies.0`` and so on."""
        return {f"policies.{number}": policy for number, policy in enumerate(self.policies)}

    def decide_rows(self, batch: Batch) -> Decisions:
        """Ask each policy about the rows that all before it left."""
        action = np.full(len(batch), self._skip, np.int8)
        left, certain = np.arange(len(batch)), True
        for number, policy in enumerate(self.policies):
            rows = _own_chance(batch if len(left) == len(batch) else batch.take(left), number)
            decided = policy.decide(rows)
            certain = certain and bool(np.all(decided.propensity >= 1.0))
            action[left] = decided.action
            left = left[decided.action == self._skip]
        return Decisions.of(action) if certain else of_table(action, self.probabilities(batch))

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return for each action the chance that all before skip and that one takes it."""
        table = np.zeros((len(batch), len(Action)))
        passed = np.ones(len(batch))
        for number, policy in enumerate(self.policies):
            found = probabilities(policy, _own_chance(batch, number)).copy()
            passing = found[:, self._skip].copy()
            found[:, self._skip] = 0.0
            table += passed[:, None] * found
            passed = passed * passing
        table[:, self._skip] += passed
        return table

    def decide_one(self, score: float, context: Context) -> Action:
        """Ask until one does not skip."""
        for number, policy in enumerate(self.policies):
            action = policy.decide_one(score, _own_chance_one(context, number))
            if action != self._skip:
                return action
        return self._skip

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return every policy's numbers, and which one decides."""
        for number, policy in enumerate(self.policies):
            if policy.decide_one(score, _own_chance_one(context, number)) != self._skip:
                return {**super().explain(score, context), "decided_by": number}
        return {**super().explain(score, context), "decided_by": None}

    def __repr__(self) -> str:
        return f"FirstOf({self.policies!r}, skip={self.skip!r})"


def _own_chance(batch: Batch, number: int) -> Batch:
    return replace(batch, uniform=_hashed(batch.uniform, number))


def _own_chance_one(context: Context, number: int) -> Context:
    return with_uniform(context, _hashed_one(context.uniform, number))


def _hashed(uniform: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) that depend on `uniform` as a hash does; the same as `_hashed_one`, to the bit."""
    mixed = (uniform * 2.0**53).astype(np.uint64) + np.uint64(_GOLDEN * (number + 1) & _MASK)
    for shift, factor in _STEPS:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashed_one(uniform: float, number: int) -> float:
    mixed = (int(uniform * 2.0**53) + _GOLDEN * (number + 1)) & _MASK
    for shift, factor in _STEPS:
        mixed = (mixed ^ (mixed >> shift)) * factor & _MASK
    mixed ^= mixed >> 31
    return (mixed >> 11) * 2.0**-53
