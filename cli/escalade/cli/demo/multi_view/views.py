"""What each of four cameras sees of a digit: a part of it in bad light, and noise of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.cli.demo.data import Split

NAMES = ("cam-left", "cam-right", "cam-top", "cam-bottom")
NOISE = (2.5, 3.5, 3.5, 4.0)
"""Standard deviation of each camera's noise, in grey levels of 16."""
SHADE = 0.25
"""How bright the half that a camera does not face appears."""
CALIBRATION_LOOKS = 8
"""So often is each calibration digit looked at: stacking needs a few hundred events of each class."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What the cameras see of some digits: uint8 `[4, N, 8, 8]`, and the labels, int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def look(split: Split, seed: int, looks: int = 1) -> Views:
    """Let every camera look at every digit, `looks` times, with new noise each time."""
    images, labels = np.tile(split.images, (looks, 1, 1)), np.tile(split.labels, looks)
    rng = np.random.default_rng(seed)
    seen = []
    for camera, noise in enumerate(NOISE):
        light = np.full((8, 8), 1.0)
        half = slice(0, 4) if camera in (1, 3) else slice(4, 8)
        light[(slice(None), half) if camera < 2 else (half, slice(None))] = SHADE
        noisy = images * light + rng.normal(scale=noise, size=images.shape)
        seen.append(np.clip(np.round(noisy), 0, 16).astype(np.uint8))
    return Views(np.stack(seen), labels)


def frozen(views: Views, camera: int, at: int) -> Views:
    """Return the same with one camera's picture frozen from event `at` on."""
    images = views.images.copy()
    images[camera, at:] = images[camera, at - 1]
    return Views(images, views.labels)
