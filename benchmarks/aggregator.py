"""`python -m benchmarks.aggregator`: observations a second, and how soon an event is answered.

An edge server with an aggregator of four nodes and ten classes, as `escalade serve` starts it, on a disk that it
syncs to. The bare side is a grpc.aio echo that is sent the same bytes: what calls of that size cost here at best,
without parsing, fusing or keeping anything.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

from benchmarks.bare import SERVICE as ECHO
from benchmarks.load import Sample
from benchmarks.processes import Server, echo_server, escalade_server, split_cores
from benchmarks.repeats import Settings, as_dicts, interleave, middle, ratio
from benchmarks.report import Results, Row, environment
from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.config import LogConfig
from escalade.tiers.logs import configure_logs
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.wire.aggregator import SERVICE, observation_to_proto

RESULTS = Path(__file__).parent / "results"
NODES = [f"node-{number}" for number in range(4)]
CLASSES, BATCH, IN_FLIGHT = 10, 16, 6
RATE, CLOSE_MS = 5000.0, 5.0
TIMEOUT_S = 30.0


def request(node: str, events: list[str], rng: np.random.Generator) -> bytes:
    """Return a node's report of some events: mostly of one class, each event of its own."""
    message = pb.ObserveRequest()
    for event in events:
        p = rng.dirichlet(np.full(CLASSES, 0.3)).astype(np.float32)
        p[hash(event) % CLASSES] += 2.0
        message.observations.append(observation_to_proto(Observation(node, "1", event, "", time.time(), p / p.sum())))
    return message.SerializeToString()


def sent_now() -> bytes:
    """Return the field that says when a request is sent: put behind one that was prepared, it is part of it."""
    return pb.ObserveRequest(sent_us=round(time.time() * 1e6)).SerializeToString()


class Load:
    """Reports on one server; the same batches to the aggregator and to the echo."""

    def __init__(self, server: Server, method: str, names: itertools.count[int]) -> None:
        self._server, self._names, self._rng = server, names, np.random.default_rng(0)
        self._channel = grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        self._call: Any = self._channel.unary_unary(method)
        self._echo = ECHO in method
        self._watch: Any = self._channel.unary_stream(f"/{SERVICE}/WatchEvents")

    async def close(self) -> None:
        await self._channel.close()

    async def rate(self, seconds: float) -> Sample:
        """Keep some groups of sixteen events in flight, each reported by all nodes; a request is an observation."""
        groups = [self._batches() for _ in range(IN_FLIGHT * max(1, round(seconds * 40)))]
        times: list[float] = []
        cpu, start = self._server.cpu_seconds(), time.perf_counter()

        async def report() -> None:
            while groups:
                for batch in groups.pop():
                    began = time.perf_counter()
                    self._check(await self._call(batch + sent_now(), timeout=TIMEOUT_S), BATCH)
                    times.append(time.perf_counter() - began)

        await asyncio.gather(*(report() for _ in range(IN_FLIGHT)))
        elapsed, cpu = time.perf_counter() - start, self._server.cpu_seconds() - cpu
        p50, p99 = np.percentile(times, [50, 99]) * 1e3
        count = len(times) * BATCH
        return Sample(count / elapsed, float(p50), float(p99), count, cpu / count * 1e6)

    async def last_to_answer(self, events: int) -> Sample:
        """Time from sending an event's last observation to its answer on a watch."""
        watch = self._watch(pb.WatchEventsRequest(only_new=True).SerializeToString())
        await watch.initial_metadata()
        times: list[float] = []
        cpu = self._server.cpu_seconds()
        for _ in range(events):
            event = f"e{next(self._names)}"
            *first, last = (request(node, [event], self._rng) for node in NODES)
            for one in first:
                self._check(await self._call(one, timeout=TIMEOUT_S), 1)
            began = time.perf_counter()
            call = asyncio.ensure_future(self._call(last, timeout=TIMEOUT_S))
            answer = pb.Answer.FromString(await watch.read())
            times.append(time.perf_counter() - began)
            if answer.event != event or answer.cause != "complete":
                raise ValueError(f"watched for {event}, got {answer}")
            self._check(await call, 1)
        watch.cancel()
        p50, p99 = np.percentile(times, [50, 99]) * 1e3
        cpu_us = (self._server.cpu_seconds() - cpu) / events * 1e6
        return Sample(events / sum(times), float(p50), float(p99), events, cpu_us)

    def _batches(self) -> list[bytes]:
        events = [f"e{next(self._names)}" for _ in range(BATCH)]
        return [request(node, events, self._rng) for node in NODES]

    def _check(self, response: bytes, count: int) -> None:
        if not self._echo:
            verdicts = pb.ObserveResponse.FromString(response).verdicts
            if len(verdicts) != count or any(verdict.code for verdict in verdicts):
                raise ValueError(f"not all of a batch was taken: {verdicts}")


