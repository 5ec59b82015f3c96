"""Whether a scenario is stable: `unstable` finds tiers that get more work than they can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Action, Batch
from escalade.simulations.fleet.arrivals import Bursts, Daily, Periodic, Poisson
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.quantiles import mean_ms
from escalade.simulations.fleet.sources import recorded_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from escalade.policies import Policy
    from escalade.simulations.fleet.compiled import Desk, World


def rate_hz(world: World, kind: int) -> float:
    """Return the mean rate of a class's arrivals, of one device, those that its trigger lets through."""
    arrivals = world.scenario.endpoints[kind].arrivals
    trigger = profile_of(world.scenario.endpoints[kind]).trigger
    share = 1.0 if trigger is None else trigger.pass_share
    match arrivals:
        case Poisson():
            return share * arrivals.rate_hz
        case Periodic():
            return share * 1e3 / arrivals.period_ms
        case Daily():
            return share * sum(arrivals.rate_hz) / len(arrivals.rate_hz)
        case Bursts():
            total = arrivals.quiet_s + arrivals.burst_s
            return share * (arrivals.quiet_s * arrivals.rate_hz + arrivals.burst_s * arrivals.burst_rate_hz) / total
    count = world.scenario.endpoints[kind].count
    return share * len(recorded_times(world, arrivals, kind)) / (world.duration / 1e9) / count


def views_hz(world: World) -> float:
    """Return the mean rate at which edge nodes see events, of all nodes."""
    events = world.scenario.events
    return 0.0 if events is None else events.rate_hz * events.views


def unstable(world: World, policies: Sequence[Policy]) -> list[str]:
    """Return a sentence for each tier whose utilisation would be 1 or more, with the number.

    What goes up is estimated: each policy decides on its whole score table, as at the beginning of the run.
    """
    endpoints, found = world.scenario.endpoints, []
    up_hz = 0.0
    for kind, one in enumerate(endpoints):
        rate = rate_hz(world, kind)
        busy = rate * mean_ms(world.kinds.service[kind]) / 1e3
        if busy >= 1.0:
            found.append(
                f"endpoints {one.name!r}: utilisation {busy:.2f}, so their queues grow without end; "
                "lower arrivals or service"
            )
        up_hz += one.count * rate * _share_up(world, 0, policies[kind])
    nodes, servers = world.scenario.edge_nodes, world.scenario.edge_servers
    for name, hz, count, desk in (
        ("edge_nodes", up_hz + views_hz(world), nodes.count, world.edge),
        ("edge_servers", up_hz * _share_up(world, 1, policies[-1]), servers.count, world.server),
    ):
        busy = hz * _work_s(desk) / (count * desk.workers)
        if busy >= 1.0:
            found.append(f"{name}: utilisation {busy:.2f}, so their queues grow; raise count or workers, or send less")
    return found


def _work_s(desk: Desk) -> float:
    """Return a worker's time for one request, s, in full batches."""
    size = desk.max_batch
    return mean_ms(desk.service) / 1e3 * (1.0 + desk.each_more * (size - 1)) / size


def _share_up(world: World, level: int, policy: Policy) -> float:
    table = world.tables[level]
    rows = slice(0, min(table.samples, 2000))
    batch = Batch.of(
        table.score[rows],
        table.posterior[rows],
        uniform=(np.arange(rows.stop) + 0.5) / rows.stop,
        remaining_ms=float("inf"),
        bytes_up=784,
    )
    action = policy.decide(batch).action
    return float(((action == Action.ESCALATE) | (action == Action.DEFER)).mean())
