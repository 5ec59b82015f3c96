"""What escalade is measured against: the servicer one would write by hand, and an echo.

`python -m benchmarks.bare --model FILE` serves ModelInfer over grpc.aio and uvloop and calls the session
inline: no score, no policy, no metrics, no limits, no checks. With `--above ADDRESS --above-model NAME` it
then asks there and passes that answer on. `--echo` sends every request back unread.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

from benchmarks.models import open_session
from escalade.protos.oip import open_inference_pb2 as oip

TIMEOUT_S = 10.0
SERVICE = "inference.GRPCInferenceService"


def bare_handler(file: Path, ask_above: Any = None, above_model: str = "") -> Any:
    """Return the handler that runs the model in `file`, and then may ask above."""
    session = open_session(file)

    async def infer(request: oip.ModelInferRequest, _: Any) -> oip.ModelInferResponse:
        tensor = request.inputs[0]
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(tensor.shape))
        logits = session.run(["logits"], {"input": x})[0]
        if ask_above is not None:
            request.model_name = above_model
            answer: oip.ModelInferResponse = await ask_above(request, timeout=TIMEOUT_S)
            return answer
        response = oip.ModelInferResponse(model_name=request.model_name, id=request.id)
        output = response.outputs.add()
        output.name, output.datatype = "logits", "FP32"
        output.shape.extend(logits.shape)
        response.raw_output_contents.append(logits.tobytes())
        return response

    return grpc.unary_unary_rpc_method_handler(
        infer, oip.ModelInferRequest.FromString, oip.ModelInferResponse.SerializeToString
    )


def call_above(address: str) -> Any:
    """Return the call of another server's ModelInfer."""
    channel = grpc.aio.insecure_channel(address)
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer", oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
    )


def echo_handler() -> Any:
    """Return the handler that answers with the request's own bytes."""

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    return grpc.unary_unary_rpc_method_handler(echo)


async def serve(handler: Any) -> None:
    """Serve on any free port, say which, and never stop."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser()
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path)
    what.add_argument("--echo", action="store_true")
    parser.add_argument("--above", help="host:port of the server to ask after the model has run")
    parser.add_argument("--above-model", default="")
    options = parser.parse_args()

    async def run() -> None:
        above = call_above(options.above) if options.above else None
        await serve(echo_handler() if options.echo else bare_handler(options.model, above, options.above_model))

    uvloop.run(run())


if __name__ == "__main__":
    main()
