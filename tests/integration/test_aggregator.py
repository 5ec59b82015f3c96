"""An edge server that aggregates, and edge nodes that report to it: real ports, real files, real processes."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.simulations.recording_file import read_recording
from escalade.tiers.aggregator.observation import Observation, Raw
from escalade.tiers.errors import ForgottenError, InputError, NotFoundError, UpstreamError
from escalade.tiers.testing.processes import TierProcess
from escalade.tiers.wire.aggregator import SERVICE, observation_to_proto
from escalade.tiers.wire.aggregator_client import AggregatorClient

pytestmark = pytest.mark.asyncio

Start = Callable[..., Any]
NODES = ["a", "b", "c"]
POSTERIOR = {k: np.full(4, 0.02, np.float32) + np.eye(4, dtype=np.float32)[k] * np.float32(0.92) for k in range(4)}


def saw(node: str, event: str, label: int, **fields: Any) -> Observation:
    return Observation(node, fields.pop("id", "1"), event, "", time.time(), POSTERIOR[label], **fields)


def block(folder: Path, **more: Any) -> dict[str, Any]:
    return {"nodes": NODES, "file": str(folder / "aggregator.db"), "deadline_ms": 5000, "early_close": False, **more}


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Callable[[str], AggregatorClient]]:
    made: list[AggregatorClient] = []

    def connect(address: str) -> AggregatorClient:
        made.append(AggregatorClient(address))
        return made[-1]

    yield connect
    for one in made:
        await one.close()


async def test_events_are_answered_to_whoever_watches(start: Start, client: Any, tmp_path: Path) -> None:
    """Every RPC: a batch with one bad observation, an answer, a correction, the event, the nodes, a resumed watch."""
    _, address = await start(aggregator=block(tmp_path, quorum=2))
    caller = client(address)
    verdicts = await caller.observe([saw("a", "e", 1), saw("z", "e", 2), saw("b", "e", 0)])
    assert [verdict.status for verdict in verdicts] == ["OK", "NOT_FOUND", "OK"]
    watch = caller.watch()
    first = await anext(watch)
    assert (first.sequence, first.event, first.cause, list(first.reported)) == (1, "e", "quorum", ["a", "b"])
    late = 1 - first.label
    assert [v.reason for v in await caller.observe([saw("c", "e", late), saw("c", "e", late)])] == ["", "duplicate"]
    second = await anext(watch)
    assert (second.sequence, second.revision, second.label, second.cause) == (2, 2, late, "late")
    assert [answer.sequence async for answer in take(caller.watch(after=1), 1)] == [2]
    event = await caller.event("e", label=1)
    assert (event.state, list(event.reported), event.answer.sequence) == ("closed", NODES, 2)
    nodes = {node.name: node for node in await caller.nodes()}
    assert list(nodes) == NODES
    assert (nodes["c"].accepted, dict(nodes["c"].refused)) == (1, {"duplicate": 1})
    with pytest.raises(NotFoundError):
        await caller.event("never")
    with pytest.raises(InputError):
        await caller.event("e", label=9)
    with pytest.raises(ForgottenError):
        await anext(caller.watch(after=77))


async def take(answers: AsyncIterator[pb.Answer], count: int) -> AsyncIterator[pb.Answer]:
    for _ in range(count):
        yield await anext(answers)


async def test_a_stream_takes_batches_and_answers_in_their_order(start: Start, tmp_path: Path) -> None:
    """A message that is none ends the stream with a status, not with what Python said of it."""
    _, address = await start(aggregator=block(tmp_path))
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(f"/{SERVICE}/ObserveStream")
        stream = call()
        for number in range(20):
            batch = [observation_to_proto(saw(node, f"e{number}", 1)) for node in NODES[: 1 + number % 3]]
            await stream.write(pb.ObserveRequest(observations=batch).SerializeToString())
        await stream.done_writing()
        sizes = [len(pb.ObserveResponse.FromString(data).verdicts) async for data in stream]
        assert sizes == [1 + number % 3 for number in range(20)]
        broken = call(iter([b"\xff"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broken.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "the message is not a ObserveRequest"


async def test_health_and_reflection_know_the_aggregator(start: Start, tmp_path: Path) -> None:
    """Beside the data path, on one port; a tier without the block does not have it."""
    _, address = await start(aggregator=block(tmp_path))
    _, other = await start()
    for where, there in ((address, True), (other, False)):
        async with grpc.aio.insecure_channel(where) as channel:
            request: Any = reflection_pb2.ServerReflectionRequest
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = [request(list_services=""), *([request(file_containing_symbol=SERVICE)] if there else [])]
            told = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
            names = [service.name for service in told[0].list_services_response.service]
            assert (SERVICE in names) is there
            if there:
                assert told[1].file_descriptor_response.file_descriptor_proto
                health: Any = health_pb2_grpc.HealthStub(channel)
                state = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
                assert state.status == health_pb2.HealthCheckResponse.SERVING


async def test_nodes_that_disagree_are_overruled_by_the_edge_servers_model(
    start: Start, client: Any, tmp_path: Path
) -> None:
    """Where they sent what they saw; elsewhere the answer says `no_raw`. The policy's decisions are recorded."""
    config = block(
        tmp_path,
        score="agreement",
        policy={"name": "Threshold", "threshold": 0.5},
        record={"folder": str(tmp_path / "recorded")},
    )
    service, address = await start(model="sure", aggregator=config)
    caller = client(address)
    raw = Raw("FP32", (4,), np.array([0, 0, 9, 0], "<f4").tobytes())
    await caller.observe([saw("a", "torn", 0, raw=raw), saw("b", "torn", 1, raw=raw), saw("c", "torn", 3)])
    await caller.observe([saw("a", "blind", 0), saw("b", "blind", 1), saw("c", "blind", 3)])
    await caller.observe([saw(node, "agreed", 3, raw=raw) for node in NODES])
    wrong = await caller.observe([saw("a", "x", 0, raw=Raw("UINT8", (4,), b"1234"))])
    assert [verdict.reason for verdict in wrong] == ["raw"]
    answers = {answer.event: answer async for answer in take(caller.watch(), 3)}
    assert (answers["torn"].tier, answers["torn"].label, answers["torn"].reason) == ("edge_server", 2, "")
    assert (answers["blind"].tier, answers["blind"].reason, answers["blind"].action) == (
        "aggregator",
        "no_raw",
        "escalate",
    )
    assert (answers["agreed"].tier, answers["agreed"].label, answers["agreed"].action) == ("aggregator", 3, "accept")
    await service.close()
    recorded = read_recording(tmp_path / "recorded")
    assert recorded.meta["tier"] == "aggregator"
    rows = sorted(zip(recorded.columns["action"].tolist(), recorded.columns["upper_label"].tolist(), strict=True))
    assert rows == [(0, -1), (1, -1), (1, 2)]


