"""`python -m benchmarks.overload`: what a tier still answers in time when twice as much comes as it can do.

Writes `results/overload.*`. Requests are 10 % critical, 60 % normal, 30 % bulk, each with the same deadline.
Goodput is what was answered in time, counted at the client, over the capacity: what the same tier answered in a
closed loop just before and just after (their mean). "Without shedding" is the same tier with no bound on its
queues and no admission by deadline; what is late before it is computed is dropped there too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.models import Model, Models
from benchmarks.processes import ROOT, Server, escalade_server
from benchmarks.report import Results, Row, environment
from escalade.tiers.caller import Caller
from escalade.tiers.outbox.item import PRIORITIES
from escalade.tiers.wire.messages import request_bytes

RESULTS = Path(__file__).parent / "results"
SHARES = (0.1, 0.6, 0.3)
"""Of `PRIORITIES`."""
DEADLINE_MS = 200.0
WINDOW = 64
TARGET = 0.9
SIZED = {"max_unread": 200}
"""As docs/operations.md says: 4000 calls a second, a quarter of the deadline."""
UNBOUNDED = {"max_queue": 1_000_000, "max_unread": 1_000_000}


@dataclass(frozen=True)
class Case:
    """A model, and how many threads run it; `target` None: for information."""

    what: str
    model: str
    workers: int
    target: float | None


CASES = (
    Case("1 ms model, batched, one worker", "large", 1, TARGET),
    Case("1 ms model, batched, a worker for each core", "large", 2, None),
    Case("tiny model, inline", "tiny", 1, TARGET),
)


def measure(case: Case, model: Model, folder: Path, *, rounds: int, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """Flood the tier with and without shedding, in turn."""
    bodies = []
    for priority in PRIORITIES:
        body = folder / f"{model.name}-{priority}.bin"
        caller = Caller(priority=priority)
        body.write_bytes(request_bytes(model.x, model=model.name, input_name="input", caller=caller))
        bodies.append(str(body))
    config = {
        "tier": "edge_node",
        "model": {"file": str(model.file)},
        "policy": {"name": "Threshold", "threshold": 0.0},
        "batching": {"workers": case.workers},
    }
    samples: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        servers = {
            "with": stack.enter_context(escalade_server({**config, "limits": SIZED}, folder, ())),
            "without": stack.enter_context(
                escalade_server({**config, "limits": UNBOUNDED}, folder, (), "benchmarks.unshed")
            ),
        }

        def capacity(name: str) -> float:
            load(servers[name], bodies, 0.1, "--window", 1, deadline_ms=60_000)  # until it has recovered
            return answered(
                load(servers[name], bodies, seconds / 2, "--window", WINDOW, deadline_ms=20_000), seconds / 2
            )

        for number in range(rounds):
            order = [(times, name) for times in (1, 2) for name in servers]
            for times, name in order if number % 2 == 0 else reversed(order):
                before = capacity(name)
                found = load(servers[name], bodies, seconds, "--rate", times * before)
                found["capacity"] = [before, capacity(name)]
                found["goodput"] = answered(found, seconds) / mean(found["capacity"])
                found["answered"] = [kind["in_time"] / kind["sent"] for kind in found["kinds"]]
                samples.setdefault(f"{times}x {name}", []).append(found)
    rows = [_row(case, name, times, samples[f"{times}x {name}"]) for times in (1, 2) for name in servers]
    return rows, {case.what: samples}


def load(
    server: Server, bodies: list[str], seconds: float, how: str, value: float, *, deadline_ms: float = DEADLINE_MS
) -> dict[str, Any]:
    """Run the load generator as a process of its own, and return what it says."""
    command = [sys.executable, "-m", "benchmarks.flood", server.address, "--bodies", *bodies]
    command += ["--shares", *map(str, SHARES), how, str(value), "--seconds", str(seconds)]
    command += ["--deadline-ms", str(deadline_ms)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answered(found: dict[str, Any], seconds: float) -> float:
    """Return the answers in time, a second."""
    return float(sum(kind["in_time"] for kind in found["kinds"]) / seconds)


def _row(case: Case, name: str, times: int, samples: list[dict[str, Any]]) -> Row:
    goodput = median(sample["goodput"] for sample in samples)
    shares = [median(sample["answered"][rank] for sample in samples) for rank in range(len(PRIORITIES))]
    capacity = median(mean(sample["capacity"]) for sample in samples)
    p99 = median(sample["kinds"][1]["p99_ms"] for sample in samples)
    behind = median(sample["behind_ms"] for sample in samples)
    detail = ", ".join(f"{priority} {share:.0%}" for priority, share in zip(PRIORITIES, shares, strict=True))
    spread = f"{min(s['goodput'] for s in samples):.2f} to {max(s['goodput'] for s in samples):.2f}"
    return Row(
        "overload",
        f"{case.what}: {times} x capacity, {name} shedding",
        goodput,
        "of capacity",
        case.target if (times, name) == (2, "with") else None,
        at_most=False,
        detail=f"{spread} of {capacity:.0f}/s; in time: {detail}; p99 {p99:.0f} ms; sent up to {behind:.0f} ms late",
    )


def main() -> None:
    """Read the options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted({case.model for case in CASES}), help="the cases of one model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in one measurement")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")
    options = parser.parse_args()
    results = Results({"rounds": options.rounds, "seconds": options.seconds, "deadline_ms": DEADLINE_MS})
    with tempfile.TemporaryDirectory(prefix="escalade-bench-") as name:
        folder = Path(name)
        models = Models.build(folder)
        for case in [case for case in CASES if options.only in (None, case.model)]:
            print(case.what, "...", flush=True)
            model = getattr(models, case.model)
            results.add(*measure(case, model, folder, rounds=options.rounds, seconds=options.seconds))
    results.settings["cases"] = [asdict(case) for case in CASES]
    results.notes["how"] = (
        "server and load generator share the machine's cores, which others used too; each ratio is to the "
        "capacity just before and after, and the median of the rounds counts"
    )
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    results.write(options.out, "overload", "Overload")
    print(f"written to {options.out}/overload.json and {options.out}/overload.md")


if __name__ == "__main__":
    main()
