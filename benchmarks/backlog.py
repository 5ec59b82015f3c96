"""`python -m benchmarks.backlog`: how long an endpoint takes to send 10,000 kept inputs, and what others feel of it.

An edge server with an inbox, an endpoint whose outbox holds the backlog, both as processes. While it drains, live
requests come at a fixed rate to the endpoint, which escalates each, and to the server from elsewhere; the same without
a backlog, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import uvloop

from benchmarks.models import Model, Models
from benchmarks.processes import ROOT, all_cores, escalade_server
from benchmarks.report import Results, Row, environment
from escalade.tiers.client import Client
from escalade.tiers.config import LogConfig, ModelConfig
from escalade.tiers.logs import configure_logs
from escalade.tiers.model import OnnxModel
from escalade.tiers.outbox import Item, Outbox
from escalade.tiers.wire.kept import KeptMessages

RESULTS = Path(__file__).parent / "results"
LIVE_PER_S = 50
QUIET_S = 5.0
LATE = 2.0
"""Live requests may take so many times as long, at the 99th percentile, while the backlog is sent."""
MOST_S = 300.0


async def fill(file: Path, model: Model, count: int, devices: int) -> None:
    """Put a backlog into an outbox."""
    wire = KeptMessages(OnnxModel(ModelConfig(file=model.file, name="m")))
    payload = wire.request(model.x, "")
    async with Outbox(file) as outbox:
        items = (Item(f"cam-{n % devices}", str(n), payload, provisional=b"x") for n in range(count))
        waiting = list(items)
        for start in range(0, count, 256):
            await asyncio.gather(*(outbox.put(item) for item in waiting[start : start + 256]))


async def live(address: str, model: Model, stop: asyncio.Event) -> list[float]:
    """Ask at a fixed rate until told to stop; return the times in ms, whatever the answer."""
    times: list[float] = []

    async def ask(client: Client) -> None:
        began = time.perf_counter()
        await client.infer(model.x, model="m", timeout_s=5.0)
        times.append((time.perf_counter() - began) * 1e3)

    async with Client(address) as client, asyncio.TaskGroup() as group:
        due = time.perf_counter()
        while not stop.is_set():
            group.create_task(ask(client))
            due += 1 / LIVE_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return times


async def drained(address: str) -> float:
    """Return how long the outbox took to become empty."""
    began = time.perf_counter()
    async with Client(address) as client:
        while time.perf_counter() - began < MOST_S:
            outbox = (await client.status(timeout_s=5.0)).outbox
            if outbox and not any(outbox.depth.values()):
                return time.perf_counter() - began
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the backlog was not sent in {MOST_S:.0f} s")


async def measure(
    folder: Path, endpoint: Model, server: Model, count: int, devices: int
) -> tuple[float, list[list[float]]]:
    """Return the time to send the backlog, and the live times: below and above, with a backlog and without."""
    cores = all_cores()
    above = {"tier": "edge_server", "model": {"file": str(server.file), "name": "m"}}
    above |= {"inbox": {"file": str(folder / "inbox.db")}, "limits": {"default_deadline_ms": 5000}}
    await fill(folder / "outbox.db", endpoint, count, devices)
    with escalade_server(above, folder, cores) as up:
        below = {
            "tier": "endpoint",
            "model": {"file": str(endpoint.file), "name": "m"},
            "policy": {"name": "AlwaysEscalate"},
            "upstream": {"address": up.address, "timeout_ms": 4000},
            "outbox": {"file": str(folder / "outbox.db")},
            "limits": {"default_deadline_ms": 5000},
        }
        with escalade_server(below, folder, cores) as down:
            times = []
            for phase in ("backlog", "quiet"):
                stop = asyncio.Event()
                asking = [asyncio.create_task(live(address, endpoint, stop)) for address in (down.address, up.address)]
                if phase == "backlog":
                    took = await drained(down.address)
                else:
                    await asyncio.sleep(QUIET_S)
                stop.set()
                times += await asyncio.gather(*asking)
    return took, times


def p(times: list[float], hundredth: int) -> float:
    """Return a percentile."""
    return quantiles(times, n=100)[hundredth - 1]


async def run(count: int, repeats: int) -> Results:
    """Measure a backlog of one device, and of twenty."""
    results = Results({"items": count, "live_per_s": 2 * LIVE_PER_S, "repeats": repeats})
    with tempfile.TemporaryDirectory(prefix=".bench-backlog-", dir=ROOT) as name:
        models = Models.build(Path(name))
        for devices in (1, 20):
            for repeat in range(repeats):
                folder = Path(name) / f"{devices}-{repeat}"
                folder.mkdir()
                took, (below, above, quiet_below, quiet_above) = await measure(
                    folder, models.small, models.small, count, devices
                )
                rows = [
                    Row(
                        "backlog",
                        f"{count} items of {devices} devices: sent in",
                        took,
                        "s",
                        detail=f"{count / took:.0f}/s",
                    )
                ]
                for what, busy, quiet in (("escalated below", below, quiet_below), ("asked above", above, quiet_above)):
                    detail = f"p50 {p(busy, 50):.1f} ms, p99 {p(busy, 99):.1f}; without {p(quiet, 50):.1f}, "
                    detail += f"{p(quiet, 99):.1f}"
                    rows.append(
                        Row(
                            "backlog",
                            f"live p99 meanwhile, {what}",
                            p(busy, 99) / p(quiet, 99),
                            "x",
                            LATE,
                            detail=detail,
                        )
                    )
                results.add(rows, {f"{devices} devices, {repeat}": {"took_s": took}})
    return results


def main() -> None:
    """Read the options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help=f"where to write; by default {RESULTS.name}/")
    options = parser.parse_args()
    configure_logs(LogConfig(level="warning"))
    results = uvloop.run(run(options.items, options.repeats))
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    out = options.out or RESULTS
    results.write(out, "backlog", "A backlog, and live requests beside it")
    print(f"written to {out}/backlog.json and {out}/backlog.md")


if __name__ == "__main__":
    main()
