"""The command as an operator meets it: real processes, real files, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
import pytest_asyncio
import yaml

from escalade.tiers import Client, EdgeNode
from escalade.tiers.config_file import load_config
from escalade.tiers.errors import ConfigError, EscaladeError
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.testing.processes import TierProcess

GOOD = """\
tier: edge_node
model:
  file: unsure.onnx
  name: m
  providers: [cpu]
policy: {name: Threshold, threshold: 0.9}
upstream:
  address: 127.0.0.1:9
listen:
  address: 127.0.0.1:0
"""
LACKING = next(name for name in ort.get_all_providers() if name not in ort.get_available_providers())
UNSURE = np.array([[0.1, 0, 0, 0]], np.float32)

Write = Callable[..., Path]


def escalade(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "escalade.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def write(tmp_path: Path, models: Path) -> Write:
    """Write `tier.yaml`, the good one with some text replaced, beside its model."""
    (tmp_path / "unsure.onnx").write_bytes((models / "unsure.onnx").read_bytes())
    (tmp_path / "text.onnx").write_text("not a model")

    def write(*changes: tuple[str, str]) -> Path:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tier.yaml"
        path.write_text(text)
        return path

    return write


def complaint(outcome: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a refused command says."""
    assert outcome.returncode == 2, outcome
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, outcome.stderr
    assert outcome.stdout == ""
    return lines[0]


