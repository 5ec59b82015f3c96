"""Whether a scenario is stable: `unstable` finds tiers and links that get more work than they can do."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Action, Batch
from escalade.simulations.fleet.arrivals import Bursts, Daily, Periodic, Poisson
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.quantiles import mean_ms
from escalade.simulations.fleet.sources import recorded_times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Policy
    from escalade.simulations.fleet.compiled import Desk, World
    from escalade.simulations.fleet.network import Link

ROWS = 2000
"""Of the score tables, on which policies are tried."""
GOLDEN = 0.6180339887498949


def rate_hz(world: World, kind: int) -> float:
    """Return the mean rate of a class's arrivals, of one device, those that its trigger lets through."""
    arrivals = world.scenario.endpoints[kind].arrivals
    share = _passed(world, kind)
    match arrivals:
        case Poisson():
            return share * arrivals.rate_hz
        case Periodic():
            return share * 1e3 / arrivals.period_ms
        case Daily():
            rates = _reached(arrivals, world.scenario.duration_s)
            return share * sum(rates) / len(rates)
        case Bursts():
            total = arrivals.quiet_s + arrivals.burst_s
            return share * (arrivals.quiet_s * arrivals.rate_hz + arrivals.burst_s * arrivals.burst_rate_hz) / total
    count = world.scenario.endpoints[kind].count
    return share * len(recorded_times(world, arrivals, kind)) / (world.duration / 1e9) / count


def peak_hz(world: World, kind: int) -> float:
    """Return the highest rate of a class's arrivals, of one device, as `rate_hz`; the mean rate where it is constant.

    A recorded trace is taken at its mean.
    """
    arrivals = world.scenario.endpoints[kind].arrivals
    match arrivals:
        case Daily():
            return _passed(world, kind) * max(_reached(arrivals, world.scenario.duration_s))
        case Bursts():
            return _passed(world, kind) * max(arrivals.rate_hz, arrivals.burst_rate_hz)
    return rate_hz(world, kind)


def views_hz(world: World) -> float:
    """Return the mean rate at which edge nodes see events, of all nodes."""
    events = world.scenario.events
    return 0.0 if events is None else events.rate_hz * events.views


def unstable(world: World, policies: Sequence[Policy]) -> list[str]:
    """Return a sentence for each tier and hop whose utilisation would be 1 or more, with the number.

    First at mean rates, then, where that is not yet too much, while each class is at its peak and the others are not.
    What goes up is estimated: policies decide on the same rows of the score table, as at the beginning of the run,
    and no tier or link passes on more than it can do.
    """
    endpoints = world.scenario.endpoints
    rates = [rate_hz(world, kind) for kind in range(len(endpoints))]
    shares = _shares_up(world, policies)
    found: dict[str, str] = {}
    for place, busy, whose, remedy in _uses(world, rates, shares):
        if busy >= 1.0:
            most = "up to " if found else ""  # what comes late out of a queue below may not be sent on
            found[place] = f"{place}: utilisation {most}{busy:.2f}, so {whose} without end; {remedy}"
    for kind, one in enumerate(endpoints):
        peak = peak_hz(world, kind)
        if peak <= rates[kind]:
            continue
        beside = isinstance(one.arrivals, Bursts) and world.cells > 1  # each cell has bursts of its own
        for place, busy, whose, remedy in _uses(world, [*rates[:kind], peak, *rates[kind + 1 :]], shares):
            if busy >= 1.0 and not (beside and place == "edge_servers"):
                during = f"while endpoints {one.name!r} are at their peak of {peak:.4g} Hz each"
                found.setdefault(place, f"{place}: utilisation {busy:.2f} {during}, so {whose} meanwhile; {remedy}")
    return list(found.values())


def _uses(
    world: World, rates: Sequence[float], shares: Sequence[tuple[float, float]]
) -> Iterator[tuple[str, float, str, str]]:
    """Yield each place's name, utilisation, whose queues grow and what to do, lowest first, with rates in Hz."""
    scenario = world.scenario
    nodes, servers, links = scenario.edge_nodes, scenario.edge_servers, scenario.links
    up = np.zeros(len(rates))
    for kind, (one, rate) in enumerate(zip(scenario.endpoints, rates, strict=True)):
        busy = rate * mean_ms(world.kinds.service[kind]) / 1e3
        yield f"endpoints {one.name!r}", busy, "their queues grow", "lower arrivals or service"
        up[kind] = one.count * rate * shares[kind][0] / max(busy, 1.0)
    busy = _sent(links.access, nodes.count, float(up @ [one.bytes_up for one in scenario.endpoints]))
    yield "links.access", busy, "messages queue", "raise bandwidth_kbit_s, or send less or smaller inputs"
    up /= max(busy, 1.0)
    seen = views_hz(world)
    busy = (float(up.sum()) + seen) * _work_s(world.edge) / (nodes.count * nodes.workers)
    yield "edge_nodes", busy, "their queues grow", "raise count or workers, or send less"
    up, seen = up / max(busy, 1.0), seen / max(busy, 1.0)
    on = float(up @ [share for _, share in shares])
    reports = 0 if scenario.events is None else scenario.events.bytes_up
    busy = _sent(links.uplink, nodes.count, on * nodes.bytes_up + seen * reports)
    yield "links.uplink", busy, "messages queue", "raise bandwidth_kbit_s, or send less or smaller inputs"
    busy = on / max(busy, 1.0) * _work_s(world.server) / (servers.count * servers.workers)
    yield "edge_servers", busy, "their queues grow", "raise count or workers, or send less"


def _sent(link: Link, links: int, bytes_s: float) -> float:
    """Return the utilisation of a hop's links, with the bytes of all together; 0 where bandwidth has no limit."""
    return 0.0 if link.bandwidth_kbit_s is None else bytes_s * 8 / (link.bandwidth_kbit_s * 1e3 * links)


def _passed(world: World, kind: int) -> float:
    trigger = profile_of(world.scenario.endpoints[kind]).trigger
    return 1.0 if trigger is None else trigger.pass_share


def _reached(arrivals: Daily, duration_s: float) -> list[float]:
    """Return the rates of the pieces that a run comes to."""
    piece_s = arrivals.day_s / len(arrivals.rate_hz)
    return arrivals.rate_hz[: max(1, ceil(duration_s / piece_s))]


def _work_s(desk: Desk) -> float:
    """Return a worker's time for one request, s, in full batches."""
    size = desk.max_batch
    return mean_ms(desk.service) / 1e3 * (1.0 + desk.each_more * (size - 1)) / size


def _shares_up(world: World, policies: Sequence[Policy]) -> list[tuple[float, float]]:
    """Return what each class sends up, and what the nodes send on of that: both decide on the same samples."""
    rows = np.arange(min(world.tables[0].samples, ROWS))
    even = (rows + 0.5) / len(rows)
    found = []
    for policy in policies[:-1]:
        sent = _sends_up(world, 0, policy, rows, even)
        on = _sends_up(world, 1, policies[-1], rows[sent], (rows[sent] * GOLDEN) % 1.0)
        found.append((float(sent.mean()), float(on.mean()) if len(on) else 0.0))
    return found


def _sends_up(
    world: World, level: int, policy: Policy, rows: NDArray[np.int64], uniform: NDArray[np.floating[Any]]
) -> NDArray[np.bool_]:
    table = world.tables[level]
    batch = Batch.of(table.score[rows], table.posterior[rows], uniform=uniform, remaining_ms=float("inf"), bytes_up=784)
    action = policy.decide(batch).action
    up: NDArray[np.bool_] = (action == Action.ESCALATE) | (action == Action.DEFER)
    return up
