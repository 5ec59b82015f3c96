"""One small model for each camera, and the fusion rule fitted to what they say together."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo.multi_view.views import NAMES
from escalade.policies import softmax
from escalade.policies.fusion import default_rule
from escalade.policies.state_file import save_state
from escalade.tiers.testing.onnx_models import mlp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.multi_view.views import Views

SCALE = 0.0625
HIDDEN = 24


def train(views: Views, folder: Path, seed: int, check: Callable[[], None]) -> list[Path]:
    """Fit a perceptron for each camera and write it as ONNX: raw pixels times 1/16 to ten logits."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for camera, name in enumerate(NAMES):
        model = MLPClassifier((HIDDEN,), alpha=1e-2, max_iter=40, random_state=seed + camera)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is chosen, not reached
            model.fit(_features(views.images[camera]), views.labels)
        files.append(folder / f"{name}.onnx")
        files[-1].write_bytes(mlp(model.coefs_, model.intercepts_))
        check()
    return files


def posteriors(files: list[Path], views: Views) -> NDArray[np.float32]:
    """Return what every camera's model says of what it sees: `[N, 4, 10]`."""
    import onnxruntime

    told = []
    for camera, file in enumerate(files):
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"input": _features(views.images[camera])})
        told.append(softmax(logits))
    return np.ascontiguousarray(np.stack(told, axis=1))


def fit_rule(files: list[Path], calibration: Views, file: Path) -> None:
    """Fit the default rule to labelled events of healthy cameras, and write it for the aggregator."""
    save_state(file, default_rule().fit(posteriors(files, calibration), calibration.labels))


def _features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) * np.float32(SCALE)
