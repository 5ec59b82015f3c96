"""Do not ask what cannot answer in time: `DeadlineAware`."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil, inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.combinator import Combinator, instead, probabilities, withheld, withhold
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.feedback import Feedback

_ESCALATE = Action.ESCALATE
_ENTRIES = ("arrived_s", "took_ms")


class DeadlineAware(Combinator):
    """Escalate only where the tier above is likely to answer within the time that is left.

    An escalation stands while

        remaining_ms >= quantile of the upstream's latency + margin_ms,

    the quantile being that of the last `window` escalations that it was told of. One that was answered by
    nobody counts as endless. Before there is a measurement, or when the newest is older than `fresh_s`, the
    row's own `upstream_ms` stands in; where that is ``nan``, the escalation stands. An escalation that does
    not stand becomes `ACCEPT`, or `DEFER` where the row has no usable score.

    Parameters
    ----------
    policy
        Whose escalations are judged.
    quantile
        Share of the escalations that should come back in time, in (0, 1].
    margin_ms
        Kept back for this tier's own work and the way, milliseconds.
    window
        How many measurements are kept.
    fresh_s
        How long a measurement counts, seconds. After a failure of the tier above this is how long it takes
        until inputs with a tight deadline are sent there again.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    The quantile is over all inputs alike, and over those that were asked: it is no promise for one that is
    larger than usual, nor for a load that this very policy changes. Deadlines as a constraint of the
    offloading decision: Teerapittayanon et al. (2017, "Distributed deep neural networks over the cloud, the
    edge and end devices"); Laskaridis et al. (2020, "SPINN").

    Examples
    --------
    >>> from escalade.policies.constant import AlwaysEscalate
    >>> from escalade.policies.feedback import Feedback
    >>> policy = DeadlineAware(AlwaysEscalate(), quantile=0.9, margin_ms=5)
    >>> policy.observe(Feedback.of(np.zeros(10), local=0, action=1, upper=1, upstream_ms=np.arange(10.0, 20.0)))
    >>> policy.decide(Batch.of([0.5, 0.5], remaining_ms=[22.9, 23.0])).action.tolist()
    [0, 1]
    """

    def __init__(
        self,
        policy: Policy,
        quantile: float = 0.95,
        margin_ms: float = 0.0,
        window: int = 200,
        fresh_s: float = 60.0,
    ) -> None:
        super().__init__(policy=policy)
        if not 0.0 < quantile <= 1.0:
            raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}")
        if not (0.0 <= margin_ms < inf and fresh_s > 0.0 and window >= 1):
            raise ValueError("margin_ms must be 0 or more, fresh_s above 0 and window at least 1")
        self.policy, self.quantile, self.margin_ms = policy, float(quantile), float(margin_ms)
        self.window, self.fresh_s = int(window), float(fresh_s)
        self._recent: deque[tuple[float, float]] = deque()  # when the input arrived, how long it took
        self._sorted: list[float] = []
        self._refresh()

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy whose escalations are judged."""
        return {"policy": self.policy}

    @property
    def latency_ms(self) -> float:
        """The measured quantile; ``nan`` before there is a measurement."""
        return self._latency_ms

    def decide_rows(self, batch: Batch) -> Decisions:
        """Take back the escalations that would come too late."""
        decided = self.policy.decide(batch)
        late = self._late(batch)
        return withhold(self.policy, batch, decided, late) if late.any() else decided

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, with the escalations moved where they would come too late."""
        table = probabilities(self.policy, batch)
        return np.where(self._late(batch)[:, None], withheld(table, batch), table)

    def decide_one(self, score: float, context: Context) -> Action:
        """Take back an escalation that would come too late."""
        action = self.policy.decide_one(score, context)
        if action is not _ESCALATE:
            return action
        known = context.time_s <= self._until_s
        needed = (self._latency_ms if known else context.upstream_ms) + self.margin_ms
        return instead(score) if context.remaining_ms < needed else action

    def observe(self, feedback: Feedback) -> None:
        """Learn how long the tier above took, where it was asked."""
        super().observe(feedback)
        asked = feedback.action == _ESCALATE
        if not asked.any():
            return
        took = feedback.upstream_ms[asked]
        took = np.where(np.isnan(took), inf, took)
        for arrived, value in zip(feedback.time_s[asked].tolist(), took.tolist(), strict=True):
            self._recent.append((arrived, value))
            insort(self._sorted, value)
            if len(self._recent) > self.window:
                self._drop()
        oldest = max(self._recent)[0] - self.fresh_s
        while self._recent[0][0] < oldest:
            self._drop()
        self._refresh()

    def own_state(self) -> dict[str, Any]:
        """Return the measurements, in the order in which they came."""
        pairs = np.array(self._recent, np.float64).reshape(-1, 2)
        return {name: pairs[:, column].copy() for column, name in enumerate(_ENTRIES)}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take over measurements; ValueError if they are none."""
        if sorted(state) != sorted(_ENTRIES):
            raise ValueError(f"measured latencies have the entries {', '.join(_ENTRIES)}, got {sorted(state)}")
        arrived, took = (np.asarray(state[name], np.float64) for name in _ENTRIES)
        if arrived.ndim != 1 or arrived.shape != took.shape or not np.isfinite(arrived).all():
            raise ValueError("arrived_s and took_ms must be columns of one length, and times finite")
        if not np.all(took >= 0.0):
            raise ValueError("took_ms must hold no negative latency and no nan")
        self._recent = deque(zip(arrived[-self.window :].tolist(), took[-self.window :].tolist(), strict=True))
        self._sorted = sorted(value for _, value in self._recent)
        self._refresh()

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, the time left and the time an escalation needs."""
        known = context.time_s <= self._until_s
        latency = self._latency_ms if known else context.upstream_ms
        return {
            **super().explain(score, context),
            "remaining_ms": context.remaining_ms,
            "upstream_ms": latency,
            "needed_ms": latency + self.margin_ms,
        }

    def _late(self, batch: Batch) -> NDArray[np.bool_]:
        latency = np.where(batch.time_s <= self._until_s, self._latency_ms, batch.upstream_ms)
        late: NDArray[np.bool_] = batch.remaining_ms < latency + self.margin_ms
        return late

    def _drop(self) -> None:
        _, value = self._recent.popleft()
        del self._sorted[bisect_left(self._sorted, value)]

    def _refresh(self) -> None:
        """Note the quantile (the smallest value that so many do not exceed) and until when it counts."""
        count = len(self._sorted)
        self._latency_ms = self._sorted[max(ceil(self.quantile * count) - 1, 0)] if count else nan
        self._until_s = max(self._recent)[0] + self.fresh_s if count else -inf

    def __repr__(self) -> str:
        return f"DeadlineAware({self.policy!r}, quantile={self.quantile:g}, margin_ms={self.margin_ms:g})"
