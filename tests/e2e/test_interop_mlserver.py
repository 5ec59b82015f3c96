"""An edge node whose tier above is a server that knows nothing of escalade: MLServer, in its own environment.

`make interop` builds the environment and runs this file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers import Answer, EdgeNode
from escalade.tiers.testing.onnx_models import scaled_identity

Ask = Callable[..., Any]
PYTHON = Path(
    os.environ.get("ESCALADE_MLSERVER_PYTHON") or Path(__file__).parents[2] / ".venvs" / "mlserver" / "bin" / "python"
)
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(
        not PYTHON.with_name("mlserver").exists(), reason=f"needs MLServer in {PYTHON.parents[1]}: run `make interop`"
    ),
]

START_SECONDS = 60.0
UNSURE = np.array([[0.5, 0, 0, 0], [0, 0, 0, 0.5], [0, 0.5, 0, 0]], np.float32)
SURE = np.array([[0, 0, 9, 0]], np.float32)
ABOVE = np.exp(UNSURE * 10) / np.exp(UNSURE * 10).sum(axis=1, keepdims=True)

# What a user of MLServer writes: a class, no ONNX, no escalade.
RUNTIME = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Classifier(MLModel):
    async def predict(self, payload):
        logits = (NumpyCodec.decode_input(payload.inputs[0]) * 10).astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        outputs = {
            "logits": logits,
            "probabilities": powers / powers.sum(axis=1, keepdims=True),
            "score": logits.astype(np.float64),  # what it calls so is no fact of escalade's
            "weights": np.zeros((1, 7)),  # not one row for each input
        }
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
        )


class Faulty(MLModel):
    async def predict(self, payload):
        raise ValueError("a bug in the model")
"""


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_ready(address: str, process: subprocess.Popen[bytes], models: list[str]) -> bool:
    """Return whether MLServer has loaded its models within `START_SECONDS`; it says so by ModelReady."""
    stop = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        while models and process.poll() is None and time.monotonic() < stop:
            try:
                request = oip.ModelReadyRequest(name=models[0]).SerializeToString()
                reply = oip.ModelReadyResponse.FromString(call(request, timeout=1, wait_for_ready=True))
            except grpc.RpcError:
                continue
            if reply.ready:
                models = models[1:]
    return not models


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLServer with the models `classifier` and `faulty`, on the loopback only; its address."""
    folder = tmp_path_factory.mktemp("mlserver")
    (folder / "runtime.py").write_text(RUNTIME)
    models = {"classifier": "runtime.Classifier", "faulty": "runtime.Faulty"}
    for name, implementation in models.items():
        (folder / name).mkdir()
        settings: dict[str, Any] = {"name": name, "implementation": implementation}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "metrics_dir": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [PYTHON.with_name("mlserver"), "start", folder],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )
    try:
        if not wait_until_ready(f"127.0.0.1:{port}", process, list(models)):
            pytest.fail(f"MLServer did not start:\n{(folder / 'log.txt').read_text()[-2000:]}")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def ask(mlserver: str, tmp_path: Path) -> Ask:
    """Ask an edge node whose upstream is MLServer's model as told; its own logits are the inputs."""
    (tmp_path / "own.onnx").write_bytes(scaled_identity(4))

    async def ask(x: NDArray[np.float32], **upstream: Any) -> Answer:
        config = {
            "tier": "edge_node",
            "model": {"file": str(tmp_path / "own.onnx"), "name": "classifier"},
            "policy": {"name": "Threshold", "threshold": 0.9},
            "upstream": {"address": mlserver, "timeout_ms": 10_000, **upstream},
            "limits": {"default_deadline_ms": 10_000},
        }
        async with EdgeNode.from_config(config) as node:
            return await node.infer(x)

    return ask


@pytest.mark.parametrize(("output", "kind"), [("probabilities", "posterior"), ("logits", "logits")])
async def test_uncertain_rows_are_answered_by_mlserver(ask: Ask, output: str, kind: str) -> None:
    """Its posterior, or its logits as one, with the label and the score that follow; other outputs are left."""
    answer = await ask(UNSURE, output=output, output_kind=kind)
    assert answer.posterior is not None
    assert answer.label is not None
    np.testing.assert_allclose(answer.posterior, ABOVE, atol=1e-6)
    assert answer.label.tolist() == [0, 3, 1]
    np.testing.assert_allclose(answer.score, ABOVE.max(axis=1), atol=1e-6)
    assert (answer.reason, answer.degraded.any()) == ("", False)
    assert answer.tier == ["edge_server"] * 3
    assert [hop.tier for hop in answer.path] == ["edge_node", "edge_server"]
    assert answer.path[0].elapsed_ms > answer.path[1].elapsed_ms > 0


async def test_mlserver_is_called_by_the_name_that_it_was_given(ask: Ask) -> None:
    """`upstream.tier`, since it says none itself."""
    answer = await ask(UNSURE, output="probabilities", tier="mlserver")
    assert answer.tier == ["mlserver"] * 3


async def test_rows_that_the_edge_node_is_sure_of_stay_there(ask: Ask) -> None:
    """One request, two tiers, one of them not ours."""
    answer = await ask(np.concatenate([SURE, UNSURE]), output="logits", output_kind="logits")
    assert answer.tier == ["edge_node", *["edge_server"] * 3]
    assert answer.label is not None
    assert answer.label.tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        ({"model": "nothing"}, "rejected"),
        ({"model": "faulty"}, "rejected"),
        ({"output": "classes"}, "bad_answer"),
        ({"output": "logits", "output_kind": "posterior"}, "bad_answer"),
        ({"output": "weights"}, "bad_answer"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value,
)
async def test_what_mlserver_refuses_or_gets_wrong_is_answered_here(
    ask: Ask, upstream: dict[str, str], reason: str
) -> None:
    """An unknown model, a model that fails, an output that is not there or no posterior: degraded, with why."""
    answer = await ask(UNSURE, **upstream)
    assert answer.reason == reason
    assert answer.degraded.all()
    assert answer.tier == ["edge_node"] * 3
    assert answer.label is not None
    assert answer.label.tolist() == [0, 3, 1]
