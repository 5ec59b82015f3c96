"""Write the trained models as ONNX files and check that each file computes what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo.train import TIERS, features
from escalade.tiers.errors import SetupError
from escalade.tiers.testing.onnx_models import mlp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.data import Split
    from escalade.cli.demo.train import Model

TOLERANCE = 1e-4
"""Largest difference of a probability: the file computes in float32, scikit-learn in float64."""


def export(models: dict[str, Model], folder: Path, check: Split) -> dict[str, Path]:
    """Write `<tier>.onnx` for each model into `folder`.

    Parameters
    ----------
    models:
        `Model` by tier.
    folder:
        Where the files go; made if missing.
    check:
        Images on which the file must give scikit-learn's probabilities.

    Raises
    ------
    SetupError
        A file's probabilities differ from the trained model's by more than `TOLERANCE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {tier: folder / f"{tier}.onnx" for tier in TIERS}
    for tier, file in files.items():
        model = models[tier]
        file.write_bytes(mlp(model.weights, model.biases))
        expected = model.classifier.predict_proba(features(tier, check.images))
        raw = logits(tier, file, check.images).astype(np.float64)
        exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
        difference = np.abs(exponentials / exponentials.sum(axis=1, keepdims=True) - expected).max()
        if not difference <= TOLERANCE:
            raise SetupError(
                f"{file}: its probabilities differ from the trained model's by up to {difference:.2g}; "
                "remove the file and run again, or report the versions of onnx and onnxruntime"
            )
    return files


def logits(tier: str, file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a tier's file over images uint8 `[N, 8, 8]`, as the tier will: logits float32 `[N, 10]`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.read_bytes(), sess_options=options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["logits"], {"input": features(tier, images)})
    return outputs[0]
