"""Escalations within a cap that holds over any window: `Budgeted`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.combinator import Combinator, instead, probabilities, withheld, withhold
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.token_bucket import TokenBucket
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ESCALATE = Action.ESCALATE


class Budgeted(Combinator):
    """Let a policy escalate only while a budget lasts; over it, answer here.

    The budget is a token bucket, so it holds over any window, not only on average since the start:

        cost of the escalations in any window of length T <= burst + rate * T.

    For a share the window is counted in decisions and an escalation costs 1; for bytes and joules it is in
    seconds of `Batch.time_s`, and an escalation costs ``bytes_up`` or ``joules_per_byte * bytes_up +
    joules_per_message``. An escalation over the budget becomes `ACCEPT`; a row without a usable score, which
    is never accepted, becomes `DEFER`: a provisional answer now, the escalation when there is room for it.

    Parameters
    ----------
    policy
        Whose escalations are capped; all else that it decides stands.
    share, bytes_per_s, joules_per_s
        The rate, exactly one of them: escalations a decision, in (0, 1]; bytes or joules a second, above 0.
    burst
        The most at once, in escalations, bytes or joules. By default 10 escalations, or what ten seconds earn.
        An input that costs more than this is never escalated.
    joules_per_byte, joules_per_message
        The cost of an escalation, for `joules_per_s`.

    Raises
    ------
    ValueError
        If not exactly one rate is given, or a number is out of range.

    Notes
    -----
    It counts what was really sent, as `commit` tells it, and what is sent although the tier above turns out
    not to answer. Deferred inputs are sent later by an outbox, outside this budget. The inputs that get the
    budget are those that come first, not those that need it most: choose the policy's own threshold so that
    the cap is the exception. Put it outermost, since a policy around it may escalate more. The cap is that of
    one policy object: each tier, and each process, has its own.

    Examples
    --------
    >>> from escalade.policies.constant import AlwaysEscalate
    >>> policy = Budgeted(AlwaysEscalate(), share=0.25, burst=1)
    >>> policy.decide(Batch.of(np.full(8, 0.5))).action.tolist()
    [1, 0, 0, 0, 1, 0, 0, 0]
    >>> link = Budgeted(AlwaysEscalate(), bytes_per_s=100, burst=300)
    >>> link.decide(Batch.of([0.5, 0.5, 0.5], time_s=[0.0, 0.1, 3.0], bytes_up=250)).action.tolist()
    [1, 0, 1]
    """

    sequential = True

    def __init__(
        self,
        policy: Policy,
        share: float | None = None,
        bytes_per_s: float | None = None,
        joules_per_s: float | None = None,
        burst: float | None = None,
        joules_per_byte: float = 0.0,
        joules_per_message: float = 0.0,
    ) -> None:
        super().__init__(policy=policy)
        rates = {"share": share, "bytes_per_s": bytes_per_s, "joules_per_s": joules_per_s}
        given = {name: rate for name, rate in rates.items() if rate is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(rates)}, got {', '.join(given) or 'none'}")
        self._unit, rate = next(iter(given.items()))
        if not 0.0 < rate < inf or (share is not None and share > 1.0):
            raise ValueError(f"{self._unit} must be above 0{' and at most 1' if share else ''}, got {rate}")
        if burst is None:
            burst = 10.0 if share is not None else 10.0 * rate
        least = 1.0 if share is not None else 0.0
        if not least <= burst < inf or burst == 0.0:
            raise ValueError(f"burst must be {'at least 1' if least else 'above 0'}, got {burst}")
        if not (0.0 <= joules_per_byte < inf and 0.0 <= joules_per_message < inf):
            raise ValueError("joules_per_byte and joules_per_message must be 0 or more")
        if (joules_per_s is None) != (joules_per_byte == joules_per_message == 0.0):
            raise ValueError("joules_per_s needs joules_per_byte or joules_per_message, and they need it")
        self.policy = policy
        self._per_byte, self._per_message = {
            "share": (0.0, 1.0),
            "bytes_per_s": (1.0, 0.0),
            "joules_per_s": (float(joules_per_byte), float(joules_per_message)),
        }[self._unit]
        self._by_count = share is not None
        self._decisions = 0
        self._bucket = TokenBucket(float(rate), float(burst))

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy whose escalations are capped."""
        return {"policy": self.policy}

    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide in order: each escalation leaves less for those after it."""
        decided = self.policy.decide(batch)
        up = decided.action == _ESCALATE
        asked = np.flatnonzero(up | (decided.propensity < 1.0))
        if not len(asked):
            return decided
        when = self._decisions + asked.astype(np.float64) if self._by_count else batch.time_s[asked]
        costs = self._per_byte * batch.bytes_up[asked] + self._per_message
        refused = np.zeros(len(batch), np.bool_)
        refused[asked] = self._bucket.refused(when.tolist(), costs.tolist(), up[asked].tolist())
        return withhold(self.policy, batch, decided, refused) if refused.any() else decided

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, with the escalations moved where there is nothing left for them."""
        table = probabilities(self.policy, batch)
        costs = (self._per_byte * batch.bytes_up + self._per_message).tolist()
        when = [self._decisions] * len(batch) if self._by_count else batch.time_s.tolist()
        none_wanted = [False] * len(batch)
        refused = np.array(self._bucket.refused(when, costs, none_wanted), np.bool_)
        return np.where(refused[:, None], withheld(table, batch), table)

    def decide_one(self, score: float, context: Context) -> Action:
        """Ask the policy, and the budget if it escalates."""
        action = self.policy.decide_one(score, context)
        if action is not _ESCALATE or self._bucket.passes(*self._price(context)):
            return action
        return instead(score)

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        """Charge the rows that were escalated."""
        super().commit(batch, action)
        rows = np.flatnonzero(action == _ESCALATE)
        when = self._decisions + rows.astype(np.float64) if self._by_count else batch.time_s[rows]
        costs = self._per_byte * batch.bytes_up[rows] + self._per_message
        for time, cost in zip(when.tolist(), costs.tolist(), strict=True):
            self._bucket.charge(time, cost)
        self._decisions += len(batch)

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        """Charge it if it was escalated."""
        super().commit_one(score, context, action)
        if action is _ESCALATE:
            self._bucket.charge(*self._price(context))
        self._decisions += 1

    def own_state(self) -> dict[str, Any]:
        """Return the debt, since when it stands, and the number of decisions."""
        return {**self._bucket.state_dict(), "decisions": self._decisions}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take over a debt; ValueError if the state is not one of a budget."""
        count = state.get("decisions")
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(f"a budget's state needs 'decisions', a count of 0 or more, got {count!r}")
        self._bucket.load_state_dict({name: value for name, value in state.items() if name != "decisions"})
        self._decisions = int(count)

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, the cost of escalating and what is left for it."""
        time, cost = self._price(context)
        left = self._bucket.burst - self._bucket.debt_at(time)
        return {**super().explain(score, context), "budget_cost": cost, "budget_left": left}

    def _price(self, context: Context) -> tuple[float, float]:
        """Return when an escalation now would be charged, and how much."""
        time = float(self._decisions) if self._by_count else context.time_s
        return time, self._per_byte * context.bytes_up + self._per_message

    def __repr__(self) -> str:
        return f"Budgeted({self.policy!r}, {self._unit}={self._bucket.rate:g}, burst={self._bucket.burst:g})"
