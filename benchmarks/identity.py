"""What identity costs: mTLS against plaintext on connections that are kept, and the check that every call passes.

python -m benchmarks.identity [--out FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import uvloop

from benchmarks.edge_node import CONCURRENCY, figures, node_config
from benchmarks.load import Load
from benchmarks.models import Models
from benchmarks.processes import escalade_server, pinned, split_cores
from benchmarks.repeats import Settings, as_dicts, interleave, ratio
from benchmarks.report import Results, Row
from escalade.tiers.refusals import Refusals
from escalade.tiers.testing.fleet import Fleet
from escalade.tiers.tls_files import TlsFiles
from escalade.tiers.wire.credentials import channel_credentials, server_credentials
from escalade.tiers.wire.guard import Guard

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def throughput(fleet: Fleet, folder: Path, settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """Return the rates of one edge node with mTLS and one without, the server on one core, the load on another."""
    server_cores, own_cores = split_cores()
    model = Models.build(folder).small
    async with AsyncExitStack() as stack:
        plain = stack.enter_context(escalade_server(node_config(model), folder, server_cores))
        config = {**node_config(model), "tls": fleet.tls("node-1")}
        secured = stack.enter_context(escalade_server(config, folder, server_cores))
        stack.enter_context(pinned(own_cores))
        shown = fleet.credentials("my-endpoint")
        loads = {
            "plain": await stack.enter_async_context(Load(plain, model, output="posterior")),
            "mtls": await stack.enter_async_context(Load(secured, model, output="posterior", credentials=shown)),
        }
        samples = await interleave(
            {
                f"{name} {kind}": run
                for name, load in loads.items()
                for kind, run in {
                    "unary c64": partial(load.unary, CONCURRENCY, settings.seconds),
                    "unary c1": partial(load.unary, 1, settings.seconds / 2),
                    "stream w64": partial(load.stream, CONCURRENCY, settings.seconds),
                }.items()
            },
            settings.repeats,
        )
    rows = []
    for kind, limit in (("unary c64", 0.7), ("unary c1", None), ("stream w64", None)):
        value = ratio(samples, f"mtls {kind}", f"plain {kind}", "requests_per_s")
        detail = f"mTLS {figures(samples, f'mtls {kind}')}; plain {figures(samples, f'plain {kind}')}"
        rows.append(Row("identity", f"{kind}, mTLS / plaintext", value, "x", limit, at_most=False, detail=detail))
    latency = ratio(samples, "mtls unary c1", "plain unary c1", "p50_ms")
    rows.append(Row("identity", "p50 at c1, mTLS / plaintext", latency, "x"))
    return rows, as_dicts(samples)


async def check_us(fleet: Fleet, settings: Settings) -> float:
    """Return what `Guard.check` takes on a real call of a certificate that is known, microseconds."""
    files = TlsFiles(fleet.client("node-1"), time.time)
    guard = Guard(files, Refusals({"tier": "t"}, lambda: 0.0, time.monotonic))
    taken: list[float] = []

    async def handle(data: bytes, context: Any) -> bytes:
        guard.check(METHOD, context)
        started = time.thread_time()  # other processes on the machine cost it nothing
        for _ in range(settings.calls):
            guard.check(METHOD, context)
        taken.append((time.thread_time() - started) / settings.calls * 1e6)
        return data

    server = grpc.aio.server()
    methods: dict[str, Any] = {"ModelInfer": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)])
    port = server.add_secure_port("127.0.0.1:0", server_credentials(files))
    await server.start()
    shown = channel_credentials(TlsFiles(fleet.client("my-endpoint"), time.time).credentials)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", shown) as channel:
        call: Any = channel.unary_unary(METHOD)
        for _ in range(settings.repeats):
            await call(b"")
    await server.stop(None)
    return median(taken)


async def measure(settings: Settings) -> Results:
    """Run both."""
    results = Results({"repeats": settings.repeats, "seconds": settings.seconds, "calls": settings.calls})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet = Fleet(folder / "fleet")
        rows, samples = await throughput(fleet, folder, settings)
        cost = await check_us(fleet, settings)
    detail = "Guard.check alone: the identity from the certificate, the deny-list, the table"
    rows.append(Row("identity", "the check of one call", cost, "us", 5.0, detail=detail))
    results.add(rows, samples)
    return results


def main() -> None:
    """Print the table, and write it where told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    results = uvloop.run(measure(Settings.quick() if arguments.quick else Settings()))
    print(results.text())
    if arguments.out:
        results.write(arguments.out, "identity", "What identity costs")


if __name__ == "__main__":
    main()