def node_config(name: str, address: str, **more: Any) -> dict[str, Any]:
    return {"address": address, "node": name, "zone": "belt", "timeout_ms": 2000, **more}


async def test_edge_nodes_report_what_they_answer(start: Start, client: Any, tmp_path: Path) -> None:
    """Under the key that the request names, else by time and zone; in process and over the wire alike."""
    _, server = await start(aggregator=block(tmp_path, window_ms=2000), metrics={"address": "127.0.0.1:0"})
    nodes = [await start("edge_node", aggregate=node_config(name, server, send="raw")) for name in NODES]
    x = np.array([[0, 5, 0, 0]], np.float32)
    caller = client(server)
    watch = caller.watch()
    from escalade.tiers.client import Client

    for _, address in nodes:
        async with Client(address) as asker:
            await asker.infer(x, model="m", event="part-7", timeout_s=5)
    answer = await anext(watch)
    assert (answer.event, answer.label, list(answer.used)) == ("part-7", 1, NODES)
    for service, _ in nodes:
        await service.infer(x)
    answer = await anext(watch)
    assert answer.event.startswith("belt@")
    assert list(answer.reported) == NODES


async def test_features_are_an_output_of_the_nodes_model(start: Start, client: Any, tmp_path: Path) -> None:
    """A node that is to send one that its model does not have does not start."""
    from escalade.policies.fusion import FeatureFusion
    from escalade.policies.state_file import save_state
    from escalade.tiers.errors import ConfigError

    labels = np.arange(80) % 4
    x = np.eye(4)[labels][:, None].repeat(3, axis=1) * 5
    save_state(tmp_path / "fit.npz", FeatureFusion("average").fit(x, labels))
    rule = {"name": "FeatureFusion", "how": "average", "state": str(tmp_path / "fit.npz")}
    _, server = await start(aggregator=block(tmp_path, rule=rule))
    features = {"send": "features", "features": "logits"}
    for name in NODES:
        service, _ = await start("edge_node", aggregate=node_config(name, server, **features))
        await service.infer(np.array([[0, 0, 5, 0]], np.float32), event="e")
    assert (await anext(client(server).watch())).label == 2
    with pytest.raises(ConfigError, match="has no output 'embedding'") as caught:
        await start("edge_node", aggregate=node_config("a", server, send="features", features="embedding"))
    assert caught.value.key == "aggregate.features"


