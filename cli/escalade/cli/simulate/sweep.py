"""`escalade simulate sweep` and `compare`: many runs on the same seeds, side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from escalade.cli.demo.interrupts import Interrupts
from escalade.cli.policy.inputs import progress
from escalade.cli.simulate.command import read, writable
from escalade.simulations.fleet.output import write_csv
from escalade.simulations.fleet.summary import versions
from escalade.simulations.fleet.sweep import (
    GOALS,
    MOST_RUNS,
    Job,
    Outcome,
    Point,
    as_data,
    differences,
    front,
    grid,
    run,
)
from escalade.simulations.fleet.sweep_report import render
from escalade.simulations.strict_json import plain
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TITLES = {
    "accuracy": "accuracy",
    "latency_p99_ms": "p99 ms",
    "energy_mj_per_answer": "mJ",
    "bytes_up_per_answer": "bytes",
}


def sweep(arguments: argparse.Namespace) -> int:
    """Run the grid; print a table; write ``sweep.json``, ``.csv``, ``.html``; return 0, or 1 if a policy raised."""
    places = grid(arguments.grid)
    runs = len(places) * len(arguments.seeds)
    size = f"{len(places):,} points x {len(arguments.seeds):,} seeds"
    if runs > MOST_RUNS:
        raise SetupError(f"{size} are {runs:,} runs, more than {MOST_RUNS:,}: give fewer values or seeds")
    print(size, flush=True)
    points = [Point(settings, read(arguments.scenario, [*arguments.set, *settings])) for settings in places]
    return _several(arguments, points, "sweep")


def compare(arguments: argparse.Namespace) -> int:
    """Run both; print paired differences; write ``comparison.json``, ``.csv``, ``.html``; return 0, or 1."""
    sides = [
        Point(tuple(own), read(name, [*arguments.set, *own]))
        for name, own in ((arguments.a, []), (arguments.b, arguments.set_b))
    ]
    if sides[0].name == sides[1].name:
        sides[1].settings = ("b",)
    return _several(arguments, sides, "comparison")


def _several(arguments: argparse.Namespace, points: list[Point], name: str) -> int:
    out = writable(arguments.out)
    jobs = [
        Job(index, seed, one.scenario, arguments.backend, arguments.workers)
        for seed in arguments.seeds
        for index, one in enumerate(points)
    ]
    with Interrupts() as interrupts:
        with progress(f"{len(jobs)} runs") as done:
            ended = _ended(arguments, jobs, lambda: interrupts.received is not None)
            for number, (index, outcome) in enumerate(ended):
                points[jobs[index].point].add(jobs[index].seed, outcome)
                done((number + 1) / len(jobs))
        if not any(one.runs or one.failures for one in points):
            return 0  # interrupted before the first; leaving the block says so
        _print(points) if name == "sweep" else _print_differences(points)
        if out is not None:
            _write(out, name, points)
    failures = [f"{one.name}: {text}" for one in points for text in one.failures]
    for text in failures:
        print(f"escalade: {text}", file=sys.stderr)
    return 1 if failures else 0


def _ended(
    arguments: argparse.Namespace, jobs: Sequence[Job], stop: Callable[[], bool]
) -> Iterator[tuple[int, Outcome]]:
    """Yield number and outcome of each job as it ends."""
    if arguments.backend == "ray":
        from escalade.simulations.fleet.ray_backend import RaySession

        with RaySession(arguments.ray_address, arguments.workers) as session:
            yield from session.map(run, [replace(one, backend="serial", workers=None) for one in jobs], stop)
        return
    for index, job in enumerate(jobs):
        outcome = run(job, stop)
        if outcome is None:
            return
        yield index, outcome


def _print(points: Sequence[Point]) -> None:
    width = max(len(one.name) for one in points)
    print(f"  {'':{width}}" + "".join(f"{title:>24}" for title in TITLES.values()))
    for one, best in zip(points, front(points), strict=True):
        estimates = one.estimates()
        cells = [_estimate(name, estimates[name]) if name in estimates else "-" for name in GOALS]
        print(f"{'*' if best else ' '} {one.name:{width}}" + "".join(f"{cell:>24}" for cell in cells))
    print("* on the Pareto front: no other is as good in all four and better in one. 95 % intervals over the seeds.")


def _print_differences(points: Sequence[Point]) -> None:
    first, other = points
    found = differences(first, other)
    if not found:
        return
    before, after = first.estimates(), other.estimates()
    print(f"A {first.name}, B {other.name}; {len(first.runs)} seeds, B minus A with its 95 % interval")
    for name, value in found.items():
        sure = "" if value.sure else "  may be none"
        interval = f"[{value.low:+.4g}, {value.high:+.4g}]"
        means = f"{before[name].mean:>12.5g}{after[name].mean:>12.5g}{value.mean:>+12.4g}"
        print(f"  {name:22}{means}  {interval:26}{sure}".rstrip())


def _estimate(name: str, value: Any) -> str:
    scale, unit = (100, " %") if name == "accuracy" else (1, "")
    half = scale * (value.high - value.mean)
    return f"{scale * value.mean:.4g}{unit}" + (f" ± {half:.2g}" if half == half else "")


def _write(out: Path, name: str, points: Sequence[Point]) -> None:
    data = plain({"scenario": points[0].scenario.name, "points": as_data(points), "versions": versions()})
    (out / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if name == "sweep":
        heads = [one.partition("=")[0] for one in points[0].settings]
        places = [[text.partition("=")[2] for text in one.settings] for one in points]
    else:
        heads, places = ["side"], [["A"], ["B"]]
    figures = list(dict.fromkeys(key for one in points for run in one.runs.values() for key in run))
    rows = [
        [*place, seed, one.hashes[seed], *(run.get(key, float("nan")) for key in figures)]
        for one, place in zip(points, places, strict=True)
        for seed, run in one.runs.items()
    ]
    write_csv(out / f"{name}.csv", [*heads, "seed", "hash", *figures], rows)
    (out / f"{name}.html").write_text(render(points), encoding="utf-8")
    print(f"wrote {out / name}.json, .csv and .html")
