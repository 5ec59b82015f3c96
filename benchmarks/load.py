"""The load generator: the same for every server, so that only the servers differ.

It holds a fixed number of requests in flight (closed loop), sends bytes prepared beforehand and checks
that every call ended with OK. One grpc.aio channel on uvloop costs it about 150 us a call, well below
what any server measured here needs: pinned to a core of its own it is not the bottleneck.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np

from benchmarks.bare import SERVICE
from escalade.protos.oip import open_inference_pb2 as oip

if TYPE_CHECKING:
    from benchmarks.models import Model
    from benchmarks.processes import Server

OK_TAG = 0x12
"""The first byte of a ModelStreamInferResponse that begins with field 2, `infer_response`: no error before it."""
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Sample:
    """What one measurement gave; `server_cpu_us` is the server's processor time a request."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    server_cpu_us: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields, rounded for a file that people read."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


class Load:
    """Loads one server. Use as an async context manager.

    Parameters
    ----------
    output:
        The output that holds the classes: `logits` of a bare model, `posterior` of a tier.
    credentials:
        Of a server that speaks TLS.
    """

    def __init__(
        self,
        server: Server,
        model: Model,
        *,
        output: str,
        input_name: str = "input",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._server, self._model, self._output = server, model, output
        self.request = request_bytes(model, input_name)
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials:
            self._channel = grpc.aio.secure_channel(server.address, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(server.address, options)
        self._unary: Any = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._stream: Any = self._channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")

    async def __aenter__(self) -> Self:
        await self.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call(self) -> bytes:
        """Send the request once."""
        answer: bytes = await self._unary(self.request, timeout=TIMEOUT_S)
        return answer

    async def check(self) -> None:
        """Check one answer against the bare model's; ValueError when it is another."""
        check_answer(oip.ModelInferResponse.FromString(await self.call()), self._model, self._output)

    async def unary(self, concurrency: int, seconds: float) -> Sample:
        """Keep `concurrency` unary calls in flight; one is measured however short the time."""
        call, request = self._unary, self.request
        times: list[float] = []
        clock = time.perf_counter
        stop = clock() + seconds

        async def one_after_the_other() -> None:
            start = clock()
            while not times or start < stop:
                if not await call(request, timeout=TIMEOUT_S):
                    raise ValueError("an empty answer")
                end = clock()
                times.append(end - start)
                start = end

        return await self._measure(times, asyncio.gather(*(one_after_the_other() for _ in range(concurrency))))

    async def stream(self, window: int, seconds: float, streams: int = 1) -> Sample:
        """Keep `window` requests in flight on each stream; answers come in the order of the requests."""
        times: list[float] = []
        work = asyncio.gather(*(self._keep_streaming(window, seconds, times) for _ in range(streams)))
        return await self._measure(times, work)

    async def _keep_streaming(self, window: int, seconds: float, times: list[float]) -> None:
        clock, sent = time.perf_counter, deque[float]()
        stop = clock() + seconds
        stream, request = self._stream(timeout=TIMEOUT_S + seconds), self.request
        for _ in range(window):
            sent.append(clock())
            await stream.write(request)
        while sent:
            answer = await stream.read()
            if answer is grpc.aio.EOF or answer[0] != OK_TAG:
                raise ValueError(f"the stream answered {answer!r}")
            now = clock()
            times.append(now - sent.popleft())
            if now < stop:
                sent.append(now)
                await stream.write(request)
        await stream.done_writing()
        if await stream.read() is not grpc.aio.EOF or await stream.code() != grpc.StatusCode.OK:
            raise ValueError("the stream did not end with OK")

    async def _measure(self, times: list[float], work: Any) -> Sample:
        cpu, start = self._server.cpu_seconds(), time.perf_counter()
        await work
        elapsed, cpu = time.perf_counter() - start, self._server.cpu_seconds() - cpu
        p50, p99 = np.percentile(times, [50, 99]) * 1e3
        return Sample(len(times) / elapsed, float(p50), float(p99), len(times), cpu / len(times) * 1e6)


def request_bytes(model: Model, input_name: str = "input") -> bytes:
    """Return the ModelInferRequest of the model's own row as bytes."""
    request = oip.ModelInferRequest(model_name=model.name)
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = input_name, "FP32"
    tensor.shape.extend(model.x.shape)
    request.raw_input_contents.append(model.x.tobytes())
    return request.SerializeToString()


def check_answer(answer: oip.ModelInferResponse, model: Model, output: str) -> None:
    """Raise ValueError unless the answer holds the posterior of the bare model, or its logits."""
    names = [tensor.name for tensor in answer.outputs]
    if output not in names:
        raise ValueError(f"no output {output!r} in {names}")
    index = names.index(output)
    if answer.raw_output_contents:
        values = np.frombuffer(answer.raw_output_contents[index], np.float32).astype(np.float64)
    else:
        values = np.array(answer.outputs[index].contents.fp32_contents, np.float64)
    posterior = values if output == "posterior" else np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    if not np.allclose(posterior, model.expected()[0], atol=1e-5):
        raise ValueError(f"{output} {values.tolist()} is not the model's own")