async def kill_under_load(server: TierProcess, caller: AggregatorClient) -> list[Observation]:
    """Report from many callers until it is killed (SIGKILL) in the midst of it; return what was acknowledged."""
    acknowledged: list[Observation] = []

    async def report(name: int) -> None:
        for number in range(1000):
            one = saw("c", f"load-{name}-{number}", 1)
            try:
                (verdict,) = await caller.observe([one], timeout_s=10)
            except UpstreamError:
                return
            assert verdict.reason == ""
            acknowledged.append(one)
            if len(acknowledged) == 400:
                server.send_signal(signal.SIGKILL)

    await asyncio.gather(*(report(name) for name in range(32)))
    server.wait()
    return acknowledged


async def test_reports_survive_an_edge_server_that_is_away(
    start: Start, client: Any, models: Path, tmp_path: Path
) -> None:
    """They wait in the node's outbox and arrive in order; what the killed server had acknowledged it still has."""
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "aggregator": block(tmp_path, deadline_ms=60_000, late_ms=60_000),
    }
    with TierProcess(config, tmp_path) as server:
        caller = client(server.address)
        assert [v.reason for v in await caller.observe([saw("b", "e1", 1)], timeout_s=10)] == [""]
        acknowledged = await kill_under_load(server, caller)
        aggregate = node_config("a", server.address, timeout_ms=500, outbox=str(tmp_path / "reports.db"))
        service, _ = await start("edge_node", aggregate=aggregate)
        for event in ("e1", "e2", "e3"):
            await service.infer(np.array([[0, 5, 0, 0]], np.float32), event=event)
        reporter = service._attached._reporting._reporter
        await reporter.flush()
        assert reporter.counts["kept"] == 3
        server.start()
        await asyncio.wait_for(reporter.drained(), 30)
        assert (reporter.counts["sent"], reporter.kept) == (3, 0)
        again = [one._replace(observed_s=time.time()) for one in acknowledged]
        for start_at in range(0, len(again), 100):
            verdicts = await caller.observe(again[start_at : start_at + 100], timeout_s=10)
            assert {verdict.reason for verdict in verdicts} == {"duplicate"}
        event = await caller.event("e1", timeout_s=10)
        assert (event.state, list(event.reported)) == ("open", ["a", "b"])
        await caller.observe([saw("c", "e1", 1)], timeout_s=10)
        assert (await anext(caller.watch())).label == 1


async def test_metrics_tell_nodes_answers_and_refusals(
    start: Start, client: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Of the aggregator beside those of the tier, and of the reporter on a node."""
    metrics = {"address": f"127.0.0.1:{unused_tcp_port}"}
    _, address = await start(aggregator=block(tmp_path), metrics=metrics)
    caller = client(address)
    await caller.observe([saw(node, "e", 1) for node in NODES] + [saw("a", "e", 1), saw("z", "e", 1)])

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics") as response:
            return str(response.read().decode())

    text = await asyncio.to_thread(scrape)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["escalade_aggregator_observations_total", "a", "accepted"] == 1
    assert samples["escalade_aggregator_observations_total", "a", "duplicate"] == 1
    assert samples["escalade_aggregator_observations_total", "", "unknown_node"] == 1
    assert samples["escalade_aggregator_answers_total", "complete"] == 1
    assert samples["escalade_aggregator_node_trusted", "a"] == 1
    assert samples["escalade_aggregator_open_events",] == 0
    assert samples["escalade_aggregator_close_seconds_count",] == 1


async def test_an_aggregator_that_cannot_be_reached_is_an_upstream_error(client: Any, unused_tcp_port: int) -> None:
    """With a reason that the reporter counts."""
    with pytest.raises(UpstreamError) as caught:
        await client(f"127.0.0.1:{unused_tcp_port}").observe([saw("a", "e", 1)], timeout_s=0.5)
    assert caught.value.reason in ("unavailable", "timeout")
