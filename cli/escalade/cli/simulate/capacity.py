"""`escalade simulate capacity`: how many endpoints a fleet bears, or how many workers it takes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from escalade.cli.demo.interrupts import Interrupts
from escalade.cli.simulate.command import backend, read, writable
from escalade.simulations.fleet.capacity import Trial, What, in_time, least, most, scaled
from escalade.simulations.fleet.engine import simulate
from escalade.simulations.fleet.result import Hist

if TYPE_CHECKING:
    import argparse

    from escalade.simulations.fleet.result import FleetResult

MOST_WORKERS = 4096


class RaisedError(Exception):
    """A policy raised in a trial."""


def capacity(arguments: argparse.Namespace) -> int:
    """Search; print every trial and the answer; write ``capacity.json``; return 0, or 1 without an answer."""
    scenario = read(arguments.scenario, arguments.set)
    out = writable(arguments.out)
    what = cast("What", arguments.find.replace("-", "_"))
    if arguments.endpoints is not None:
        scenario = scaled(scenario, "endpoints", arguments.endpoints)
    tried: dict[int, Trial] = {}
    objective = f"{100 * arguments.slo_share:g} % within {arguments.slo_ms:g} ms"
    with Interrupts() as interrupts, backend(arguments) as where:

        def run(size: int) -> FleetResult:
            result = simulate(
                scaled(scenario, what, size),
                seed=arguments.seed,
                backend=where,
                workers=arguments.workers,
                stop=lambda: interrupts.received is not None,
            )
            interrupts.check()
            if result.failure is not None:
                raise RaisedError(str(result.failure))
            return result

        def trial(size: int) -> Trial:
            if size not in tried:
                result = run(size)
                share = in_time(result, arguments.slo_ms)
                alone = in_time(result, arguments.slo_ms, (Hist.ENDPOINT,))
                tried[size] = Trial(size, share, share >= arguments.slo_share, alone >= arguments.slo_share)
                name = arguments.find.replace("-", " ")
                kept = "kept" if tried[size].kept else "broken"
                print(f"{size:>12,} {name}  {100 * share:7.2f} % in time and not degraded  {kept}", flush=True)
            return tried[size]

        answer: int | None
        try:
            if what == "endpoints":
                answer, broken = most(trial, scenario.device_count, arguments.resolution)
                text = f"keeps {objective} up to {answer:,} endpoints"
                if broken is not None:
                    text += f"; {broken:,} are too many"
                elif tried[answer].alone:
                    text += " and is not limited: the endpoints' own answers are enough, however many they are"
                else:
                    text += ", and more were not tried"
                if answer == 0:
                    text = f"does not keep {objective} even with one endpoint"
            else:
                answer = least(trial, MOST_WORKERS)
                station = "edge server" if what == "server_workers" else "edge node"
                text = (
                    f"keeps {objective} for {scenario.device_count:,} endpoints with {answer} workers at each {station}"
                )
                if answer is None:
                    text = (
                        f"does not keep {objective} with {MOST_WORKERS:,} workers at each {station}: "
                        "the limit is elsewhere"
                    )
        except RaisedError as error:
            print(f"escalade: {error}", file=sys.stderr)
            return 1
    print(f"{scenario.name} {text}")
    if out is not None:
        found = {
            "find": arguments.find,
            "slo_ms": arguments.slo_ms,
            "slo_share": arguments.slo_share,
            "answer": answer or None,
            "trials": [asdict(one) for _, one in sorted(tried.items())],
        }
        (out / "capacity.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {out / 'capacity.json'}")
    return 0 if answer else 1