def config(folder: Path) -> dict[str, object]:
    """Return the edge server: every event waits for all nodes, so that the last one is needed."""
    model = folder / "model.onnx"
    model.write_bytes(scaled_identity(CLASSES))
    aggregator = {
        "nodes": NODES,
        "file": str(folder / "aggregator.db"),
        "early_close": False,
        "deadline_ms": 20_000,
        "late_ms": 100,
    }
    return {"tier": "edge_server", "model": {"file": str(model)}, "aggregator": aggregator}


async def run(settings: Settings, folder: Path) -> Results:
    """Measure both sides in turn."""
    results = Results({"nodes": len(NODES), "classes": CLASSES, "batch": BATCH, "repeats": settings.repeats})
    names = itertools.count()
    server_cores, _ = split_cores()
    with escalade_server(config(folder), folder, server_cores) as server, echo_server(server_cores) as echo:
        ours, bare = Load(server, f"/{SERVICE}/Observe", names), Load(echo, f"/{ECHO}/ModelInfer", names)
        cases = {"ours": lambda: ours.rate(settings.seconds), "echo": lambda: bare.rate(settings.seconds)}
        samples = await interleave(cases, settings.repeats)
        quiet = await interleave({"close": lambda: ours.last_to_answer(settings.calls // 10)}, settings.repeats)
        await ours.close()
        await bare.close()
    rate, echo_rate = (middle(samples, case, "requests_per_s") for case in ("ours", "echo"))
    cpu = middle(samples, "ours", "server_cpu_us")
    p99 = middle(samples, "ours", "p99_ms")
    rows = [
        Row("aggregator", f"observations, batches of {BATCH}", rate, "/s", RATE, at_most=False,
            detail=f"{IN_FLIGHT} batches in flight, p99 {p99:.1f} ms, {cpu:.0f} us cpu an observation"),
        Row("aggregator", "observations, ours / bare echo", ratio(samples, "ours", "echo", "requests_per_s"), "x",
            detail=f"echo {echo_rate:.0f}/s"),
        Row("aggregator", "last observation to answer watched, p50", middle(quiet, "close", "p50_ms"), "ms", CLOSE_MS,
            detail="one event at a time; both hops and the disk included"),
        Row("aggregator", "the same, p99", middle(quiet, "close", "p99_ms"), "ms", CLOSE_MS),
    ]  # fmt: skip
    results.add(rows, {"rate": as_dicts(samples), "close": as_dicts(quiet)})
    return results


def main() -> None:
    """Read the options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="go everywhere in seconds; the figures mean nothing")
    parser.add_argument("--out", type=Path, help=f"where to write; by default {RESULTS.name}/, for a full run only")
    options = parser.parse_args()
    configure_logs(LogConfig(level="warning"))
    settings = Settings.quick() if options.quick else Settings(options.repeats, 1.5)
    folder = Path(tempfile.mkdtemp(prefix=".bench-aggregator-", dir=Path.cwd()))  # not a memory disk
    try:
        results = uvloop.run(run(settings, folder))
    finally:
        shutil.rmtree(folder)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    if out := options.out or (None if options.quick else RESULTS):
        results.write(out, "aggregator", "The aggregator against a bare echo")
        print(f"written to {out}/aggregator.json and {out}/aggregator.md")


if __name__ == "__main__":
    main()
