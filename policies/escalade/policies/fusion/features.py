"""Fusing features instead of posteriors: DDNN's aggregators and a head behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from escalade.policies.errors import NotFittedError
from escalade.policies.fusion.head import Head, fit_head
from escalade.policies.fusion.impute import Imputer
from escalade.policies.fusion.observations import checked_features, checked_labels
from escalade.policies.fusion.rule import Fused

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

How = Literal["max", "average", "concat"]


def aggregate(features: NDArray[np.floating], mask: NDArray[np.bool_], how: How) -> NDArray[np.float64]:
    """Combine the feature vectors of the nodes that reported.

    Parameters
    ----------
    features
        ``[E, N, F]``; what a masked node holds is not read.
    mask
        bool ``[E, N]``.
    how
        ``max`` or ``average`` of every feature over the reporting nodes (MP and AP in the paper), or
        ``concat`` (CC), the vectors side by side with zeros for silent nodes.

    Returns
    -------
    NDArray
        float64 ``[E, F]``, for ``concat`` ``[E, N F]``; zero for an event without any node.

    Notes
    -----
    Teerapittayanon, McDanel and Kung (2017), "Distributed deep neural networks over the cloud, the edge and
    end devices", section III-B.

    Examples
    --------
    >>> x = np.array([[[1.0, 4.0], [3.0, 2.0]]])
    >>> both = np.array([[True, True]])
    >>> aggregate(x, both, "max").tolist(), aggregate(x, both, "average").tolist()
    ([[3.0, 4.0]], [[2.0, 3.0]])
    >>> aggregate(x, np.array([[True, False]]), "concat").tolist()
    [[1.0, 4.0, 0.0, 0.0]]
    """
    there = mask[:, :, None]
    some = mask.sum(axis=1)[:, None] > 0
    if how == "max":
        highest = np.where(there, features, -np.inf).max(axis=1)
        return np.where(some, highest, 0.0)
    kept = np.where(there, features, 0.0).astype(np.float64)
    if how == "average":
        mean: NDArray[np.float64] = kept.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
        return mean
    return kept.reshape(len(kept), kept.shape[1] * kept.shape[2])


class FeatureFusion:
    """An aggregator of features and a linear head: a fusion rule whose nodes send features.

    `fuse` is that of `FusionRule` with ``[E, N, F]`` features in the place of posteriors; the conflict is 0,
    since features do not say what a node would answer.

    Parameters
    ----------
    how
        See `aggregate`.
    impute
        With ``concat``: fill in silent nodes' features from the others' (`Imputer`) instead of with zeros.
    l2
        Penalty of the head, see `fit_head`.

    Notes
    -----
    Not promised: robustness. A head behind ``concat`` that never saw a silent node takes its zeros at their
    word; fit with events in which nodes are masked, or impute. A stuck or noisy device is not noticed here:
    watch the devices' own posteriors with `NodeHealth` and pass its weights.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 400)
    >>> x = rng.normal(size=(400, 3, 4)) + 2.0 * labels[:, None, None]
    >>> fusion = FeatureFusion("average").fit(x, labels)
    >>> fused = fusion.fuse(x, weights=[1, 1, 0])
    >>> (fused.posterior.argmax(axis=1) == labels).mean().round(2).item()
    1.0
    """

    def __init__(self, how: How, *, impute: bool = False, l2: float = 1e-4) -> None:
        if how not in ("max", "average", "concat"):
            raise ValueError(f"how must be 'max', 'average' or 'concat', got {how!r}")
        if impute and how != "concat":
            raise ValueError(f"only 'concat' has a place to impute for each node, got {how!r}")
        self.how: How = how
        self.impute, self.l2 = impute, l2
        self._head: Head | None = None
        self._imputer: Imputer | None = None

    def fit(self, features: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None, *, classes: int = 0) -> Self:
        """Fit the head to labelled events; `classes` where the labels do not show them all."""
        x, present = checked_features(features, mask)
        classes = classes or int(np.max(np.asarray(labels), initial=0)) + 1
        y = checked_labels(labels, len(x), classes)
        if self.impute:
            self._imputer = Imputer.of(x[present.all(axis=1)])
        self._head = fit_head(self._aggregated(x, present), y, classes, l2=self.l2)
        return self

    def fuse(self, features: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        """Fuse every event; a weight of 0 makes a node silent, others are all alike."""
        if self._head is None:
            raise NotFittedError("FeatureFusion has no head: call fit or load_state_dict first")
        x, present = checked_features(features, mask)
        used = present if weights is None else present & (np.asarray(weights) > 0)
        answered = used.any(axis=1)
        posterior = self._head(self._aggregated(x, used)).astype(np.float32)
        posterior[~answered] = 1.0 / posterior.shape[1]
        score = np.where(answered, posterior.max(axis=1, initial=0.0), -np.inf).astype(np.float32)
        return Fused(posterior, score, np.zeros(len(x), np.float32), used)

    def _aggregated(self, x: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        if self._imputer is not None:
            return self._imputer(x, mask).reshape(len(x), x.shape[1] * x.shape[2])
        return aggregate(x, mask, self.how)

    def state_dict(self) -> dict[str, Any]:
        """Return the arrays of the head, and of the imputer where there is one."""
        state: dict[str, Any] = {}
        if self._head is not None:
            state |= {"weight": self._head.weight.copy(), "bias": self._head.bias.copy()}
        if self._imputer is not None:
            state |= {"mean": self._imputer.mean.copy(), "covariance": self._imputer.covariance.copy()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a head, trained here or elsewhere: ``weight [F or N F, C]``, ``bias [C]``."""
        if set(state) - {"weight", "bias", "mean", "covariance"} or ("weight" in state) != ("bias" in state):
            raise ValueError(f"FeatureFusion keeps weight and bias, mean and covariance, got {sorted(state)}")
        arrays = {name: np.array(value, np.float64) for name, value in state.items()}
        self._head = Head(arrays["weight"], arrays["bias"]) if "weight" in arrays else None
        self._imputer = Imputer(arrays["mean"], arrays["covariance"]) if "mean" in arrays else None

    def __repr__(self) -> str:
        return f"FeatureFusion({self.how!r}, impute={self.impute!r}, l2={self.l2!r})"
