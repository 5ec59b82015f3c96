"""Accuracy for cost, at stated prices: `CostAware`."""

from __future__ import annotations

from math import inf, isnan
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.policy import Policy
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE


class CostAware(Policy):
    """Escalate where the accuracy that it is expected to gain is worth more than it costs.

    With a score that is the probability of being right, escalating gains ``upper_accuracy - score`` right
    answers on average, and

        cost = price_request + price_bytes * bytes_up + price_ms * upstream_ms.

    An input is accepted when ``score >= upper_accuracy - cost / price_error``: the dearer the link, the surer
    the tier above has to be missing. All prices are in one currency of the user's choice.

    Parameters
    ----------
    price_error
        What a wrong answer costs; above 0.
    upper_accuracy
        Share of the inputs that the tier above would answer rightly, of those that it would be asked; above
        0, at most 1.
    price_request
        What each escalation costs, whatever its size.
    price_bytes
        For each byte sent up: a tariff, or joules of the radio.
    price_ms
        For each millisecond of waiting.
    assumed_ms
        The latency to reckon with while none is known.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    The score must be a probability: `max_prob` of a calibrated model (`fit_temperature`). Of a margin or an
    energy it makes no sense, and nothing here can notice. It takes the tier above to be equally good on every
    input, which it is not: `LearnedDeferral` estimates that. The trade of latency, energy and accuracy in one
    objective is that of Kang et al. (2017, "Neurosurgeon") and Laskaridis et al. (2020, "SPINN"); the rule is
    Chow's (1970) with a cost of rejection that varies.

    Examples
    --------
    >>> policy = CostAware(price_error=1.0, upper_accuracy=0.95, price_request=0.05, price_bytes=1e-6)
    >>> policy.decide(Batch.of([0.95, 0.85, 0.85, 0.5], bytes_up=[0, 0, 100_000, 100_000])).action.tolist()
    [0, 1, 0, 1]
    """

    def __init__(
        self,
        price_error: float,
        upper_accuracy: float = 1.0,
        price_request: float = 0.0,
        price_bytes: float = 0.0,
        price_ms: float = 0.0,
        assumed_ms: float = 0.0,
    ) -> None:
        if not 0.0 < price_error < inf:
            raise ValueError(f"price_error must be above 0, got {price_error}")
        if not 0.0 < upper_accuracy <= 1.0:
            raise ValueError(f"upper_accuracy must be above 0 and at most 1, got {upper_accuracy}")
        prices = {"price_request": price_request, "price_bytes": price_bytes, "price_ms": price_ms}
        for name, price in {**prices, "assumed_ms": assumed_ms}.items():
            if not 0.0 <= price < inf:
                raise ValueError(f"{name} must be 0 or more, got {price}")
        self.price_error, self.upper_accuracy = float(price_error), float(upper_accuracy)
        self.price_request, self.price_bytes = float(price_request), float(price_bytes)
        self.price_ms, self.assumed_ms = float(price_ms), float(assumed_ms)

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with what the link's price leaves of the upper tier's lead."""
        with np.errstate(invalid="ignore"):  # a signalling nan is as good as a quiet one
            accept = (batch.score >= self._limits(batch)) & (batch.score > -inf)
        return Decisions.of(np.where(accept, np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score."""
        return _ACCEPT if score > -inf and score >= self._limit(context) else _ESCALATE

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the cost of escalating, the gain that it is expected to bring, and the score that suffices."""
        limit = self._limit(context)
        return {
            "score": score,
            "cost": (self.upper_accuracy - limit) * self.price_error,
            "gain": (self.upper_accuracy - score) * self.price_error,
            "threshold": limit,
        }

    def _limits(self, batch: Batch) -> NDArray[np.float64]:
        cost: NDArray[np.float64] = self.price_request + self.price_bytes * batch.bytes_up.astype(np.float64)
        if self.price_ms:  # else an endless latency times no price would be nan
            known = np.where(np.isnan(batch.upstream_ms), self.assumed_ms, batch.upstream_ms)
            cost = cost + self.price_ms * known
        limits: NDArray[np.float64] = self.upper_accuracy - cost / self.price_error
        return limits

    def _limit(self, context: Context) -> float:
        cost = self.price_request + self.price_bytes * context.bytes_up
        if self.price_ms:
            latency = context.upstream_ms
            cost += self.price_ms * (self.assumed_ms if isnan(latency) else latency)
        return self.upper_accuracy - cost / self.price_error

    def __repr__(self) -> str:
        names = ("price_error", "upper_accuracy", "price_request", "price_bytes", "price_ms", "assumed_ms")
        return f"CostAware({', '.join(f'{name}={getattr(self, name):g}' for name in names)})"
