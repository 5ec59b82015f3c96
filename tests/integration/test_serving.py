"""One tier on a real port, spoken to in the protocol's own messages."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.errors import SetupError
from escalade.tiers.service import Service
from escalade.tiers.wire.messages import output_arrays, request_bytes

pytestmark = pytest.mark.asyncio

Start = Callable[..., Any]
X = np.array([[9, 0, 0, 0]], np.float32)
Infer = oip.ModelInferRequest
FP32_1x4 = {"name": "input", "datatype": "FP32", "shape": [1, 4]}


class Peer:
    """A bare client: any message to any method."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)

    async def call(self, method: str, request: Any, timeout_s: float = 5) -> bytes:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        call: Any = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        return await call(data, timeout=timeout_s)  # type: ignore[no-any-return]

    async def infer(self, request: Any) -> oip.ModelInferResponse:
        return oip.ModelInferResponse.FromString(await self.call("ModelInfer", request))

    async def refusal(self, request: Any, method: str = "ModelInfer") -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request)
        return caught.value.code(), caught.value.details() or ""

    def stream(self) -> Any:
        return self.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=20)


@pytest_asyncio.fixture
async def served(start: Start) -> AsyncIterator[tuple[Service, Peer]]:
    service, address = await start(limits={"max_rows": 4, "max_message_bytes": 10_000})
    peer = Peer(address)
    yield service, peer
    await peer.channel.close()


