"""The device-outage protocol of DDNN: one image seen by six devices, devices taken away.

Teerapittayanon, McDanel and Kung (2017), section IV-G: every device is a small network that sends features,
an aggregator and a head make the answer; devices fail at test time. Here the images are scikit-learn's
digits, 8 x 8, cut into 2 x 3 parts; devices and head are trained together, with devices dropped at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.fusion import FeatureFusion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ROWS, COLUMNS = ((0, 4), (4, 8)), ((0, 3), (3, 6), (5, 8))
"""The six parts, 4 x 3 pixels each; the last two columns of parts share one column of pixels."""

FEATURES, TRAIN = 48, 1197


@dataclass
class Devices:
    """A one-layer network on every device, ``relu(x W + b)``: ``W [N, P, F]``, ``b [N, F]``."""

    weight: Array
    bias: Array

    def __call__(self, parts: Array) -> Array:
        """Return features ``[E, N, F]`` of parts ``[E, N, P]``."""
        features: Array = np.maximum(np.einsum("enp,npf->enf", parts, self.weight) + self.bias, 0.0)
        return features


def parts_of_digits() -> tuple[Array, NDArray[np.int64]]:
    """Return parts ``[E, 6, 12]`` in [0, 1], shuffled, and labels."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = digits.images[order] / 16.0
    cut = [images[:, r0:r1, c0:c1].reshape(len(images), -1) for r0, r1 in ROWS for c0, c1 in COLUMNS]
    return np.stack(cut, axis=1), digits.target[order].astype(np.int64)


def train(parts: Array, labels: NDArray[np.int64], *, dropout: float, epochs: int = 150, seed: int = 0) -> Devices:
    """Train devices under a linear head over their features side by side (Adam, softmax loss)."""
    rng = np.random.default_rng(seed)
    events, nodes, pixels = parts.shape
    weights = [
        rng.normal(scale=(2.0 / pixels) ** 0.5, size=(nodes, pixels, FEATURES)),
        np.zeros((nodes, FEATURES)),
        rng.normal(scale=0.05, size=(nodes, FEATURES, 10)),
        np.zeros(10),
    ]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    step = 0
    for _ in range(epochs):
        order = rng.permutation(events)
        for start in range(0, events, 100):
            rows = order[start : start + 100]
            there = (rng.random((len(rows), nodes, 1)) >= dropout) / (1.0 - dropout)
            features = Devices(weights[0], weights[1])(parts[rows])
            logits = np.einsum("enf,nfc->ec", features * there, weights[2]) + weights[3]
            gap = np.exp(logits - logits.max(axis=1, keepdims=True))
            gap /= gap.sum(axis=1, keepdims=True)
            gap[np.arange(len(rows)), labels[rows]] -= 1.0
            gap /= len(rows)
            back = np.einsum("ec,nfc->enf", gap, weights[2]) * there * (features > 0.0)
            slopes = [
                np.einsum("enp,enf->npf", parts[rows], back),
                back.sum(axis=0),
                np.einsum("enf,ec->nfc", features * there, gap),
                gap.sum(axis=0),
            ]
            step += 1
            for at, slope in enumerate(slopes):
                first[at] = 0.9 * first[at] + 0.1 * slope
                second[at] = 0.999 * second[at] + 0.001 * slope * slope
                scaled = first[at] / (1 - 0.9**step) / (np.sqrt(second[at] / (1 - 0.999**step)) + 1e-8)
                weights[at] = weights[at] - 2e-3 * scaled
    return Devices(weights[0], weights[1])


def curve(fusion: FeatureFusion, features: Array, labels: NDArray[np.int64]) -> dict[int, list[float]]:
    """Return the accuracy for every set of missing devices, by how many are missing (0 to 5)."""
    nodes = features.shape[1]
    found: dict[int, list[float]] = {}
    for missing in range(nodes):
        found[missing] = []
        for gone in combinations(range(nodes), missing):
            mask = np.ones(features.shape[:2], bool)
            mask[:, list(gone)] = False
            right = fusion.fuse(features, mask).posterior.argmax(axis=1) == labels
            found[missing].append(float(right.mean()))
    return found


def measure() -> dict[str, dict[int, list[float]]]:
    """Train, fit every aggregator's head, and take devices away."""
    parts, labels = parts_of_digits()
    devices = train(parts[:TRAIN], labels[:TRAIN], dropout=0.3)
    features = devices(parts)
    seen, truth = features[:TRAIN], labels[:TRAIN]
    rng = np.random.default_rng(1)
    often = 4  # each training image several times, with other devices missing each time
    masks = rng.random((often * TRAIN, features.shape[1])) >= 0.25
    many, many_truth = np.tile(seen, (often, 1, 1)), np.tile(truth, often)
    rules = {
        "max": FeatureFusion("max", l2=1e-3).fit(many, many_truth, masks),
        "average": FeatureFusion("average", l2=1e-3).fit(many, many_truth, masks),
        "concat": FeatureFusion("concat", l2=1e-3).fit(many, many_truth, masks),
        "concat, imputed": FeatureFusion("concat", impute=True, l2=1e-3).fit(seen, truth),
        "concat, never saw an outage": FeatureFusion("concat", l2=1e-3).fit(seen, truth),
    }
    return {name: curve(rule, features[TRAIN:], labels[TRAIN:]) for name, rule in rules.items()}