MISTAKES = {
    "a misspelt key": (("threshold: 0.9", "treshold: 0.9"), 6, "policy.treshold", "threshold"),
    "an unknown key": (("listen:", "lisen:"), 9, "lisen", "did you mean 'listen'"),
    "a model that is not ONNX": (("unsure.onnx", "text.onnx"), 3, "model.file", "not an ONNX model"),
    "a model that is not there": (("unsure.onnx", "none.onnx"), 3, "model.file", "No such file.*give the path"),
    "an unknown provider": (("[cpu]", "[cudda]"), 5, "model.providers.0", "did you mean cuda"),
    "a provider that is missing": (
        ("[cpu]", f"[{{name: {LACKING}, required: true}}]"),
        5,
        "model.providers",
        "required.*install",
    ),
    "a policy that is not there": (
        ("name: Threshold, threshold: 0.9", "name: 'mine:P'"),
        6,
        "policy.name",
        "mine",
    ),
    "a negative size": (("name: m", "name: m\n  input: {shape: [-5, 4]}"), 5, "model.input.shape.0", "greater than"),
    "a size beyond memory": (
        ("name: m", "name: m\n  input: {shape: [8000000, 8000000]}"),
        5,
        "model.input.shape",
        "too large",
    ),
    "a URL for an address": (("127.0.0.1:9", "http://above:9"), 8, "upstream.address", "not host:port"),
    "a port that is no number": (("127.0.0.1:0", "127.0.0.1:grpc"), 10, "listen.address", "not host:port"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_in_one_line(write: Write, mistake: str) -> None:
    """Exit code 2; the line names file, line, key and remedy; no traceback, nothing on standard output."""
    change, line, key, says = MISTAKES[mistake]
    file = write(change)
    said = complaint(escalade("serve", "edge-node", "--config", file))
    assert said.startswith(f"escalade: {file}:{line}: {key}: ")
    assert re.search(says, said), said


def test_the_check_finds_what_serving_would_find(write: Write) -> None:
    """`config check` loads the model too, and refuses with the very line that `serve` would print."""
    file = write(("unsure.onnx", "text.onnx"))
    said = complaint(escalade("config", "check", file))
    assert said.startswith(f"escalade: {file}:3: model.file: ")
    assert said == complaint(escalade("serve", "edge-node", "--config", file))


def test_a_policy_that_raises_on_import_is_refused_in_one_line(write: Write) -> None:
    """The user's own bug is named with its module, without its traceback."""
    file = write(("name: Threshold, threshold: 0.9", "name: 'broken_policy:P'"))
    for text in ("def f(:\n", "import sys\nsys.exit(0)\n"):
        (file.parent / "broken_policy.py").write_text(text)
        said = complaint(escalade("config", "check", file))
        assert said.startswith(f"escalade: {file}:6: policy.name: ")
        assert "broken_policy" in said


def test_a_port_that_is_taken_is_refused_in_one_line(write: Write) -> None:
    """The line points at `listen.address`, and at `metrics.address` when it is that one."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        file = write(("127.0.0.1:0", taken))
        said = complaint(escalade("serve", "edge-node", "--config", file))
        assert said.startswith(f"escalade: {file}:10: listen.address: cannot listen on {taken}: ")
        assert "set it to a free one" in said
        file = write(("upstream:", f"metrics: {{address: '{taken}'}}\nupstream:"))
        said = complaint(escalade("serve", "edge-node", "--config", file))
        assert said.startswith(f"escalade: {file}:7: metrics.address: cannot serve metrics on {taken}: ")


@pytest.mark.parametrize("command", [["config", "check"], ["config", "show"], ["serve", "endpoint", "--config"]])
def test_a_file_that_is_missing_is_refused_in_one_line(tmp_path: Path, command: list[str]) -> None:
    """By every command that takes one."""
    said = complaint(escalade(*command, tmp_path / "none.yaml"))
    assert said == f"escalade: {tmp_path / 'none.yaml'}: cannot read the file: No such file or directory"


def test_a_file_of_another_tier_is_refused(write: Write) -> None:
    """An edge node's YAML does not start an endpoint; the line gives the command that it is for."""
    file = write()
    said = complaint(escalade("serve", "endpoint", "--config", file))
    assert said.startswith(f"escalade: {file}:1: tier: ")
    assert said.endswith("use `escalade serve edge-node`")


def test_a_mistake_in_the_environment_is_blamed_on_the_variable(write: Write) -> None:
    """The file is right; the line names the variable and the key."""
    said = complaint(escalade("config", "check", write(), ESCALADE__LIMITS__MAX_QUEUE="many"))
    assert said.startswith("escalade: ESCALADE__LIMITS__MAX_QUEUE: limits.max_queue: ")


def test_a_model_that_the_environment_names_is_blamed_on_the_variable(write: Write) -> None:
    """Also when the mistake shows only as the model is loaded."""
    said = complaint(escalade("config", "check", write(), ESCALADE__MODEL__FILE="text.onnx"))
    assert said.startswith("escalade: ESCALADE__MODEL__FILE: model.file: ")


def test_a_good_file_is_told_in_a_line_and_what_may_leave_in_another(write: Write) -> None:
    """Exit code 0: the tier, the model with its time and digest, the policy, what is above; what may go there."""
    file = write()
    outcome = escalade("config", "check", file)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert re.fullmatch(
        rf"{file}: ok: edge_node, model 'm' \(\d+ us a row, on the event loop, CPUExecutionProvider, "
        r"sha256 [0-9a-f]{12}\), policy Threshold, escalates to 127\.0\.0\.1:9\n"
        r"may leave to 127\.0\.0\.1:9: label, posterior, features, raw \(the default: no `egress` is written\)\n",
        outcome.stdout,
    )


KEEPING = """\
outbox: {file: out.db, corrections: sub/corrections.jsonl}
inbox: {file: in.db}
egress_ledger: {file: ledger.json}
record: {folder: recorded}
aggregate: {address: 127.0.0.1:9, node: n, outbox: reports.db}
upstream:"""


def test_a_check_opens_and_makes_nothing(write: Write) -> None:
    """Also where a tier runs with the same configuration, for which it is right."""
    file = write(("upstream:", KEEPING))
    lock = FileLock(file.parent / "out.db", "outbox")
    lock.acquire()
    before = sorted(file.parent.rglob("*"))
    try:
        outcome = escalade("config", "check", file)
    finally:
        lock.release()
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert sorted(file.parent.rglob("*")) == before
    (file.parent / "sub" / "corrections.jsonl").mkdir(parents=True)
    said = complaint(escalade("config", "check", file))
    assert said.startswith(f"escalade: {file}:7: outbox.corrections: ")
    assert "is a folder" in said


def threads() -> set[str]:
    """Return the names of threads that a tier may have started; gRPC and asyncio keep some for the process."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not name.startswith(("asyncio", "Dummy")) and "_poll_wrapper" not in name}


@pytest.mark.asyncio
async def test_a_start_that_fails_leaves_nothing_open(write: Write) -> None:
    """No task, no thread and no lock, however often it is tried; then it starts."""
    config = load_config(write(("upstream:", KEEPING)))
    lock = FileLock(config.folder / "reports.db", "outbox")
    lock.acquire()
    service = EdgeNode(config)
    tasks, before = asyncio.all_tasks(), threads()
    for _ in range(3):
        with pytest.raises(ConfigError, match="has it open") as caught:
            await service.start()
        assert caught.value.key == "aggregate.outbox"
    assert asyncio.all_tasks() == tasks
    assert threads() <= before
    with pytest.raises(RuntimeError, match="not started"):
        service.tier  # noqa: B018
    lock.release()
    async with service, EdgeNode(load_config(write())) as other:
        assert service.tier.model.name == other.tier.model.name


def test_a_file_can_be_checked_where_its_model_is_not(write: Write) -> None:
    """`--no-model`, for the machine where configurations are written."""
    file = write(("unsure.onnx", "elsewhere.onnx"))
    outcome = escalade("config", "check", "--no-model", file)
    assert outcome.returncode == 0
    assert "model 'm' (not loaded)" in outcome.stdout


def test_shown_values_are_the_effective_ones(write: Write) -> None:
    """Defaults stand in it, and what the environment overrides."""
    outcome = escalade(
        "config",
        "show",
        write(),
        ESCALADE__POLICY__THRESHOLD="0.5",
        ESCALADE__UPSTREAM__ADDRESS="127.0.0.1:8009",
        ESCALADE__METRICS="{address: '127.0.0.1:9464'}",
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    shown = yaml.safe_load(outcome.stdout)
    assert shown["policy"] == {"name": "Threshold", "threshold": 0.5}
    assert shown["upstream"]["address"] == "127.0.0.1:8009"
    assert shown["metrics"] == {"address": "127.0.0.1:9464", "insecure": False}
    assert shown["limits"]["max_queue"] == 1024


def test_help_and_version_are_told() -> None:
    """On standard output, exit code 0."""
    told = escalade("--help")
    assert told.returncode == 0
    assert all(command in told.stdout for command in ("serve", "config", "demo"))
    version = escalade("--version")
    assert version.returncode == 0
    assert re.fullmatch(r"escalade \d+\.\d+\.\d+\n", version.stdout)


@pytest.mark.parametrize("arguments", [[], ["serve"], ["serve", "gateway", "--config", "x"], ["config", "chek", "x"]])
def test_a_command_that_does_not_exist_is_refused_with_the_usage(arguments: list[str]) -> None:
    """Exit code 2, what there is instead, no traceback."""
    outcome = escalade(*arguments)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("usage: escalade")
    assert "Traceback" not in outcome.stderr


@pytest.fixture
def node(models: Path, tmp_path: Path) -> dict[str, Any]:
    """The configuration of an edge node without anything above it."""
    return {"tier": "edge_node", "model": {"file": str(models / "unsure.onnx"), "name": "m"}}


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_tier_says_where_it_serves_and_stops_when_told(
    node: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    """One JSON line with the bound port once it answers; SIGTERM or SIGINT: exit code 0."""
    process = TierProcess(node, tmp_path)
    with process:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", process.address)
        async with Client(process.address) as client:
            answer = await client.infer(np.array([[9, 0, 0, 0]], np.float32), model="m")
        assert answer.tier == ["edge_node"]
        process.send_signal(number)
        assert process.wait() == 0
    entries = [json.loads(line) for line in process.stderr]
    assert [entry["event"] for entry in entries] == ["model ready", "serving", "stopped"]
    assert {entry["tier"] for entry in entries} == {"edge_node"}
    assert all(entry["level"] == "info" and entry["timestamp"] for entry in entries)


def test_logs_are_for_people_or_fewer_when_told(node: dict[str, Any], tmp_path: Path) -> None:
    """`log.format: console` is no JSON, `log.level: error` leaves out what went well."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        node["listen"] = {"address": f"127.0.0.1:{holder.getsockname()[1]}"}
        said = {}
        for log in ({"format": "console"}, {"level": "error"}):
            process = TierProcess({**node, "log": log}, tmp_path)
            process.launch()
            assert process.wait() == 2
            said[next(iter(log))] = process.stderr
    assert "model ready" in said["format"][0]
    assert not any(line.startswith("{") for line in said["format"])
    assert len(said["level"]) == 1


class Above:
    """A tier above that holds every call until it is let go, then says it is overloaded."""

    def __init__(self) -> None:
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def model_infer(self, data: bytes, context: Any) -> bytes:
        self.asked.set()
        await self.let_go.wait()
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        raise AssertionError


@pytest_asyncio.fixture
async def above() -> AsyncIterator[tuple[Above, str]]:
    held, server = Above(), grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(held.model_infer)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield held, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.asyncio
async def test_a_stopping_tier_drains(node: dict[str, Any], tmp_path: Path, above: tuple[Above, str]) -> None:
    """Told to stop, it says that it is not ready, still answers what it had accepted, and exits with 0."""
    held, address = above
    policy = {"name": "Threshold", "threshold": 0.9}
    patience = {"default_deadline_ms": 30_000}
    upstream = {"address": address, "timeout_ms": 30_000}
    process = TierProcess({**node, "policy": policy, "upstream": upstream, "limits": patience}, tmp_path)
    with process:
        async with Client(process.address) as client, Client(process.address) as other:
            accepted = asyncio.create_task(client.infer(UNSURE, model="m", timeout_s=30))
            await held.asked.wait()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while await other.ready():
                    pass
            assert not accepted.done()
            held.let_go.set()
            answer = await accepted
            assert (answer.tier, answer.reason) == (["edge_node"], "overloaded")
            assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.asyncio
async def test_a_drain_has_an_end(node: dict[str, Any], tmp_path: Path, above: tuple[Above, str]) -> None:
    """What is not answered within `limits.drain_seconds` is given up, and the exit code is still 0."""
    held, address = above
    limits = {"default_deadline_ms": 30_000, "drain_seconds": 0.1}
    upstream = {"address": address, "timeout_ms": 30_000}
    policy = {"name": "AlwaysEscalate"}
    process = TierProcess({**node, "policy": policy, "upstream": upstream, "limits": limits}, tmp_path)
    with process:
        async with Client(process.address) as client:
            given_up = asyncio.create_task(client.infer(UNSURE, model="m", timeout_s=30))
            await held.asked.wait()
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait) == 0
            with pytest.raises(EscaladeError):
                await given_up
    assert "drain time is over" in [entry["event"] for entry in process.events()]


def test_a_model_that_hangs_does_not_hold_the_stop(node: dict[str, Any], tmp_path: Path) -> None:
    """After `limits.drain_seconds` the process ends, though a thread of it is still in the model."""
    (tmp_path / "slow_steps.py").write_text(
        "import threading, time\n"
        "def wait(x):\n"
        "    if threading.current_thread() is not threading.main_thread() and x.any():\n"
        "        print('in the model', flush=True)\n"
        "        time.sleep(60)\n"
        "    return x\n"
    )
    model = {**node["model"], "input": {"steps": [{"custom": "slow_steps:wait"}]}}
    config = {
        **node,
        "model": model,
        "policy": {"name": "AlwaysAccept"},
        "batching": {"inline_below_us": 0},
        "limits": {"drain_seconds": 0.2},
    }
    process = TierProcess(config, tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    with process:

        async def ask() -> None:
            async with Client(process.address) as client:
                with pytest.raises(EscaladeError):
                    await client.infer(UNSURE, model="m", timeout_s=0.5)

        asyncio.run(ask())
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait() == 0
        assert time.monotonic() - started < 10
    assert "a run of the model did not end in time and is left" in [entry["event"] for entry in process.events()]


def test_onnxruntime_keeps_no_record_of_the_device(write: Write, tmp_path: Path) -> None:
    """Its telemetry is off: nothing is written into the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    outcome = escalade("config", "check", write(), HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert outcome.returncode == 0
    assert list(home.rglob("*onnxruntime*")) == []
