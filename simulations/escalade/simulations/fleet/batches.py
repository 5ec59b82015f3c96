"""What policies are asked about: the columns of the requests that endpoints and edge nodes have inferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.columns import LazyBatch, repeated, uniforms
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.loads import nodes_at
from escalade.simulations.fleet.rows import FAR, Local, Up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.local import Devices, Place

    Rows = NDArray[np.int64]
    Column = NDArray[np.float64]


def of_endpoints(
    world: World, place: Place, devices: Devices, kind: int, rows: Rows, upstream_ms: float, loads: Column | None
) -> LazyBatch:
    """Return requests of one class of endpoints.

    Parameters
    ----------
    rows
        int64 ``[LOCAL, n]``.
    loads
        float64 ``[nodes]``, of the cell's edge nodes; None where no policy asks.
    """
    table, n = world.tables[0], rows.shape[1]
    deadline = int(world.kinds.deadline[kind])

    def remaining() -> Column:
        if deadline >= FAR:
            return repeated(float("inf"), n)
        left: Column = (rows[Local.T] + deadline - rows[Local.END]) / 1e6
        return left

    def load() -> Column:
        if loads is None:
            return repeated(0.0, n)
        node = np.empty(n, np.int64)
        nodes_at(
            place, devices.phase, kind, int(world.kinds.dwell[kind]), rows[Local.DEVICE], rows[Local.END], node
        )  # fmt: skip
        share: Column = loads[node]
        return share

    return LazyBatch(
        n,
        {
            "score": lambda: table.score[rows[Local.ROW]],
            "posterior": lambda: table.posterior[rows[Local.ROW]],
            "time_s": lambda: rows[Local.END] / 1e9,
            "uniform": lambda: uniforms(place.keys[Purpose.UNIFORM_0], rows[Local.RID]),
            "remaining_ms": remaining,
            "bytes_up": lambda: repeated(int(world.kinds.size[kind]), n, whole=True),
            "upstream_ms": lambda: repeated(upstream_ms, n),
            "device": lambda: devices.number[rows[Local.DEVICE]],
            "upstream_load": load,
        },
    )


def of_edge_nodes(
    world: World, place: Place, rows: Rows, which: NDArray[np.intp], upstream_ms: float, loads: Column | None
) -> LazyBatch:
    """Return those `which` of the edge nodes' requests.

    Parameters
    ----------
    rows
        int64 ``[n, UP]``.
    loads
        float64 ``[servers]``; None where no policy asks.
    """
    table, n = world.tables[1], len(which)

    def remaining() -> Column:
        limit = rows[which, Up.LIMIT_0]
        return np.where(limit >= FAR, np.inf, (limit - rows[which, Up.END]) / 1e6)

    def load() -> Column:
        if loads is None:
            return repeated(0.0, n)
        server = rows[which, Up.FLEET_NODE] * len(loads) // place.fleet_nodes
        share: Column = loads[server]
        return share

    return LazyBatch(
        n,
        {
            "score": lambda: table.score[rows[which, Up.ROW_1]],
            "posterior": lambda: table.posterior[rows[which, Up.ROW_1]],
            "time_s": lambda: rows[which, Up.END] / 1e9,
            "uniform": lambda: uniforms(place.keys[Purpose.UNIFORM_1], rows[which, Up.RID]),
            "remaining_ms": remaining,
            "bytes_up": lambda: repeated(world.edge.size, n, whole=True),
            "upstream_ms": lambda: repeated(upstream_ms, n),
            "device": lambda: rows[which, Up.NUMBER],
            "upstream_load": load,
        },
    )
