"""The digits: 1,797 scanned 8x8 images that come with scikit-learn, split once, by a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, CALIBRATION, TEST = 797, 400, 600


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images uint8 `[N, 8, 8]` (grey levels 0 to 16) and their labels int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Three disjoint parts: models see `train`, thresholds see `calibration`, nothing sees `test`."""

    train: Split
    calibration: Split
    test: Split


def load(seed: int = 0) -> Digits:
    """Load the digits and split them 797 / 400 / 600, each part with the same mix of classes.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8).astype(np.uint8)
    train, rest = train_test_split(np.arange(len(labels)), train_size=TRAIN, stratify=labels, random_state=seed)
    calibration, test = train_test_split(
        rest, train_size=CALIBRATION, test_size=TEST, stratify=labels[rest], random_state=seed
    )

    def part(rows: NDArray[np.int64]) -> Split:
        return Split(images[rows], labels[rows].astype(np.int64))

    return Digits(part(train), part(calibration), part(test))
