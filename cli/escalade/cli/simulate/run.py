"""`escalade simulate run`: one scenario, printed and written; Ctrl-C keeps what was done."""

from __future__ import annotations

import sys
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from escalade.cli.demo.interrupts import Interrupts
from escalade.cli.simulate.command import backend, read, warn, writable
from escalade.cli.simulate.progress import RunProgress, short
from escalade.simulations.fleet.class_figures import class_figures
from escalade.simulations.fleet.energy import battery
from escalade.simulations.fleet.engine import simulate
from escalade.simulations.fleet.event_figures import event_summary
from escalade.simulations.fleet.output import remove_old, write
from escalade.simulations.fleet.result import Hist, Reason
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.fleet.summary import latency_all_ms, link_load, metrics
from escalade.simulations.fleet.sweep import Estimate
from escalade.simulations.strict_json import plain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from escalade.simulations.fleet.result import FleetResult


def run(arguments: argparse.Namespace) -> int:
    """Run it; return 0, or 1 when a policy raised, what was done until then being written.

    Raises
    ------
    SetupError
        For what cannot work, before anything runs.
    """
    scenario = read(arguments.scenario, arguments.set)
    out = writable(arguments.out)
    if out is not None:
        remove_old(out)
    first_seed = scenario.seed if arguments.seed is None else arguments.seed
    results: list[FleetResult] = []
    with Interrupts() as interrupts:
        with backend(arguments) as where:
            for seed in range(first_seed, first_seed + arguments.replications):
                label = scenario.name if arguments.replications == 1 else f"{scenario.name}, seed {seed}"
                with RunProgress(label) as progress:
                    result = simulate(
                        scenario,
                        seed=seed,
                        backend=where,
                        workers=arguments.workers,
                        progress=progress,
                        stop=lambda: interrupts.received is not None,
                    )
                results.append(result)
                if not result.complete:
                    break
        whole = [one for one in results if one.complete]
        shown = results[-1] if results[-1].failure is not None or not whole else whole[0]
        warn(shown.warnings)
        for line in lines(shown):
            print(line)
        estimates = _estimates(whole) if len(whole) > 1 else {}
        for line in _spread(estimates, len(whole)):
            print(line)
        if out is not None:
            written = write(shown, out, _replications(whole, estimates) if len(whole) > 1 else None)
            print(f"wrote {', '.join(map(str, written))}")
        if shown.failure is not None:
            print(f"escalade: {shown.failure}", file=sys.stderr)
            if out is not None:
                print(f"escalade: batch and traceback are in {out / 'summary.json'}", file=sys.stderr)
            return 1
    return 0


def lines(result: FleetResult) -> list[str]:
    """Return what is printed of a run."""
    scenario, rate = result.scenario, result.requests / result.wall_s if result.wall_s else 0.0
    cut = "" if result.complete else f" of {scenario.duration_s:g} s"
    head = (
        f"{scenario.name}: {scenario.device_count:,} endpoints, {scenario.edge_nodes.count:,} edge nodes, "
        f"{scenario.edge_servers.count:,} edge server{'s' if scenario.edge_servers.count > 1 else ''}; "
        f"{result.simulated_s:g} s{cut} simulated in {result.wall_s:.1f} s, {short(rate)} requests/s"
    )
    titles = ("answered", "share", "accuracy", "p50 ms", "p99 ms", "busy")
    table = [f"{'':12}" + "".join(f"{title:>11}" for title in titles)]
    count, use = result.stats.count, result.utilisation()
    for level, tier in enumerate(TIERS):
        answered, right = int(count[1 + level]), int(count[4 + level])
        ms = result.latency_ms(Hist(level))
        cells = (
            f"{answered:,}",
            _percent(result.share[tier]),
            _percent(right / answered if answered else float("nan")),
        )
        table.append(_row(tier.replace("_", " "), *cells, _ms(ms["p50"]), _ms(ms["p99"]), _percent(use[tier])))
    ms, figures = latency_all_ms(result), metrics(result)
    table.append(_row("all", f"{result.answered:,}", "", _percent(result.accuracy), _ms(ms["p50"]), _ms(ms["p99"]), ""))
    limited = scenario.slo_ms is not None or any(one.deadline_ms is not None for one in scenario.endpoints)
    late = _percent(figures["late_share"]) if limited else "-"
    costs = (
        f"an answer costs {_large(figures['bytes_up_per_answer'])} bytes up and "
        f"{_large(figures['energy_mj_per_answer'])} mJ of the endpoint"
    )
    facts = [
        f"degraded {_percent(result.degraded_share)}, late {late}{_unseen(result)}",
        costs,
        *_links(result),
        *_batteries(result),
        *_events(result),
    ]
    return [head, "", *table, *_classes(result), "", *facts, f"hash {result.hash}"]


