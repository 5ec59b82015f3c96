from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Views = tuple[NDArray[np.float32], NDArray[np.int64]]
MakeViews = Callable[..., Views]


@pytest.fixture(scope="session")
def views() -> MakeViews:
    """Make posteriors ``[E, N, C]`` of nodes that see the true class with given strengths, and the labels."""

    def make(events: int, seed: int, *, strengths: tuple[float, ...] = (4.0, 3.5, 3.0, 2.2), classes: int = 6) -> Views:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, events)
        signal = np.array(strengths)[:, None] * np.eye(classes)[labels][:, None]
        shared = rng.normal(scale=0.7, size=(events, 1, classes))  # views of one object err together
        logits = signal + shared + rng.normal(size=(events, len(strengths), classes))
        p = np.exp(logits - logits.max(axis=2, keepdims=True))
        return (p / p.sum(axis=2, keepdims=True)).astype(np.float32), labels

    return make
