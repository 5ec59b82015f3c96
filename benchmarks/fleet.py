"""`python -m benchmarks.fleet`: the fleet simulator against SimPy, and a million endpoints; writes `results/fleet.*`.

CPU time is measured, not wall time: the machine may be shared. The ratio to SimPy is of the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Results, Row
from benchmarks.simpy_fleet import Tandem, run_simpy
from escalade.policies import Batch, Decisions, Policy, Telemetry
from escalade.simulations.fleet import FleetResult, parse_scenario, simulate
from escalade.simulations.fleet.histogram import quantile_ms
from escalade.simulations.fleet.result import Count, Hist

RESULTS = Path(__file__).parent / "results"
RATIO = {2_000: 300.0, 100_000: 800.0}
SIMPY_S = {2_000: 1200.0, 100_000: 20.0}
ENGINE_S = {2_000: 12_000.0, 100_000: 300.0}
HOUR_S = 3600.0
BACKENDS = ("serial", "threads", "ray")
SAMPLE_S = 1.0
"""Between looks at how much memory is held."""


class AdaptiveShare(Policy):
    """A threshold that is moved each interval until a fifth of the inputs goes up."""

    def __init__(self) -> None:
        self._limit = np.float32(0.5)

    def decide(self, batch: Batch) -> Decisions:
        """Compare with the threshold."""
        return Decisions.of((batch.score < self._limit).view(np.int8))  # True is `Action.ESCALATE`

    def retune(self, telemetry: Telemetry) -> None:
        """Move the threshold."""
        answered = max(1, int(telemetry.answered.sum()))
        self._limit = np.float32(self._limit + 0.1 * (0.2 - telemetry.escalated.sum() / answered))


class ByChance(Policy):
    """Escalate a share of the inputs, whatever the score: plain queueing."""

    def __init__(self, share: float) -> None:
        self._share = share

    def decide(self, batch: Batch) -> Decisions:
        """Compare the uniform number with the share."""
        return Decisions.of((batch.uniform < self._share).view(np.int8))  # True is `Action.ESCALATE`


def plain(work: Tandem, duration_s: float) -> dict[str, Any]:
    """Return the scenario of a workload."""

    def exponential(mean_s: float) -> dict[str, Any]:
        return {"kind": "exponential", "mean_ms": mean_s * 1e3}

    return {
        "duration_s": duration_s,
        "endpoints": [
            {
                "name": "sensor",
                "count": work.devices,
                "profile": {"service": exponential(work.service_s[0])},
                "arrivals": {"kind": "poisson", "rate_hz": work.rate_hz},
                "escalation": {"timeout_ms": 3_600_000},
            }
        ],
        "edge_nodes": {
            "count": work.nodes,
            "service": exponential(work.service_s[1]),
            "escalation": {"timeout_ms": 3_600_000},
        },
        "edge_servers": {"workers": work.workers, "service": exponential(work.service_s[2])},
        "links": {
            "access": {"latency": {"kind": "constant", "ms": work.access_s * 1e3}},
            "uplink": {"latency": {"kind": "constant", "ms": work.uplink_s * 1e3}},
        },
    }


def full(work: Tandem, duration_s: float) -> dict[str, Any]:
    """Return the same with churn, batteries and outages; the policy adapts every minute."""
    scenario = plain(work, duration_s)
    sensor = scenario["endpoints"][0]
    sensor["profile"] |= {
        "idle_mw": 1.0,
        "active_mw": 100.0,
        "radio_uj_per_message": 500.0,
        "battery": {"capacity_mwh": 5.0, "spread": 0.9},
    }
    sensor["churn"] = {"online_s": 1800, "offline_s": 120}
    scenario["links"]["uplink"] |= {"outages": {"up_s": 1200, "down_s": 20}, "max_waiting": 1000}
    scenario["control"] = {"interval_s": 60}
    return scenario


def by_chance(work: Tandem) -> dict[str, Policy]:
    """Return the policies of plain queueing."""
    return {"endpoint": ByChance(work.share_up[0]), "edge_node": ByChance(work.share_up[1])}


def against_simpy(devices: int, results: Results, repeats: int) -> None:
    """Measure both on one workload, in turn, and compare what they found."""
    work = Tandem.of(devices)
    simulate(parse_scenario(plain(work, 60.0)), backend="serial", policy=by_chance(work))  # compiled
    slow, fast, latencies, result = [], [], [], None
    for repeat in range(repeats):
        cpu = time.process_time()
        latencies.append(run_simpy(work, SIMPY_S[devices], repeat))
        slow.append((time.process_time() - cpu) / len(latencies[-1]))
        result = simulate(
            parse_scenario(plain(work, ENGINE_S[devices])), seed=repeat, backend="serial", policy=by_chance(work)
        )
        fast.append(result.cpu_s / result.requests)
    assert result is not None
    ratio = float(np.median(np.array(slow) / np.array(fast)))
    name = f"{devices:,} endpoints"
    results.rows += [
        Row(name, "SimPy, requests per CPU second", 1e-6 / np.median(slow), "M"),
        Row(name, "windows, requests per CPU second", 1e-6 / np.median(fast), "M"),
        Row(name, "ratio", ratio, "x", RATIO[devices], at_most=False),
    ]
    mine = result.stats.hist[: Hist.DEGRADED].sum(axis=0)
    total = int(mine.sum())
    mean = sum(int(result.stats.count[Count.LATENCY_NS_0 + level]) for level in range(3)) / total / 1e6
    parts = [one * 1e3 for one in latencies]
    for what, here, there in (
        ("mean", mean, [float(one.mean()) for one in parts]),
        ("p50", quantile_ms(mine, 0.5), [float(np.quantile(one, 0.5)) for one in parts]),
        ("p99", quantile_ms(mine, 0.99), [float(np.quantile(one, 0.99)) for one in parts]),
    ):
        off = abs(here / float(np.mean(there)) - 1) * 100
        detail = f"{here:.1f} ms, SimPy {np.mean(there):.1f} (its {repeats} runs {min(there):.1f} to {max(there):.1f})"
        results.rows.append(Row(name, f"{what} latency, difference", off, "%", detail=detail))
    results.samples[name] = {"simpy_s": slow, "windows_s": fast}


def million(kind: str, duration_s: float, backend: str) -> FleetResult:
    """Run a million endpoints below 10,000 edge nodes."""
    work = Tandem.of(1_000_000)
    if kind == "plain":
        return simulate(parse_scenario(plain(work, duration_s)), backend=backend, policy=by_chance(work))
    return simulate(parse_scenario(full(work, duration_s)), backend=backend, policy=AdaptiveShare())


def in_process(kind: str, duration_s: float, backend: str) -> dict[str, Any]:
    """Run it in a process of its own, and say how much memory it and its children held at most."""
    code = (
        "import json\nfrom benchmarks.fleet import million\n"
        f"r = million({kind!r}, {duration_s}, {backend!r})\n"
        "print(json.dumps({'requests': r.requests, 'cpu_s': r.cpu_s, 'wall_s': r.wall_s, 'rss': r.peak_rss_mb, "
        "'hash': r.hash}))"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    most = 0.0
    while running.poll() is None:
        most = max(most, held_mb(running.pid))
        time.sleep(SAMPLE_S)
    assert running.stdout is not None
    text = running.stdout.read()
    if running.returncode:
        raise SystemExit(f"{kind}, {backend}: ended with {running.returncode}")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found | {"total_mb": most}


def held_mb(pid: int) -> float:
    """Return the memory of a process and all below it, MB; what several share counts once (proportional set size)."""
    parents: dict[int, list[int]] = {}
    for one in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents.setdefault(int(one.read_text().rpartition(")")[2].split()[1]), []).append(int(one.parent.name))
    total, left = 0, [pid]
    while left:
        process = left.pop()
        left += parents.get(process, [])
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


def a_million(kind: str, limit_ns: float, duration_s: float, results: Results) -> None:
    """Measure a scenario with each backend; SystemExit if they disagree."""
    name = f"1,000,000 endpoints, {kind}"
    for backend in BACKENDS:
        in_process(kind, 1.0, backend)  # compiled
    found = {backend: in_process(kind, duration_s, backend) for backend in BACKENDS}
    if len({one["hash"] for one in found.values()}) > 1:
        raise SystemExit(f"{name}: backends disagree: {found}")
    one, two, ray = (found[backend] for backend in BACKENDS)
    cpu_ns = one["cpu_s"] / one["requests"] * 1e9
    results.rows += [
        Row(name, "CPU a request", cpu_ns, "ns", limit_ns, detail=f"{one['requests']:,} requests"),
        Row(name, "wall time, serial", one["wall_s"], "s"),
        Row(name, "wall time, threads", two["wall_s"], "s"),
        Row(name, "wall time, Ray", ray["wall_s"], "s"),
        Row(name, "threads, times one thread's speed", one["wall_s"] / two["wall_s"], "x", 1.5, at_most=False),
        Row(name, "peak memory, serial or threads", max(one["rss"], two["rss"]), "MB", 400.0),
        Row(name, "peak memory, Ray, all processes", ray["total_mb"], "MB", 1024.0),
    ]
    results.samples[name] = found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--million-s", type=float, default=HOUR_S, help="simulated seconds of the million endpoints")
    parser.add_argument("--only-million", action="store_true", help="leave SimPy out")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    results = Results({"repeats": options.repeats, "million_s": options.million_s, "load_at_start": round(load, 1)})
    for devices in () if options.only_million else RATIO:
        against_simpy(devices, results, options.repeats)
    for kind, limit_ns in (("plain", 70.0), ("full", 110.0)):
        a_million(kind, limit_ns, options.million_s, results)
    results.notes["load"] = (
        f"load average {load:.1f} on {os.cpu_count()} processors at the start, {os.getloadavg()[0]:.1f} at the end: "
        "where that is above the number of processors, CPU times are too high (shared caches) and threads' wall times "
        "mean little"
    )
    print(results.text())
    results.write(options.out, "fleet", "Fleet simulation")


if __name__ == "__main__":
    main()
