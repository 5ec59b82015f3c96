"""What may not leave does not leave, and what leaves is counted: over real ports, files and bytes on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import yaml
from tests.integration.wire_capture import Capture

from escalade.cli.main import main
from escalade.protos.oip.open_inference_pb2 import ModelInferRequest
from escalade.tiers import EdgeNode, EdgeServer
from escalade.tiers.caller import Caller
from escalade.tiers.egress_ledger import read_ledger
from escalade.tiers.errors import ConfigError
from escalade.tiers.service import Service

X = np.array([[1, 0.9, 0, 0]], np.float32)
CRITICAL = Caller(priority="critical")
DEFER = {"name": "tests.integration.policies:DeferBelow", "threshold": 2.0}
ESCALATE = {"name": "AlwaysEscalate"}
ACCEPT = {"name": "AlwaysAccept"}


class World:
    """An edge node below a server, with all that goes up between them kept."""

    def __init__(self, folder: Path, models: Path, stack: AsyncExitStack) -> None:
        self.folder, self.models, self.stack = folder, models, stack
        self.ledger = folder / "egress.json"

    async def server(self) -> EdgeServer:
        server = EdgeServer.from_config(
            {
                "tier": "edge_server",
                "model": {"file": self.models / "sure.onnx", "name": "m"},
                "listen": {"address": "127.0.0.1:0"},
                "inbox": {"file": self.folder / "inbox.db"},
            }
        )
        await self.stack.enter_async_context(server)
        self.capture = await self.stack.enter_async_context(Capture(await server.listen()))
        return server

    async def aggregator(self) -> Capture:
        server = EdgeServer.from_config(
            {
                "tier": "edge_server",
                "model": {"file": self.models / "sure.onnx", "name": "m"},
                "listen": {"address": "127.0.0.1:0"},
                "aggregator": {"nodes": ["a"], "file": str(self.folder / "aggregator.db")},
            }
        )
        await self.stack.enter_async_context(server)
        self.capture = await self.stack.enter_async_context(Capture(await server.listen()))
        return self.capture

    def config(self, egress: list[str], policy: dict[str, Any] = ESCALATE, **keys: Any) -> dict[str, Any]:
        return {
            "tier": "edge_node",
            "device": "node-1",
            "model": {"file": str(self.models / "unsure.onnx"), "name": "m", **keys.pop("model", {})},
            "policy": policy,
            "upstream": {"address": self.capture.address, "timeout_ms": 2000, "egress": egress},
            "egress_ledger": {"file": str(self.ledger)},
            **keys,
        }

    async def node(self, *config: Any, **keys: Any) -> Service:
        return await self.stack.enter_async_context(EdgeNode.from_config(self.config(*config, **keys)))

    def outbox(self, **keys: Any) -> dict[str, Any]:
        return {"outbox": {"file": str(self.folder / "outbox.db"), "wait_ms": 10_000, **keys}}


@pytest_asyncio.fixture
async def world(tmp_path: Path, models: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(tmp_path, models, stack)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # another process's, or a thread's, doing
            await asyncio.sleep(0.02)


@pytest.mark.asyncio
@pytest.mark.parametrize("rows", [1, 3])
async def test_an_input_that_may_not_leave_is_answered_here_with_the_reason(world: World, rows: int) -> None:
    """Whatever the policy says, one row or several; not a byte of it goes up, and it is not kept for later."""
    await world.server()
    node = await world.node(["label", "posterior", "features"], **world.outbox())
    answer = await node.tier.infer(np.repeat(X, rows, axis=0))
    assert (answer.tier, answer.reason, answer.kept) == (["edge_node"] * rows, "egress", "")
    assert answer.degraded.all()
    assert node.tier.metrics.degraded == {"egress": rows}
    assert not any(world.capture.messages())  # but for probes, which are empty
    assert node.egress.lines() == []


@pytest.mark.asyncio
async def test_features_may_leave_where_raw_inputs_may_not(world: World) -> None:
    """A tier whose callers send features says so, and is held to that."""
    await world.server()
    node = await world.node(["features"], model={"input": {"data": "features"}})
    assert (await node.tier.infer(X)).tier == ["edge_server"]
    assert [line.data for line in node.egress.lines()] == ["features"]


@pytest.mark.asyncio
async def test_a_deferred_input_that_may_not_leave_is_not_kept(world: World) -> None:
    """It would wait for nothing; the answer says why."""
    await world.server()
    node = await world.node(["label"], DEFER, **world.outbox())
    answer = await node.tier.infer(X)
    assert (answer.reason, answer.kept) == ("egress", "")
    status = node.status().outbox
    assert status is not None
    assert sum(status.depth.values()) == 0


@pytest.mark.asyncio
async def test_a_fallback_has_its_own_rule(world: World) -> None:
    """An input that may not take the first link takes the second; unsaid, a fallback's rule is the first link's."""
    server = await world.server()
    second = await world.stack.enter_async_context(Capture(world.capture.target))
    for fallback, reason in (
        ({"egress": ["raw"]}, ""),
        ({}, "egress"),
        ({"egress": ["raw"], "only": "critical"}, "egress"),
    ):
        node = await world.node(["label"], fallbacks=[{"address": second.address, **fallback}])
        assert (await node.tier.infer(X)).reason == reason
        await node.close()
    assert (
        await (await world.node(["label"], fallbacks=[{"address": second.address, **fallback}])).tier.infer(
            X, caller=CRITICAL
        )
    ).tier == ["edge_server"]
    assert not any(world.capture.messages())
    assert server.tier.metrics.requests["answered"] == 2


@pytest.mark.asyncio
async def test_what_was_kept_before_the_rule_changed_is_not_sent(world: World) -> None:
    """Deliveries and reports are held to the rule of the moment when they are sent; given up in the end, counted."""
    server = await world.server()
    world.capture.target, whole = "127.0.0.1:1", world.capture.target
    node = await world.node(["label", "raw"], DEFER, **world.outbox())
    assert (await node.tier.infer(X)).kept
    await node.report(b"a picture")
    await node.close()
    world.capture.target = whole
    sent = len(world.capture.messages())
    node = await world.node(["label"], DEFER, **world.outbox(give_up_s=0))

    def given_up() -> dict[str, int]:
        status = node.status().outbox
        assert status is not None
        return status.evictions

    await until(lambda: sum(given_up().values()) == 2)
    assert given_up() == {"egress normal": 1, "egress bulk": 1}
    assert not any(world.capture.messages()[sent:])
    assert sum(server.tier.metrics.requests.values()) == 0


@pytest.mark.asyncio
async def test_a_report_that_may_not_leave_is_refused_at_once(world: World) -> None:
    """What an application reports is raw unless it says otherwise."""
    await world.server()
    node = await world.node(["label", "posterior"], **world.outbox())
    with pytest.raises(ConfigError, match=r"upstream.egress: a report of class 'raw' may not leave"):
        await node.report(b"a picture")
    await node.report(b"[0.1, 0.9]", data="posterior")


@pytest.mark.asyncio
async def test_the_ledger_says_what_was_on_the_wire(world: World) -> None:
    """Escalations, deliveries, results and telemetry, a peer that goes in between: message by message, to the byte."""
    server = await world.server()
    outbox = world.outbox(results=True, telemetry_s=0.05)
    node = await world.node(["label", "posterior", "raw"], **outbox)
    for rows in (1, 1, 5):
        await node.tier.infer(np.repeat(X, rows, axis=0))
    await asyncio.gather(*(node.tier.infer(X) for _ in range(20)))
    await node.tier.infer(X, caller=Caller("cam-7", delivery="item-1"))
    await node.report(b"[0.1, 0.9]", data="posterior", kind="result")
    await server.tier.drain(1)  # from here on it refuses, and what is refused has been sent all the same
    assert (await node.tier.infer(X)).kept
    server.tier.draining = False

    def delivered() -> bool:
        status = node.status().outbox
        assert status is not None
        return status.last_correction == 1 and not status.depth["normal"]

    await until(delivered)
    await node.close()
    lines = node.egress.lines()
    messages = [message for message in world.capture.messages() if message]
    assert sum(line.bytes for line in lines) == sum(map(len, messages))
    assert sum(line.messages for line in lines) == len(messages)
    assert {(line.data, line.destination, line.device) for line in lines} == {
        (data, world.capture.address, device)
        for data, device in (("raw", "node-1"), ("raw", "cam-7"), ("label", "node-1"), ("posterior", "node-1"))
    }
    inputs = [message for message in messages if message.startswith(b"\x0a\x01m")]  # model_name: m
    assert sum(map(len, inputs)) == sum(line.bytes for line in lines if line.data == "raw")
    assert all(ModelInferRequest.FromString(message).raw_input_contents for message in inputs)
    assert sum(map(len, world.capture.sent)) > sum(map(len, messages))  # what HTTP/2 adds is not counted
    assert read_ledger(world.ledger)[1] == lines


@pytest.mark.asyncio
async def test_a_call_that_found_nobody_is_not_counted(world: World) -> None:
    """There was no connection to put it on."""
    await world.server()
    world.capture.address = "127.0.0.1:1"
    node = await world.node(["raw"])
    assert (await node.tier.infer(X)).reason == "unavailable"
    assert node.egress.lines() == []


def test_the_ledger_is_shown_and_goes_on_after_a_restart(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may leave, and bytes by class, destination and device; `config check` says the former too."""
    file = tmp_path / "tier.yaml"

    async def escalate() -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            world = World(tmp_path, models, stack)
            await world.server()
            config = world.config(["label", "raw"])
            node = await stack.enter_async_context(EdgeNode.from_config(config))
            await node.tier.infer(X)
            return config

    for run in (1, 2):
        config = asyncio.run(escalate())
        address = config["upstream"]["address"]
        file.write_text(yaml.safe_dump(config))
        assert main(["egress", "show", str(file), "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == run
    size = lines[0]["bytes"]
    assert lines[0].keys() == {"class", "destination", "device", "messages", "bytes"}
    assert main(["egress", "show", str(file)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"may leave to {address}: label, raw"
    assert shown[1].endswith(f": {2 * size} bytes")
    assert shown[-1].split()[0] == "raw"
    assert shown[-1].split()[2:] == ["node-1", "1", str(size)]
    assert main(["config", "check", "--no-model", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == shown[0]
    file.write_text(yaml.safe_dump({**config, "egress_ledger": None}))
    assert main(["egress", "show", str(file)]) == 2
    assert "there is no ledger; add `egress_ledger: {file: ...}`" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_observations_are_held_to_the_rule_and_counted(world: World) -> None:
    """What an aggregator is told: to the byte, by what it holds; what was kept before a stricter rule is not sent."""
    folder, capture = world.folder, await world.aggregator()
    aggregate = {"address": capture.address, "node": "a", "timeout_ms": 2000, "outbox": str(folder / "reports.db")}
    capture.target, whole = "127.0.0.1:1", capture.target
    node = await world.node(["raw", "posterior"], ACCEPT, aggregate={**aggregate, "send": "raw"})
    await node.infer(X, event="e1")
    await node.close()
    capture.target = whole
    sent = len(capture.messages())
    node = await world.node(["posterior"], ACCEPT, aggregate={**aggregate, "send": "posterior"})
    counts = node._attached._reporting._reporter.counts  # type: ignore[union-attr]
    await node.infer(X, event="e2")
    await until(lambda: counts["sent"] + counts["egress"] == 2)
    await node.close()
    (message,) = [message for message in capture.messages()[sent:] if message]
    assert X.tobytes() not in message
    assert counts == {"sent": 1, "egress": 1}
    line = next(line for line in node.egress.lines() if line.data == "posterior")
    assert line[1:] == (capture.address, "a", 1, len(message))


def test_what_may_not_leave_may_not_be_configured_to_be_reported(tmp_path: Path) -> None:
    """The aggregator's rule is by default the first link's."""
    world = World(tmp_path, tmp_path, AsyncExitStack())
    world.capture = Capture("")
    world.capture.address = "127.0.0.1:1"
    for egress, send, more in (
        (["label"], "posterior", {}),
        (["posterior"], "raw", {}),
        ([], "raw", {"egress": ["raw"]}),
    ):
        aggregate = {"address": "127.0.0.1:1", "node": "a", "send": send, **more}
        with pytest.raises(ConfigError, match=r"which aggregate\.egress .* does not allow; add"):
            EdgeNode.from_config(world.config(egress, aggregate=aggregate))


def test_config_check_says_what_an_aggregator_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what each link may carry."""
    world = World(tmp_path, tmp_path, AsyncExitStack())
    world.capture = Capture("")
    world.capture.address = "127.0.0.1:1"
    file = tmp_path / "tier.yaml"
    aggregate = {"address": "127.0.0.1:2", "node": "a", "send": "raw"}
    file.write_text(yaml.safe_dump(world.config(["posterior", "raw"], aggregate=aggregate)))
    assert main(["config", "check", "--no-model", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "may leave to 127.0.0.1:1: posterior, raw",
        "may leave to 127.0.0.1:2: posterior, raw; reports to the aggregator send posterior and raw",
    ]


@pytest.mark.asyncio
async def test_a_peer_does_not_decide_what_counts(world: World) -> None:
    """What gRPC says of a call that never found a connection, said by the peer that has the message."""
    taken = 0

    class Liar(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            async def unary(data: bytes, context: Any) -> bytes:
                nonlocal taken
                taken += len(data)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: none")
                raise AssertionError

            return grpc.unary_unary_rpc_method_handler(unary)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Liar()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    world.capture = await world.stack.enter_async_context(Capture(f"127.0.0.1:{port}"))
    node = await world.node(["raw"])
    for _ in range(3):
        assert (await node.infer(X)).degraded.all()
    assert taken
    assert sum(line.bytes for line in node.egress.lines()) == taken
    await server.stop(None)


@pytest.mark.asyncio
async def test_what_never_found_a_connection_does_not_count(world: World) -> None:
    """Nobody there, so nothing left."""
    world.capture = Capture("127.0.0.1:1")
    world.capture.address = "127.0.0.1:1"
    node = await world.node(["raw"])
    assert (await node.infer(X)).reason == "unavailable"
    assert node.egress.lines() == []


@pytest.mark.asyncio
async def test_no_proxy_of_the_environment_is_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs go to the address that is written; `http_proxy` would take them off this machine."""
    came = []

    def proxy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    await world.server()
    node = await world.node(["raw"])
    assert (await node.infer(X)).reason == ""
    assert came == []
    listener.close()
