"""A fitted head over all nodes' posteriors: `Stacking`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.errors import NotFittedError
from escalade.policies.fusion.errors import FusionInputError
from escalade.policies.fusion.head import Head, fit_head
from escalade.policies.fusion.impute import Imputer
from escalade.policies.fusion.observations import checked_labels, checked_posteriors
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LOWEST = 1e-6
"""Probabilities below it count as it, before the logarithm."""


class Stacking(FusionRule):
    """Multinomial logistic regression over the nodes' log-posteriors, laid side by side.

    Log-posteriors of nodes that did not report are filled in from those that did (`Imputer`), so one head
    serves every set of nodes. A weight is either 0, the node then counts as silent, or not.

    Parameters
    ----------
    l2
        Penalty of the head, see `fit_head`.

    Notes
    -----
    Source: Wolpert (1992), "Stacked generalization"; log-posteriors as inputs as in Ting and Witten (1999),
    "Issues in stacked generalization". It learns which node to believe about which class, and makes use of
    errors that nodes share, so it is the best rule here while all nodes are as they were in the
    calibration data; nothing at all is promised when one is not. Use it with `HealthChecked`. Fit it on
    inputs that the nodes' models were not trained on; a few hundred events per class. It knows nodes by
    their place and recalibrates them: neither `symmetric` nor `identity`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 3, 900)
    >>> logits = np.eye(3)[truth][:, None] * [[2.0], [1.0]] + rng.normal(size=(900, 2, 3))
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    >>> rule = Stacking().fit(p[:600], truth[:600])
    >>> both = rule.fuse(p[600:]).posterior.argmax(axis=1) == truth[600:]
    >>> alone = rule.fuse(p[600:], weights=[0, 1]).posterior.argmax(axis=1) == truth[600:]
    >>> both.mean().round(2).item(), alone.mean().round(2).item()
    (0.93, 0.65)
    """

    def __init__(self, l2: float = 1e-4) -> None:
        if not l2 >= 0.0:
            raise ValueError(f"l2 must be 0 or more, got {l2!r}")
        self.l2 = l2
        self._head: Head | None = None
        self._imputer: Imputer | None = None

    @property
    def symmetric(self) -> bool:
        """Each node has weights of its own."""
        return False

    @property
    def identity(self) -> bool:
        """A node that is alone is recalibrated."""
        return False

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Fill in what is missing and apply the head."""
        if self._head is None or self._imputer is None:
            raise NotFittedError("Stacking has no head: call fit or load_state_dict first")
        if posteriors.shape[1:] != self._imputer.mean.shape:
            nodes, classes = self._imputer.mean.shape
            raise FusionInputError(f"fitted to {nodes} nodes of {classes} classes, got {list(posteriors.shape[1:])}")
        whole = self._imputer(_logs(posteriors), weights > 0.0)
        return self._head(whole.reshape(len(whole), whole.shape[1] * whole.shape[2]))

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Fit head and imputer to the labelled events that every node reported."""
        p, present = checked_posteriors(posteriors, mask)
        y = checked_labels(labels, len(p), p.shape[2])
        complete = present.all(axis=1)
        if not complete.any():
            raise FusionInputError("no event was reported by all nodes: there is nothing to fit to")
        logs = _logs(p[complete])
        self._imputer = Imputer.of(logs)
        self._head = fit_head(logs.reshape(len(logs), -1), y[complete], p.shape[2], l2=self.l2)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the arrays of head and imputer, if fitted."""
        if self._head is None or self._imputer is None:
            return {}
        return {
            "weight": self._head.weight.copy(),
            "bias": self._head.bias.copy(),
            "mean": self._imputer.mean.copy(),
            "covariance": self._imputer.covariance.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a head ``weight [N C, C]``, ``bias [C]`` and an imputer ``mean [N, C]``, ``covariance``."""
        if not state:
            self._head, self._imputer = None, None
            return
        if set(state) != {"weight", "bias", "mean", "covariance"}:
            raise ValueError(f"Stacking keeps weight, bias, mean and covariance, got {sorted(state)}")
        weight, bias, mean, covariance = (
            np.array(state[name], np.float64) for name in ("weight", "bias", "mean", "covariance")
        )
        size = mean.size
        if mean.ndim != 2 or weight.shape != (size, mean.shape[1]) or covariance.shape != (size, size):
            raise ValueError(f"the arrays' shapes do not fit: {weight.shape}, {mean.shape}, {covariance.shape}")
        self._head, self._imputer = Head(weight, bias), Imputer(mean, covariance)

    def __repr__(self) -> str:
        return f"Stacking(l2={self.l2!r})"


def _logs(posteriors: NDArray[np.float32]) -> NDArray[np.float32]:
    logs: NDArray[np.float32] = np.log(np.maximum(posteriors, np.float32(LOWEST)))
    return logs