def _unseen(result: FleetResult) -> str:
    """Return what was not answered, and why: of all inputs."""
    texts = {Reason.OFFLINE: "offline", Reason.FILTERED: "filtered", Reason.DEAD: "battery empty"}
    shares = {text: int(result.stats.reason[one]) / max(result.requests, 1) for one, text in texts.items()}
    found = [f"{_percent(share)} {text}" for text, share in shares.items() if share]
    return f"; of all inputs {', '.join(found)}" if found else ""


def _links(result: FleetResult) -> list[str]:
    found = {name: share for name, share in link_load(result).items() if isfinite(share)}
    texts = [f"{name} {_percent(share)}" for name, share in found.items()]
    return [f"to be sent, of the bandwidth: {', '.join(texts)}"] if texts else []


def _batteries(result: FleetResult) -> list[str]:
    found = battery(result)
    if found is None:
        return []
    life = f"life {_large(found['life_p50_h'])} h, worst 1 % {_large(found['life_p1_h'])} h"
    left = _percent(found["charge_left_mean"])
    return [f"batteries: {found['died']:,} of {found['devices']:,} empty, {left} charge left; {life}"]


def _classes(result: FleetResult) -> list[str]:
    """Return a table of the classes of endpoints, where there are several."""
    found = class_figures(result)
    if len(found) < 2:
        return []
    widest = max(12, max(map(len, found)) + 1)
    heads = ("inputs", "kept local", "accuracy", "late", "mJ/answer", "battery")
    table = ["", f"{'':{widest}}" + "".join(f"{head:>11}" for head in heads)]
    for name, one in found.items():
        life = one["battery"]
        cells = [f"{one['requests']:,}", *(_percent(one[key]) for key in ("local_share", "accuracy", "late_share"))]
        cells += [_large(one["energy_mj_per_answer"]), f"{_large(life['life_p50_h'])} h" if life else "-"]
        table.append(f"{name:{widest}}" + "".join(f"{cell:>11}" for cell in cells))
    return table


def _events(result: FleetResult) -> list[str]:
    found = event_summary(result)
    if found is None:
        return []
    share, ms = found["share"], found["latency_ms"]
    ways = {"quorum": "from a quorum"} if share["quorum"] else {"complete": "from all views"}
    ways |= {"deadline": "at the deadline", "lost": "lost"}
    ended = ", ".join(f"{_percent(share[name])} {text}" for name, text in ways.items())
    right = f"{_percent(found['accuracy'])} right fused, {_percent(found['view_accuracy_mean'])} a single view"
    return [f"{found['count']:,} events: {right}; {ended}; p50 {_ms(ms['p50'])} ms, p99 {_ms(ms['p99'])} ms"]


def _row(name: str, *cells: str) -> str:
    return f"{name:12}{''.join(f'{cell:>11}' for cell in cells)}".rstrip()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == share else "-"


def _large(value: float) -> str:
    if not isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:.4g}" if value == value else "-"


def _estimates(results: Sequence[FleetResult]) -> dict[str, Estimate]:
    figures = [metrics(one) for one in results]
    return {name: Estimate.of([one[name] for one in figures]) for name in figures[0]}


def _spread(estimates: dict[str, Estimate], runs: int) -> list[str]:
    if not estimates:
        return []
    rows = [f"  {name:24}{one.mean:>12.5g}  [{one.low:.5g}, {one.high:.5g}]" for name, one in estimates.items()]
    return ["", f"over {runs} seeds, with 95 % intervals:", *rows]


def _replications(results: Sequence[FleetResult], estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {
        "replications": [plain({"seed": one.seed, "hash": one.hash, **metrics(one)}) for one in results],
        "estimates": plain({name: asdict(one) for name, one in estimates.items()}),
    }
