"""Ask less while the tier above is full: `BackPressure`."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.combinator import (
    LARGEST_UNIFORM,
    Combinator,
    instead,
    of_table,
    probabilities,
    with_uniform,
    withheld,
)
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ESCALATE = Action.ESCALATE


class BackPressure(Combinator):
    """Let fewer escalations stand the fuller the tier above says to be, by chance.

    A tier tells in its answers how full it is. An escalation stands with the probability

        keep = 1                                                 while upstream_load <= start
        keep = 1 - (1 - least) (upstream_load - start) / (1 - start)           above,

    and becomes `ACCEPT` otherwise, or `DEFER` where the row has no usable score. So many tiers below one share
    what it can do without talking to each other, and it spends no time on refusing.

    Parameters
    ----------
    policy
        Whose escalations are thinned out.
    start
        The load from which on, 0 to below 1.
    least
        Share of the escalations that stand at full load, above 0: they find out when it is over.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    The row's one random number serves twice, as in `Explore`: its place within the part that stands, or the part
    that does not, stretched to [0, 1), is what the policy sees. It takes no account of which rows gain most from
    the tier above, and it promises nothing about the load that comes of it: tiers below that do not listen, or
    that ask rarely, add theirs. Probabilistic early dropping by fullness is from Floyd and Jacobson (1993,
    "Random early detection gateways for congestion avoidance").

    Examples
    --------
    >>> from escalade.policies.constant import AlwaysEscalate
    >>> rows = Batch.of([0.3, 0.3, 0.3], uniform=[0.9, 0.5, 0.9], upstream_load=[0.5, 0.75, 0.75])
    >>> decided = BackPressure(AlwaysEscalate(), start=0.5, least=0.25).decide(rows)
    >>> decided.action.tolist(), decided.propensity.tolist()
    ([1, 1, 0], [1.0, 0.625, 0.375])
    """

    def __init__(self, policy: Policy, start: float = 0.5, least: float = 0.1) -> None:
        super().__init__(policy=policy)
        if not (0.0 <= start < 1.0 and 0.0 < least <= 1.0):
            raise ValueError(f"start must be in [0, 1) and least in (0, 1], got {start} and {least}")
        self.policy, self.start, self.least = policy, float(start), float(least)
        self._slope = (1.0 - self.least) / (1.0 - self.start)

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy whose escalations are thinned out."""
        return {"policy": self.policy}

    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide with the rest of each random number; where the number says so, take an escalation back."""
        keep = self._keep(batch)
        if np.all(keep >= 1.0):
            return self.policy.decide(batch)
        stands, rest = _split(batch, keep)
        decided = self.policy.decide(rest)
        up = decided.action == _ESCALATE
        back = np.where(batch.score > -inf, Action.ACCEPT, Action.DEFER)
        action = np.where(up & ~stands, back, decided.action).astype(np.int8)
        if np.all(decided.propensity >= 1.0):
            return Decisions(action, np.where(up, np.where(stands, keep, 1.0 - keep), 1.0))
        return of_table(action, _thinned(probabilities(self.policy, rest, decided), batch, keep))

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, with a share of the escalations moved."""
        return _thinned(probabilities(self.policy, batch), batch, self._keep(batch))

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide on one input in the same way."""
        keep, uniform = self._keep_one(context.upstream_load), context.uniform
        if keep >= 1.0:
            return self.policy.decide_one(score, context)
        stands = uniform < keep
        rest = uniform / keep if stands else (uniform - keep) / (1.0 - keep)
        action = self.policy.decide_one(score, with_uniform(context, min(rest, LARGEST_UNIFORM)))
        return instead(score) if action == _ESCALATE and not stands else action

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, the load and the probability that an escalation stands."""
        load = context.upstream_load
        return {**super().explain(score, context), "upstream_load": load, "keep": self._keep_one(load)}

    def _keep_one(self, load: float) -> float:
        return 1.0 - self._slope * (min(load, 1.0) - self.start) if load > self.start else 1.0

    def _keep(self, batch: Batch) -> NDArray[np.float64]:
        load = batch.upstream_load
        return np.where(load > self.start, 1.0 - self._slope * (np.minimum(load, 1.0) - self.start), 1.0)

    def __repr__(self) -> str:
        return f"BackPressure({self.policy!r}, start={self.start:g}, least={self.least:g})"


def _split(batch: Batch, keep: NDArray[np.float64]) -> tuple[NDArray[np.bool_], Batch]:
    uniform = batch.uniform
    stands: NDArray[np.bool_] = uniform < keep
    beyond = np.where(stands, 1.0, 1.0 - keep)
    rest = np.where(stands, uniform / keep, (uniform - keep) / beyond)
    return stands, replace(batch, uniform=np.minimum(rest, LARGEST_UNIFORM))


def _thinned(table: NDArray[np.float64], batch: Batch, keep: NDArray[np.float64]) -> NDArray[np.float64]:
    share = keep[:, None]
    mixed: NDArray[np.float64] = share * table + (1.0 - share) * withheld(table, batch)
    return mixed
