"""A linear head: multinomial logistic regression, fitted in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.fusion.minimise import minimise

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Class probabilities ``softmax(x W + b)``.

    Attributes
    ----------
    weight
        float64 ``[F, C]``.
    bias
        float64 ``[C]``.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return float64 ``[E, C]`` for features ``[E, F]``."""
        return probabilities(features @ self.weight + self.bias)


def fit_head(features: NDArray[Any], labels: NDArray[np.int64], classes: int, *, l2: float = 1e-4) -> Head:
    """Fit a head to labelled features by penalised maximum likelihood.

    Parameters
    ----------
    features
        ``[E, F]``, finite.
    labels
        int64 ``[E]`` in [0, classes).
    classes
        ``C``: a class may have no label at all.
    l2
        Penalty ``l2 / 2 |W|^2`` on weights of standardised features, per event. More makes the head
        smoother and less sure.

    Notes
    -----
    The objective is convex; see `minimise` for the method. Source: Cox (1958), "The regression analysis of
    binary sequences", in its multinomial form.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 600)
    >>> head = fit_head(np.eye(3)[labels] + rng.normal(scale=0.4, size=(600, 3)), labels, 3)
    >>> head(np.eye(3)).argmax(axis=1).tolist()
    [0, 1, 2]
    """
    x = np.asarray(features, np.float64)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = np.hstack([(x - centre) / scale, np.ones((len(x), 1))])
    rows = np.arange(len(x))
    penalty = np.full((z.shape[1], 1), l2)
    penalty[-1] = 1e-8  # hardly any on the bias; with none a class without labels would drive it to infinity

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat.reshape(-1, classes)
        gap = probabilities(z @ weight)
        loss = -np.log(np.maximum(gap[rows, labels], 1e-300)).mean()
        gap[rows, labels] -= 1.0
        slope = z.T @ gap / len(z) + penalty * weight
        return float(loss + 0.5 * (penalty * weight * weight).sum()), slope.ravel()

    weight = minimise(objective, np.zeros(z.shape[1] * classes)).reshape(-1, classes)
    scaled = weight[:-1] / scale[:, None]
    return Head(scaled, weight[-1] - centre @ scaled)


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax of finite logits ``[E, C]``, float64; without the last-bit promises of `softmax`."""
    z: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    z /= z.sum(axis=1, keepdims=True)
    return z
