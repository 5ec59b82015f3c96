"""The top tier: servers that answer whatever comes, fed by all cells in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, desk
from escalade.simulations.fleet.cell import Asked, CellOutput, collect, facts_of, serve_rows
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.rows import UP, Status, Up
from escalade.simulations.fleet.sink import sink_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.result import Stats

    Rows = NDArray[np.int64]


class Servers:
    """The state of the servers, brought forward window by window after the cells."""

    def __init__(self, world: World) -> None:
        self._world, self._facts = world, facts_of(world)
        count, nodes = world.scenario.edge_servers.count, world.scenario.edge_nodes.count
        unit, keys = np.arange(count, dtype=np.int64), world.keys[world.cells]
        self._units = desk.Units.idle(
            world.server,
            count,
            world.upgrades(2, unit, uniforms(keys[Purpose.ROLLOUT_2], unit)),
            from_config(world.scenario.edge_servers.failures, count, world.duration, keys[Purpose.FAILURE_2]),
        )
        self._unit_of = np.arange(nodes, dtype=np.int64) * count // nodes
        self._pool = np.empty((UP, 0), np.int64)

    @property
    def pending(self) -> int:
        """Requests on their way to a server or in it."""
        return self._pool.shape[1]

    def advance(self, up: Sequence[Rows], t1: int, stats: Stats, asked: Asked) -> CellOutput:
        """Serve what arrives before `t1` and bring the answers home."""
        out = CellOutput(np.empty((UP, 0), np.int64), 0, 0, [], [], [])
        for rows in up:
            rows[Up.END] = -1
        rows = np.concatenate([self._pool, *up], axis=1)
        if not rows.shape[1]:
            return out
        sink = sink_for(
            stats, self._world.interval, 2 * rows.shape[1], keep=asked.keep, outcomes=asked.outcomes, fed=asked.fed
        )
        world = self._world
        serve_rows(world.server, self._units, world.keys, sink, rows, self._unit_of, 2, world.tables[0].samples, t1)
        over = (rows[Up.END] >= 0) & (rows[Up.STATUS] != Status.WAITING)
        self._pool = rows[:, ~over]
        answers.settle_server(self._facts, sink, rows[:, over])
        if self._pool.shape[1]:
            answers.time_out(self._facts, sink, self._pool, t1, True)
        collect(sink, out)
        out.pending = self.pending
        return out
