"""B4: three tiers, everything escalated twice, against two bare hops and the three bare models."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np

from benchmarks.bare import SERVICE, TIMEOUT_S
from benchmarks.load import Load, check_answer, request_bytes
from benchmarks.models import open_session
from benchmarks.processes import bare_server, echo_server, escalade_server, pinned, split_cores
from benchmarks.report import Row
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.models import Models
    from benchmarks.repeats import Settings

TARGET = 1.35


async def measure(models: Models, folder: Path, settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """Time `Endpoint.infer` here, the edge node and the edge server being processes of their own."""
    node_cores, own_cores = split_cores()
    policy = {"name": "AlwaysEscalate"}
    async with AsyncExitStack() as stack:
        # Neighbours on the way never share a core, nor do they with the echo.
        top = escalade_server({"tier": "edge_server", "model": {"file": str(models.large.file)}}, folder, own_cores)
        server = stack.enter_context(top)
        node_config = {
            "tier": "edge_node",
            "model": {"file": str(models.small.file)},
            "policy": policy,
            "upstream": {"address": server.address, "model": "large"},
        }
        node = stack.enter_context(escalade_server(node_config, folder, node_cores))
        echo = stack.enter_context(echo_server(node_cores))
        stack.enter_context(pinned(own_cores))
        load = await stack.enter_async_context(EchoLoad(echo, models.small, output=""))
        config = {
            "tier": "endpoint",
            "model": {
                "file": str(models.tiny.file),
                "input": {"shape": list(models.small.x.shape[1:]), "steps": [{"flatten": True}]},
            },
            "policy": policy,
            "upstream": {"address": node.address, "model": "small"},
        }
        endpoint = await stack.enter_async_context(Endpoint.from_config(config))
        bare_top = stack.enter_context(bare_server(models.large.file, own_cores))
        bare_node = stack.enter_context(bare_server(models.small.file, node_cores, (bare_top.address, "large")))
        bare_endpoint = await stack.enter_async_context(BareEndpoint(models, bare_node.address))
        ours_ms, bare_ms, hop_ms, models_ms = [], [], [], []
        for _ in range(settings.repeats + 1):
            ours_ms.append(await _chain_p50_ms(endpoint, models, settings.seconds))
            bare_ms.append(await bare_endpoint.p50_ms(settings.seconds))
            hop_ms.append((await load.unary(1, settings.seconds / 2)).p50_ms)
            models_ms.append(sum(model.run_us() for model in (models.tiny, models.small, models.large)) / 1e3)
    # The first repeat was the warm-up.
    ours_ms, bare_ms, hop_ms, models_ms = ours_ms[1:], bare_ms[1:], hop_ms[1:], models_ms[1:]
    floors = [2 * hop + models for hop, models in zip(hop_ms, models_ms, strict=True)]
    value = median(ours / floor for ours, floor in zip(ours_ms, floors, strict=True))
    detail = f"ours {median(ours_ms):.2f} ms; 2 x echo hop {median(hop_ms):.2f} ms + models {median(models_ms):.2f} ms"
    by_hand = median(ours / bare for ours, bare in zip(ours_ms, bare_ms, strict=True))
    rows = [
        Row("B4", "chain of three, p50 / (2 hops + models)", value, "x", TARGET, detail=detail),
        Row("B4", "chain of three / the same by hand", by_hand, "x", detail=f"by hand {median(bare_ms):.2f} ms"),
    ]
    return rows, {"B4": {"ours_ms": ours_ms, "bare_ms": bare_ms, "hop_ms": hop_ms, "models_ms": models_ms}}


class BareEndpoint:
    """The lowest tier by hand: runs the tiny model and asks the bare node. Use as an async context manager."""

    def __init__(self, models: Models, address: str) -> None:
        self._models, self._address = models, address
        self._session, self._request = open_session(models.tiny.file), request_bytes(models.small)

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)])
        self._ask: Any = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer = oip.ModelInferResponse.FromString(await self._ask(self._request, timeout=TIMEOUT_S))
        check_answer(answer, self._models.large, "logits")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def p50_ms(self, seconds: float) -> float:
        """Ask one after the other."""
        x, clock = self._models.small.x, time.perf_counter
        times: list[float] = []
        stop = clock() + seconds
        while (start := clock()) < stop or not times:
            self._session.run(["logits"], {"input": x.reshape(1, -1)})
            answer = oip.ModelInferResponse.FromString(await self._ask(self._request, timeout=TIMEOUT_S))
            np.frombuffer(answer.raw_output_contents[0], np.float32).argmax()
            times.append(clock() - start)
        return median(times) * 1e3


class EchoLoad(Load):
    """Loads the echo, whose answer is the request."""

    async def check(self) -> None:
        """Compare the two."""
        if await self.call() != self.request:
            raise ValueError("the echo did not answer with the request")


async def _chain_p50_ms(endpoint: Endpoint, models: Models, seconds: float) -> float:
    """Ask one after the other; every answer must be the edge server's, in full."""
    x, clock = models.small.x, time.perf_counter
    times: list[float] = []
    stop = clock() + seconds
    start = clock()
    while start < stop or not times:
        answer = await endpoint.infer(x)
        end = clock()
        if answer.tier != ["edge_server"] or answer.reason or answer.posterior is None:
            raise ValueError(f"not answered by the edge server: {answer}")
        times.append(end - start)
        start = clock()
    if answer.posterior is None or not np.allclose(answer.posterior, models.large.expected(), atol=1e-5):
        raise ValueError(f"{answer.posterior} is not the edge server's model's own posterior")
    return median(times) * 1e3
