"""The inputs and the three models of a run: functions of its seed, so that anyone can compute what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import softmax
from escalade.tiers.testing.chaos.kinds import TIERS
from escalade.tiers.testing.onnx_models import mlp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES, CLASSES = 16, 4
SCALES = {"endpoint": 0.7, "edge_node": 1.2, "edge_server": 3.0}
"""How sure each tier is: of about a third of the inputs the endpoint, of another third the edge node."""
NOISE = {"endpoint": 0.6, "edge_node": 0.3, "edge_server": 0.0}
"""How far each tier's weights are from the best: labels differ, so that a correction says something."""


class World:
    """Models and inputs of one seed.

    Parameters
    ----------
    folder:
        Where the models are written, `<tier>.onnx`.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        import onnxruntime

        self._seed = seed
        self.files = {tier: folder / f"{tier}.onnx" for tier in TIERS}
        rng = np.random.default_rng(seed)
        best = rng.standard_normal((FEATURES, CLASSES))
        for tier, file in self.files.items():
            weights = SCALES[tier] * (best + NOISE[tier] * rng.standard_normal(best.shape))
            file.write_bytes(mlp([weights], [np.zeros(CLASSES)]))
        self._sessions = {
            tier: onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
            for tier, file in self.files.items()
        }

    def input(self, number: int) -> NDArray[np.float32]:
        """Return input `number`, `[1, FEATURES]`."""
        return np.random.default_rng([self._seed, number]).standard_normal((1, FEATURES)).astype(np.float32)

    def posterior(self, tier: str, number: int) -> NDArray[np.float32]:
        """Return what the tier's model says of input `number`, computed here."""
        (logits,) = self._sessions[tier].run(None, {"input": self.input(number)})
        posterior: NDArray[np.float32] = softmax(logits)[0].astype(np.float32)
        return posterior