@pytest_asyncio.fixture
async def hanging() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server that holds every ModelInfer until the event is set, then refuses it; its port and the event."""
    event = asyncio.Event()

    async def hold(data: bytes, context: Any) -> bytes:
        await event.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "held")
        raise AssertionError

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"ModelInfer": grpc.unary_unary_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port, event
    event.set()
    await server.stop(None)


@pytest.fixture
def peer(served: tuple[Service, Peer]) -> Peer:
    return served[1]


def good() -> oip.ModelInferRequest:
    return Infer.FromString(request_bytes(X, model="m", input_name="input", id="42"))


async def test_an_answer_has_the_outputs_and_facts_that_the_protocol_of_tiers_names(peer: Peer) -> None:
    """Posterior, label and per-row facts as tensors; tier, score, path and degraded as parameters."""
    response = await peer.infer(good())
    arrays = output_arrays(response)
    kinds = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in response.outputs}
    assert kinds == {
        "posterior": ("FP32", [1, 4]),
        "label": ("INT64", [1]),
        "score": ("FP32", [1]),
        "tier": ("BYTES", [1]),
        "degraded": ("BOOL", [1]),
    }
    assert arrays["label"].tolist() == [0]
    assert arrays["tier"].tolist() == [b"edge_server"]
    assert arrays["posterior"].sum() == pytest.approx(1)
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "42")
    facts = response.parameters
    assert facts["escalade.tier"].string_param == "edge_server"
    assert float(facts["escalade.score"].string_param) == pytest.approx(arrays["score"][0], rel=1e-5)
    assert facts["escalade.degraded"].bool_param is False
    assert facts["escalade.path"].string_param.startswith("edge_server=")


async def test_typed_contents_mean_the_same_as_raw_ones(peer: Peer) -> None:
    """A client that sends floats one by one gets the same posterior."""
    request = good()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(X.ravel().tolist())
    typed, raw = output_arrays(await peer.infer(request)), output_arrays(await peer.infer(good()))
    assert typed["posterior"].tobytes() == raw["posterior"].tobytes()


async def test_a_client_gets_only_the_outputs_that_it_asked_for(peer: Peer) -> None:
    """In the order asked."""
    request = good()
    for name in ("label", "posterior"):
        request.outputs.add().name = name
    assert [tensor.name for tensor in (await peer.infer(request)).outputs] == ["label", "posterior"]


def altered(**changes: Any) -> oip.ModelInferRequest:
    request = good()
    for field, value in changes.items():
        if field == "raw":
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(value)
        elif field == "inputs":
            del request.inputs[:]
            request.inputs.extend(Infer.InferInputTensor(**one) for one in value)
        elif field == "contents":
            getattr(request.inputs[0].contents, value[0]).extend(value[1])
        elif field == "outputs":
            request.outputs.extend(Infer.InferRequestedOutputTensor(name=name) for name in value)
        else:
            setattr(request, field, value)
    return request


def with_deadline(**value: Any) -> oip.ModelInferRequest:
    request = good()
    for field, content in value.items():
        setattr(request.parameters["escalade.deadline_ms"], field, content)
    return request


INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_REQUESTS = {
    "unknown model": (altered(model_name="other"), grpc.StatusCode.NOT_FOUND, "'other'.*serves 'm'"),
    "unknown version": (altered(model_version="7"), grpc.StatusCode.NOT_FOUND, "version '7'.*serves '1'"),
    "no input": (altered(inputs=[], raw=[]), INVALID, "'input'; got none"),
    "misnamed input": (altered(inputs=[{**FP32_1x4, "name": "x"}]), INVALID, "'input'; got 'x'"),
    "two inputs": (altered(inputs=[FP32_1x4, FP32_1x4]), INVALID, "got 'input', 'input'"),
    "wrong dtype": (altered(inputs=[{**FP32_1x4, "datatype": "FP64"}]), INVALID, "is FP32; got FP64"),
    "unknown dtype": (altered(inputs=[{**FP32_1x4, "datatype": "FP128"}]), INVALID, "is FP32; got FP128"),
    "wrong width": (
        altered(inputs=[{**FP32_1x4, "shape": [1, 5]}], raw=[b"\0" * 20]),
        INVALID,
        r"\[-1, 4\].*got float32 of shape \[1, 5\]",
    ),
    "no batch dimension": (altered(inputs=[{**FP32_1x4, "shape": [4]}]), INVALID, r"\[-1, 4\].*got.*\[4\]"),
    "negative size": (altered(inputs=[{**FP32_1x4, "shape": [-1, 4]}]), INVALID, r"negative size.*\[-1, 4\]"),
    "no rows": (altered(inputs=[{**FP32_1x4, "shape": [0, 4]}], raw=[b""]), INVALID, "at least one row"),
    "short bytes": (altered(raw=[b"\0" * 12]), INVALID, "needs 16 raw bytes, got 12"),
    "long bytes": (altered(raw=[b"\0" * 17]), INVALID, "needs 16 raw bytes, got 17"),
    "two raw entries": (altered(raw=[b"\0" * 16] * 2), INVALID, "1 entry of raw_input_contents; got 2"),
    "raw and typed": (altered(contents=("fp32_contents", [1.0] * 4)), INVALID, "both raw and typed"),
    "no contents": (altered(raw=[]), INVALID, "needs 4 values in fp32_contents, got 0"),
    "wrong contents": (altered(raw=[], contents=("int_contents", [1] * 4)), INVALID, "fp32_contents, got 0"),
    "few contents": (altered(raw=[], contents=("fp32_contents", [1.0])), INVALID, "needs 4 values.*got 1"),
    "unknown output": (altered(outputs=["boxes"]), INVALID, "no output 'boxes'; there are posterior, label"),
    "too many rows": (
        altered(inputs=[{**FP32_1x4, "shape": [5, 4]}], raw=[b"\0" * 80]),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "5 rows; this tier takes at most 4",
    ),
    "oversize message": (altered(raw=[b"\0" * 20_000]), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    "garbage": (b"\xff\xff\xff\xff", INVALID, "not a ModelInferRequest"),
    "a deadline in words": (with_deadline(string_param="500"), INVALID, "must be an int64_param"),
    "output twice": (altered(outputs=["score", "score"]), INVALID, "asked for twice"),
    "endless shape": (altered(inputs=[{**FP32_1x4, "shape": [2**62] * 1000}]), INVALID, "1000 dimensions"),
    "endless name": (altered(model_name="m" * 5000), grpc.StatusCode.NOT_FOUND, r"'mmm.*m \.\.\.$"),
    "huge shape": (
        altered(inputs=[{**FP32_1x4, "shape": [2**62, 2**62]}]),
        INVALID,
        "needs .* raw bytes, got 16",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS, ids=lambda case: case.replace(" ", "-"))
async def test_bad_input_gets_a_clear_status_and_nothing_else_breaks(peer: Peer, case: str) -> None:
    """The status names the expected and the received value, and the next good request is answered."""
    request, status, says = BAD_REQUESTS[case]
    code, details = await peer.refusal(request)
    assert code == status
    assert __import__("re").search(says, details), details
    assert len(details) < 600
    assert (await peer.infer(good())).id == "42"


async def test_the_small_calls_say_what_the_tier_is(peer: Peer) -> None:
    """Live, ready, metadata of server and model."""
    assert oip.ServerLiveResponse.FromString(await peer.call("ServerLive", b"")).live
    assert oip.ServerReadyResponse.FromString(await peer.call("ServerReady", b"")).ready
    ready = await peer.call("ModelReady", oip.ModelReadyRequest(name="m"))
    assert oip.ModelReadyResponse.FromString(ready).ready
    server = oip.ServerMetadataResponse.FromString(await peer.call("ServerMetadata", b""))
    assert server.name == "escalade edge_server"
    model = oip.ModelMetadataResponse.FromString(
        await peer.call("ModelMetadata", oip.ModelMetadataRequest(name="m", version="1"))
    )
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [("input", "FP32", [-1, 4])]
    assert {one.name: (one.datatype, list(one.shape)) for one in model.outputs} == {
        "posterior": ("FP32", [-1, 4]),
        "label": ("INT64", [-1]),
        "score": ("FP32", [-1]),
        "tier": ("BYTES", [-1]),
        "degraded": ("BOOL", [-1]),
    }


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
async def test_an_unknown_model_is_not_found_by_the_small_calls_too(peer: Peer, method: str) -> None:
    """NOT_FOUND for another name or version, INVALID_ARGUMENT for garbage."""
    assert (await peer.refusal(oip.ModelReadyRequest(name="x"), method))[0] == grpc.StatusCode.NOT_FOUND
    assert (await peer.refusal(oip.ModelReadyRequest(name="m", version="9"), method))[0] == grpc.StatusCode.NOT_FOUND
    assert (await peer.refusal(b"\xff", method))[0] == INVALID


async def test_health_checking_answers(peer: Peer) -> None:
    """grpc.health.v1 says SERVING for the server and for the inference service."""
    stub = health_pb2_grpc.HealthStub(peer.channel)
    for service in ("", "inference.GRPCInferenceService"):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_describes_the_service(peer: Peer) -> None:
    """A tool that knows nothing can list the services and fetch the descriptor of the data path."""
    stub = reflection_pb2_grpc.ServerReflectionStub(peer.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
    ]
    listed, described = [reply async for reply in stub.ServerReflectionInfo(iter(requests), timeout=5)]
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    pool = DescriptorPool()
    for file in described.file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(file)
    methods = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name
    assert "ModelStreamInfer" in methods


async def test_reflection_can_be_switched_off(start: Start) -> None:
    """`listen.reflection: false` leaves the data path and health."""
    _, address = await start(listen={"address": "127.0.0.1:0", "reflection": False})
    peer = Peer(address)
    stub = reflection_pb2_grpc.ServerReflectionStub(peer.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [
            reply
            async for reply in stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
            )
        ]
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert (await peer.infer(good())).id == "42"
    await peer.channel.close()


async def test_a_stream_answers_many_requests_in_order(peer: Peer) -> None:
    """Requests without ids are answered one for one, in their order; an error ends its request only."""
    stream = peer.stream()
    wanted = list(range(50))
    for index in wanted:
        x = np.zeros((1, 4), np.float32)
        x[0, index % 4] = 9
        bad = index == 20
        await stream.write(request_bytes(x, model="other" if bad else "m", input_name="input"))
    await stream.done_writing()
    replies = [oip.ModelStreamInferResponse.FromString(data) async for data in stream]
    assert len(replies) == 50
    for index, reply in zip(wanted, replies, strict=True):
        if index == 20:
            assert reply.error_message.startswith("NOT_FOUND: ")
        else:
            assert output_arrays(reply.infer_response)["label"].tolist() == [index % 4]


async def test_a_stream_answers_requests_with_ids_as_they_are_ready(
    start: Start, hanging: tuple[int, asyncio.Event]
) -> None:
    """One that waits for the tier above does not hold up the ones behind it, unless order is asked for."""
    port, held = hanging
    _, address = await start("edge_node", upstream=f"127.0.0.1:{port}", limits={"default_deadline_ms": 20_000})
    peer = Peer(address)
    stream = peer.stream()
    unsure = np.array([[0.1, 0, 0, 0]], np.float32)
    await stream.write(request_bytes(unsure, model="m", input_name="input", id="slow"))
    await stream.write(request_bytes(X, model="m", input_name="input", id="fast"))
    first = oip.ModelStreamInferResponse.FromString(await stream.read())
    assert first.infer_response.id == "fast"
    held.set()
    second = oip.ModelStreamInferResponse.FromString(await stream.read())
    assert second.infer_response.id == "slow"
    assert second.infer_response.parameters["escalade.reason"].string_param == "unavailable"
    await stream.done_writing()
    await peer.channel.close()


async def test_a_stream_request_that_is_refused_keeps_its_id(peer: Peer) -> None:
    """Whatever is wrong with it, as long as the message can be read."""
    stream = peer.stream()
    for request in (altered(id="short", raw=[b"123"]), altered(id="name", model_name="other")):
        await stream.write(request.SerializeToString())
        answer = oip.ModelStreamInferResponse.FromString(await stream.read())
        assert answer.error_message
        assert answer.infer_response.id == request.id
    await stream.done_writing()


async def test_a_stream_request_has_its_own_deadline(start: Start, hanging: tuple[int, asyncio.Event]) -> None:
    """`escalade.deadline_ms` bounds one request of a stream: the answer comes in time, degraded."""
    port, _ = hanging
    _, address = await start("edge_node", upstream=f"127.0.0.1:{port}")
    peer = Peer(address)
    stream = peer.stream()
    unsure = np.array([[0.1, 0, 0, 0]], np.float32)
    await stream.write(request_bytes(unsure, model="m", input_name="input", deadline_ms=40))
    reply = oip.ModelStreamInferResponse.FromString(await stream.read())
    assert reply.infer_response.parameters["escalade.reason"].string_param == "timeout"
    await stream.done_writing()
    await peer.channel.close()


async def test_a_caller_that_leaves_a_stream_leaves_nothing_behind(served: tuple[Service, Peer]) -> None:
    """Cancelling a stream frees what it held; the tier goes on."""
    service, peer = served
    stream = peer.stream()
    await stream.write(request_bytes(X, model="m", input_name="input"))
    await stream.read()
    stream.cancel()
    assert (await peer.infer(good())).id == "42"
    assert service.tier.pending == 0


async def test_a_stopping_tier_finishes_what_it_accepted_and_refuses_what_is_new(start: Start) -> None:
    """Draining: the answer on its way arrives, the open stream ends well, new calls get UNAVAILABLE."""
    _, above_address = await start("edge_server", model="sure")
    service, address = await start("edge_node", upstream=above_address)
    peer = Peer(address)
    stream = peer.stream()
    await stream.write(request_bytes(X, model="m", input_name="input"))
    await stream.read()
    unsure = np.array([[0.1, 0, 0, 0]], np.float32)
    calls = [asyncio.create_task(peer.infer(request_bytes(unsure, model="m", input_name="input"))) for _ in range(8)]
    while service.tier.metrics.actions["escalate"] == 0:  # noqa: ASYNC110  # turns of the loop, not a wait
        await asyncio.sleep(0)  # a turn of the loop, not a wait
    await service.close()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() == grpc.StatusCode.OK
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, oip.ModelInferResponse):
            assert output_arrays(outcome)["tier"].tolist() == [b"edge_server"]
        else:
            assert isinstance(outcome, grpc.aio.AioRpcError)
            # CANCELLED: it reached the port in the moment of its closing.
            assert outcome.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert service.tier.metrics.requests["answered"] >= 2
    await peer.channel.close()


async def test_a_port_that_is_taken_is_one_clear_error(start: Start) -> None:
    """Two tiers cannot share a port by accident."""
    _, address = await start()
    with pytest.raises(SetupError, match=f"cannot listen on {address}"):
        await start(listen={"address": address})


async def test_metrics_can_be_scraped_and_follow_prometheus_rules(start: Start) -> None:
    """Every family has help, counters end in _total, times are in seconds; the counts are what happened."""
    service, address = await start(metrics={"address": "127.0.0.1:0"})
    peer = Peer(address)
    for _ in range(3):
        await peer.infer(good())
    await peer.refusal(altered(raw=[]))
    port = service._metrics_server.server_port
    url = f"http://127.0.0.1:{port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {
        "escalade_requests",
        "escalade_actions",
        "escalade_score",
        "escalade_latency_seconds",
        "escalade_queue_depth",
        "escalade_batch_rows",
        "escalade_upstream_sent_bytes",
    } <= families.keys()
    for family in families.values():
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith("escalade_")
        assert not family.name.endswith(("_ms", "_us", "_count", "_sum", "_bucket"))
        for sample in family.samples:
            assert {"tier", "model"} <= sample.labels.keys()
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
    outcomes = {sample.labels["outcome"]: sample.value for sample in families["escalade_requests"].samples}
    assert (outcomes["answered"], outcomes["invalid"]) == (3, 1)
    buckets = [s.value for s in families["escalade_score"].samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
    await peer.channel.close()
