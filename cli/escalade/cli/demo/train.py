"""Three models for one task, each larger than the one below it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from escalade.tiers.preprocess import StepSpec, build_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.cli.demo.data import Split

TIERS = ("endpoint", "edge_node", "edge_server")

STEPS: dict[str, list[dict[str, Any]]] = {
    "endpoint": [{"mean_pool": 2}, {"scale": 0.0625}, {"flatten": True}],
    "edge_node": [{"scale": 0.0625}, {"flatten": True}],
    "edge_server": [{"flatten": True}],
}
"""What each tier does to the 64 raw pixels: the endpoint's model sees a 4x4 picture of them."""

HIDDEN_NODE, HIDDEN_SERVER = 32, 256


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained model: a chain of layers, and scikit-learn's own object to check the export against.

    Attributes
    ----------
    tier:
        The tier that it is for.
    weights, biases:
        Each layer's matrix `[inputs, outputs]` and vector `[outputs]`; ReLU between layers.
    classifier:
        The fitted scikit-learn estimator.
    """

    tier: str
    weights: list[NDArray[np.float64]]
    biases: list[NDArray[np.float64]]
    classifier: Any

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(array.size for array in [*self.weights, *self.biases])


def features(tier: str, images: NDArray[Any]) -> NDArray[np.float32]:
    """Turn images `[N, 8, 8]` into what the tier's model takes, float32 `[N, D]`, by the tier's own steps."""
    pipeline = build_pipeline(TypeAdapter(list[StepSpec]).validate_python(STEPS[tier]), np.dtype(np.float32))
    assert pipeline is not None
    return pipeline(images)


def train(split: Split, seed: int = 0, check: Callable[[], None] = lambda: None) -> dict[str, Model]:
    """Fit the three models; about two seconds.

    Parameters
    ----------
    split:
        What they learn from.
    seed:
        Of the first weights and of the order of the images.
    check:
        Called between fits; may raise to stop. (scikit-learn takes a KeyboardInterrupt during a fit for the
        wish to go on with what has been learnt.)

    Returns
    -------
    dict
        `Model` by tier: a logistic regression on 16 pooled values, a perceptron with 32 hidden units on
        64 pixels, one with 256 hidden units that has also seen every image moved by half a pixel.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is chosen, not reached
        linear = LogisticRegression(C=1.0, max_iter=500).fit(features("endpoint", split.images), split.labels)
        check()
        small = MLPClassifier((HIDDEN_NODE,), alpha=1e-3, max_iter=200, random_state=seed)
        small.fit(features("edge_node", split.images), split.labels)
        check()
        moved, labels = with_half_pixel_moves(split)
        large = MLPClassifier((HIDDEN_SERVER,), alpha=1e-2, max_iter=40, random_state=seed)
        large.fit(features("edge_server", moved), labels)
        check()
    return {
        "endpoint": Model("endpoint", [linear.coef_.T], [linear.intercept_], linear),
        "edge_node": Model("edge_node", small.coefs_, small.intercepts_, small),
        "edge_server": Model("edge_server", large.coefs_, large.intercepts_, large),
    }


def with_half_pixel_moves(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images and copies moved half a pixel up, down, left and right: float32 `[5 N, 8, 8]`."""
    padded = np.pad(split.images.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    still = padded[:, 1:-1, 1:-1]
    neighbours = [padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]]
    images = np.concatenate([still, *(0.5 * (still + neighbour) for neighbour in neighbours)])
    return images, np.tile(split.labels, 5)
