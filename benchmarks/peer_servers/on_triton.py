"""Triton's CPU server, as the package nvidia-pytriton brings it, with a model of its Python backend.

The package has no backend for ONNX, so `triton_model.py` runs the session. Batches are made by Triton.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pytriton.triton import Triton, TritonConfig

from benchmarks.peer_servers.common import MODEL, free_port, model_file, say_ready, wait_for_stop

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 64
input [{{ name: "input", data_type: TYPE_FP32, dims: [1, 28, 28] }}]
output [{{ name: "logits", data_type: TYPE_FP32, dims: [10] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
dynamic_batching {{ }}
parameters {{ key: "file", value: {{ string_value: "{file}" }} }}
"""


def write_repository(folder: Path, file: Path) -> None:
    """Write a model repository with the one model in `folder`."""
    (folder / MODEL / "1").mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text(CONFIG.format(name=MODEL, file=file))
    shutil.copy(Path(__file__).with_name("triton_model.py"), folder / MODEL / "1" / "model.py")


def main() -> None:
    """Serve until told to stop."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        write_repository(Path(name), model_file())
        config = TritonConfig(
            model_repository=Path(name),
            grpc_address="127.0.0.1",
            grpc_port=port,
            http_address="127.0.0.1",
            http_port=free_port(),
            metrics_address="127.0.0.1",
            metrics_port=free_port(),
        )
        with Triton(config=config) as triton:
            triton.run()
            say_ready(port)
            wait_for_stop()


if __name__ == "__main__":
    main()
