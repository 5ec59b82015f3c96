"""The top tier: servers that answer whatever comes, fed by all cells in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, desk, picking
from escalade.simulations.fleet.book import Book
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.loads import Occupancy
from escalade.simulations.fleet.rows import FAR, UP, Up
from escalade.simulations.fleet.sink import Scratch
from escalade.simulations.fleet.telling import Counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.book import Asked, CellOutput
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.result import Stats

    Rows = NDArray[np.int64]


AT_ONCE = 8192
"""Messages whose answers are put down, then counted: few enough for the processor's caches."""


class Servers:
    """The state of the servers, brought forward window by window after the cells.

    They count in `Mailbox.counts` what telemetry is to be told of.
    """

    def __init__(self, world: World, told_of: tuple[NDArray[np.int32], NDArray[np.int32]], asked: Asked) -> None:
        self._world, self._scratch = world, Scratch()
        self._counts = Counts(*told_of, np.zeros(len(world.scenario.endpoints), np.int64), world.class_first)
        count, nodes = world.scenario.edge_servers.count, world.scenario.edge_nodes.count
        unit, keys = np.arange(count, dtype=np.int64), world.keys[world.cells]
        self._units = desk.Units.idle(
            world.server,
            count,
            world.upgrades(2, unit, uniforms(keys[Purpose.ROLLOUT_2], unit)),
            from_config(world.scenario.edge_servers.failures, count, world.duration, keys[Purpose.FAILURE_2]),
        )
        self._unit_of = np.arange(nodes, dtype=np.int64) * count // nodes
        self._pool = np.empty((0, UP), np.int64)
        self._occupancy = Occupancy(world.server, count, 2) if asked.loads[1] else None
        self._loads = np.zeros(count) if asked.loads[1] else None

    @property
    def pending(self) -> int:
        """Requests on their way to a server or in it."""
        return len(self._pool)

    def loads(self, t1: int) -> NDArray[np.float64] | None:
        """Return each server's load at the end of the last control interval; `t1` is now. None if nobody asks."""
        if self._occupancy is not None and t1 % self._world.interval == 0:
            unit = self._unit_of[self._pool[:, Up.FLEET_NODE]]
            self._loads = self._occupancy.loads(unit, self._pool, t1)
        return self._loads

    def advance(self, up: list[Rows], t1: int, stats: Stats, asked: Asked) -> CellOutput:
        """Serve what arrives before `t1` and bring the answers home; empties `up`."""
        world = self._world
        book = Book(world, stats, asked, self._scratch, self._counts, t1)
        rows = self._scratch.take("pool", len(self._pool) + sum(map(len, up)), UP)
        n = len(self._pool)
        rows[:n] = self._pool
        up.reverse()
        while up:
            n = picking.arrived(up.pop(), rows, n)
        rows = rows[:n]
        book.serve(world.server, self._units, rows, self._unit_of, 2, t1)
        done = np.flatnonzero(rows[:, Up.END] >= 0)
        for first in range(0, len(done), AT_ONCE):
            part = done[first : first + AT_ONCE]
            sink = book.sink(len(part))
            answers.settle_server(world, sink, stats.series, rows, part)
            book.close(sink)
        self._pool = picking.under_way(rows, len(rows) - len(done), FAR)
        if self._occupancy is not None:
            self._occupancy.leave(self._unit_of[rows[done, Up.FLEET_NODE]], rows[done], t1)
        book.time_out(self._pool, t1, True)
        book.out.pending = self.pending
        return book.out
