"""Ray Serve with one replica behind its gRPC proxy, all on the loopback.

`benchmarks.peers` sets what keeps Ray itself to the loopback, and Ray Serve's own switch for throughput.
"""
# mypy: disable-error-code="import-not-found, misc, attr-defined"

from __future__ import annotations

import tempfile

import numpy as np
import ray
from grpc.aio._server import Server
from open_inference_pb2 import ModelInferRequest, ModelInferResponse  # generated into this peer's environment
from ray import serve
from ray.serve.config import gRPCOptions

from benchmarks.peer_servers.common import free_port, model_file, open_session, say_ready, wait_for_stop


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Classifier:
    """The model, as a user of Ray Serve writes it."""

    def __init__(self, file: str) -> None:
        self.session = open_session(file)

    async def ModelInfer(self, request: ModelInferRequest) -> ModelInferResponse:  # noqa: N802  # the method's name
        """Answer one request."""
        tensor = request.inputs[0]
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(tensor.shape))
        logits = self.session.run(["logits"], {"input": x})[0]
        response = ModelInferResponse(model_name=request.model_name, id=request.id)
        output = response.outputs.add()
        output.name, output.datatype = "logits", "FP32"
        output.shape.extend(logits.shape)
        response.raw_output_contents.append(logits.tobytes())
        return response


def bind_to_loopback() -> None:
    """Make Ray Serve's gRPC servers, which have no setting for it, listen on the loopback; runs in each worker."""
    original = Server.add_insecure_port

    def add(self: Server, address: str) -> int:
        return original(self, address.replace("[::]", "127.0.0.1"))

    Server.add_insecure_port = add  # type: ignore[method-assign]


def main() -> None:
    """Serve until told to stop."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            runtime_env={"worker_process_setup_hook": bind_to_loopback},
        )
        functions = ["open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"]
        serve.start(
            http_options={"host": "127.0.0.1", "port": free_port()},
            grpc_options=gRPCOptions(port=port, grpc_servicer_functions=functions),
        )
        serve.run(Classifier.bind(str(model_file())))
        say_ready(port)
        wait_for_stop()
        ray.shutdown()


if __name__ == "__main__":
    main()
