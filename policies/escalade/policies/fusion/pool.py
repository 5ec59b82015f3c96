"""The logarithmic opinion pool: `LogOpinionPool`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.calibration import fit_temperature
from escalade.policies.fusion.head import probabilities
from escalade.policies.fusion.minimise import minimise
from escalade.policies.fusion.observations import checked_labels, checked_posteriors
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LOWEST = 1e-6
"""Probabilities below it count as it: no node can rule a class out for good."""


class LogOpinionPool(FusionRule):
    """The product of the posteriors, each raised to a power: ``prod_n p_n(c)^(w_n a_n)``, normalised.

    Before `fit` the powers of the reporting nodes sum to one: the geometric mean. `fit` finds a temperature
    for each node, then the weights that make the labels likeliest; the power is ``a_n = weight_n /
    temperature_n`` and stays as it is when other nodes are silent, so that fewer nodes are less sure.

    Sources: Genest and Zidek (1986), "Combining probability distributions"; Guo et al. (2017) for the
    temperatures; Hinton (2002), "Training products of experts", for the product.

    Notes
    -----
    Fitted it is strong while all nodes are as they were. A single node that is sure and wrong vetoes the
    true class, up to the floor of 1e-6 on every probability: it collapses when a node breaks. Fitted, it
    knows each node by its place and recalibrates one that is alone: neither `symmetric` nor `identity`.

    Examples
    --------
    >>> pool = LogOpinionPool()
    >>> pool.fuse([[[0.8, 0.2], [0.5, 0.5]]]).posterior.round(2).tolist()
    [[0.6700000166893005, 0.33000001311302185]]
    """

    def __init__(self) -> None:
        self._power: NDArray[np.float32] | None = None

    @property
    def symmetric(self) -> bool:
        """Until it is fitted."""
        return self._power is None

    @property
    def identity(self) -> bool:
        """Until it is fitted, and but for the floor on probabilities."""
        return self._power is None

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the logarithms times their powers."""
        power = weights / weights.sum(axis=1, keepdims=True) if self._power is None else weights * self._power
        logs = np.log(np.maximum(posteriors, np.float32(LOWEST)))
        total = np.matmul(power[:, None, :], logs)[:, 0]
        total -= total.max(axis=1, keepdims=True)
        result: NDArray[np.float32] = np.exp(total)
        return result

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Fit temperatures, then weights, to labelled events; each node has to have reported some."""
        p, present = checked_posteriors(posteriors, mask)
        y = checked_labels(labels, len(p), p.shape[2])
        logs = np.log(np.maximum(np.where(present[:, :, None], p, 1.0), LOWEST)).astype(np.float64)
        nodes = p.shape[1]
        heat = [fit_temperature(logs[present[:, n], n], y[present[:, n]]) for n in range(nodes)]
        scaled = logs / np.array(heat)[:, None]
        rows = np.arange(len(p))

        def objective(log_weight: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight = np.exp(log_weight)
            guess = probabilities(np.einsum("n,enc->ec", weight, scaled))
            loss = -np.log(np.maximum(guess[rows, y], 1e-300)).mean()
            guess[rows, y] -= 1.0
            return float(loss), weight * np.einsum("ec,enc->n", guess, scaled) / len(p)

        weight = np.exp(minimise(objective, np.full(nodes, -np.log(nodes))))
        self._power = (weight / heat).astype(np.float32)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the powers, if fitted."""
        return {} if self._power is None else {"power": self._power.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over powers."""
        if set(state) - {"power"}:
            raise ValueError(f"LogOpinionPool keeps 'power', got {sorted(state)}")
        self._power = np.asarray(state["power"], np.float32).copy() if state else None
