"""The models of the benchmarks: random weights, fixed seeds, sizes chosen for their run time.

One image, float32 `[1, 28, 28]`, feeds them all, so that the same request can climb a chain. Times are
of one row on one thread of the machine in `results/serving.md`.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from escalade.tiers.testing.onnx_models import cnn, mlp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = 10
SIDE = 28
LAYERS = (SIDE * SIDE, 32, CLASSES)


@dataclass(frozen=True)
class Model:
    """An ONNX file and one input row for it, `x` with its batch of one."""

    name: str
    file: Path
    x: NDArray[np.float32]

    def expected(self) -> NDArray[np.float32]:
        """Return the posterior `[1, classes]` that every server must answer to `x`."""
        logits = open_session(self.file).run(["logits"], {"input": self.x})[0].astype(np.float64)
        weights = np.exp(logits - logits.max())
        posterior: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return posterior

    def run_us(self, runs: int = 200) -> float:
        """Return the median time of a bare run, microseconds."""
        session, feed, times = open_session(self.file), {"input": self.x}, []
        for _ in range(runs):
            start = time.perf_counter()
            session.run(["logits"], feed)
            times.append(time.perf_counter() - start)
        return median(times) * 1e6


@dataclass(frozen=True)
class Models:
    """The three sizes, and the tiny one again as the first tier of a chain takes it: from the image."""

    tiny: Model
    small: Model
    large: Model

    @classmethod
    def build(cls, folder: Path) -> Models:
        """Write the files into `folder`: about 5 us, 25 us and 1 ms a row."""
        rng = np.random.default_rng(0)
        weights = [rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in itertools.pairwise(LAYERS)]
        biases = [np.zeros(width) for width in LAYERS[1:]]
        graphs = {"tiny": mlp(weights, biases), "small": cnn(48, SIDE, CLASSES), "large": cnn(336, SIDE, CLASSES)}
        for name, graph in graphs.items():
            (folder / f"{name}.onnx").write_bytes(graph)
        image = rng.standard_normal((1, 1, SIDE, SIDE)).astype(np.float32)
        return cls(
            tiny=Model("tiny", folder / "tiny.onnx", image.reshape(1, -1)),
            small=Model("small", folder / "small.onnx", image),
            large=Model("large", folder / "large.onnx", image),
        )


def open_session(file: Path) -> Any:
    """Return a bare session with the options that a tier uses: one thread, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
