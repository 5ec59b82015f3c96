"""MLServer with a runtime of one session, in its fastest arrangement for a model this small.

That is: in process, no access log, no adaptive batching, which was slower at each concurrency. Its default, a
worker process, costs another hop, and does not start with uvloop 0.23.
"""
# mypy: disable-error-code="import-not-found, misc, no-any-return"

from __future__ import annotations

import asyncio
import tempfile

import grpc
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.grpc.dataplane_pb2 import ModelReadyRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peer_servers.common import MODEL, free_port, model_file, open_session, say_ready


class Classifier(MLModel):
    """The model, as a user of MLServer writes it."""

    async def load(self) -> bool:
        self.session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        logits = self.session.run(["logits"], {"input": x})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])


async def serve(file: str, folder: str) -> None:
    """Serve until told to stop. No access log; metrics as by default."""
    port = free_port()
    settings = Settings(
        host="127.0.0.1",
        grpc_port=port,
        http_port=free_port(),
        metrics_port=free_port(),
        metrics_dir=folder,
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(name=MODEL, implementation=Classifier, parameters={"uri": file})
    serving = asyncio.create_task(MLServer(settings).start([model]))
    if await ready(f"127.0.0.1:{port}", serving):
        say_ready(port)
    await serving


async def ready(address: str, serving: asyncio.Task[None]) -> bool:
    """Return whether the model is ready, once it is or the server has ended."""
    async with grpc.aio.insecure_channel(address) as channel:
        while not serving.done():
            try:
                reply = await GRPCInferenceServiceStub(channel).ModelReady(ModelReadyRequest(name=MODEL), timeout=1)
                if reply.ready:
                    return True
            except grpc.aio.AioRpcError:  # not listening yet, or the model not known yet
                pass
            await asyncio.sleep(0.1)
    return False


if __name__ == "__main__":
    install_uvloop_event_loop()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(str(model_file()), folder))
