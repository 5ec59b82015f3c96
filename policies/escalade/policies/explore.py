"""Chance for what it may teach: `Explore`."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.combinator import LARGEST_UNIFORM, Combinator, of_table, probabilities, with_uniform
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE
_OTHER = {_ACCEPT: _ESCALATE, _ESCALATE: _ACCEPT}


class Explore(Combinator):
    """Do, in a small share of the inputs, the other of accepting and escalating.

    Traffic recorded under a policy that never varies can judge no other policy: where it always accepted,
    nobody knows what the tier above would have said. With probability `epsilon` an `ACCEPT` becomes an
    `ESCALATE` and the reverse, and the propensity says so:

        P(accept) = (1 - epsilon) * p(accept) + epsilon * p(escalate),

    ``p`` being the policy's own. `DEFER` and `ABSTAIN` stand, and a row without a usable score is not accepted.

    Parameters
    ----------
    policy
        What to vary.
    epsilon
        Share of the inputs that are varied, 0 to below 1.

    Raises
    ------
    ValueError
        If `epsilon` is out of range.

    Notes
    -----
    The one random number of a row serves both: below `epsilon` it says to vary, and its place within that
    part, stretched to [0, 1), is the number that the policy sees; likewise above. So a policy that is random
    itself gets a number independent of the choice made here. Accepting what should have been escalated costs
    accuracy in about `epsilon` of the escalated inputs. A guarantee of the policy inside is lost.

    Epsilon-greedy exploration is from Watkins (1989, "Learning from delayed rewards"); why propensities
    are recorded: Bottou et al. (2013, "Counterfactual reasoning and learning systems").

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> decided = Explore(Threshold(0.8), epsilon=0.1).decide(Batch.of([0.9, 0.9, 0.3], uniform=[0.05, 0.5, 0.5]))
    >>> decided.action.tolist(), decided.propensity.tolist()
    ([1, 0, 1], [0.1, 0.9, 0.9])
    """

    def __init__(self, policy: Policy, epsilon: float) -> None:
        super().__init__(policy=policy)
        if not 0.0 <= epsilon < 1.0:
            raise ValueError(f"epsilon must be at least 0 and below 1, got {epsilon}")
        self.policy, self.epsilon = policy, float(epsilon)

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy that is varied."""
        return {"policy": self.policy}

    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide with the rest of each random number; where the number says so, do the other."""
        if not self.epsilon:
            return self.policy.decide(batch)
        varied, rest = self._split(batch)
        decided = self.policy.decide(rest)
        other = np.array([_ESCALATE, _ACCEPT, Action.DEFER, Action.ABSTAIN], np.int8)[decided.action]
        turned = varied & (batch.score > -inf)
        action = np.where(turned, other, decided.action)
        if np.all(decided.propensity >= 1.0):
            free = (batch.score > -inf) & (other != decided.action)
            return Decisions(action, np.where(free, np.where(varied, self.epsilon, 1.0 - self.epsilon), 1.0))
        return of_table(action, self._mixed(probabilities(self.policy, rest, decided), batch))

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, mixed with the same after the exchange."""
        return self._mixed(probabilities(self.policy, batch), batch)

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide on one input in the same way."""
        epsilon, uniform = self.epsilon, context.uniform
        if not epsilon:
            return self.policy.decide_one(score, context)
        varied = uniform < epsilon
        rest = uniform / epsilon if varied else (uniform - epsilon) / (1.0 - epsilon)
        action = self.policy.decide_one(score, with_uniform(context, min(rest, LARGEST_UNIFORM)))
        return _OTHER.get(action, action) if varied and score > -inf else action

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, and whether this input is varied."""
        return {**super().explain(score, context), "epsilon": self.epsilon, "varied": context.uniform < self.epsilon}

    def _split(self, batch: Batch) -> tuple[NDArray[np.bool_], Batch]:
        epsilon, uniform = self.epsilon, batch.uniform
        varied: NDArray[np.bool_] = uniform < epsilon
        rest = np.where(varied, uniform / epsilon, (uniform - epsilon) / (1.0 - epsilon))
        return varied, replace(batch, uniform=np.minimum(rest, LARGEST_UNIFORM))

    def _mixed(self, table: NDArray[np.float64], batch: Batch) -> NDArray[np.float64]:
        turned = table[:, [_ESCALATE, _ACCEPT, Action.DEFER, Action.ABSTAIN]]
        mixed: NDArray[np.float64] = (1.0 - self.epsilon) * table + self.epsilon * turned
        return np.where((batch.score > -inf)[:, None], mixed, table)

    def __repr__(self) -> str:
        return f"Explore({self.policy!r}, epsilon={self.epsilon:g})"
