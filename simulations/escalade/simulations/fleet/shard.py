"""The state of consecutive cells: `Shard`, which a thread, a process or an actor owns."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.cell import Cell
from escalade.simulations.fleet.deciding import PolicyRaisedError
from escalade.simulations.fleet.protocol import Control, ShardEnd, ShardOutput, Told
from escalade.simulations.fleet.result import Count, Stats
from escalade.simulations.fleet.rows import ENDED, FED, OUTCOME, SEEN
from escalade.simulations.fleet.sink import Scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.book import Asked
    from escalade.simulations.fleet.compiled import World


class Shard:
    """Cells ``cells`` of a world, brought forward window by window.

    ``Shard.restore(world, shard.checkpoint())`` is the shard as it was: advanced by the same controls it gives the same
    outputs and counters.
    """

    def __init__(self, world: World, cells: range, asked: Asked) -> None:
        self._world, self._asked, self._scratch = world, asked, Scratch()
        self._cells = [Cell(world, number, asked) for number in cells]
        self._stats = Stats.empty(world.intervals, len(world.scenario.endpoints))
        self._ended: list[NDArray[np.int64]] = []

    def advance(self, control: Control, t1: int) -> ShardOutput:
        """Do everything that happens before `t1`, ns; at the end of a control interval thermal states move on."""
        outputs, told, failure = [], list[Told](), None
        before = self._stats.count[[Count.ANSWERED_0, Count.ANSWERED_1]]
        for cell in self._cells:
            try:
                outputs.append(cell.advance(self._world, control, t1, self._stats, self._asked, self._scratch))
            except PolicyRaisedError as error:
                failure = error.failure
                break
            if t1 % self._world.interval == 0:
                cell.control(self._world, t1)
                told += cell.told()
        for one in outputs:
            self._ended += one.ended
        answered = self._stats.count[[Count.ANSWERED_0, Count.ANSWERED_1]] - before
        return ShardOutput(
            [one.up for one in outputs],
            stacked([rows for one in outputs for rows in one.outcomes], OUTCOME),
            stacked([rows for one in outputs for rows in one.fed], FED),
            sum(one.requests for one in outputs),
            (int(answered[0]), int(answered[1])),
            sum(one.pending for one in outputs),
            self._stats.series[min((t1 - 1) // self._world.interval, self._world.intervals)].copy(),
            told,
            stacked([rows for one in outputs for rows in one.seen], SEEN),
            failure,
        )

    def finish(self, until: int) -> ShardEnd:
        """Return what was counted, batteries drained until `until`; the shard is not advanced again."""
        charge = []
        while self._cells:  # each is let go of at once: what is handed over is as much again
            charge.append(self._cells.pop(0).finish(self._world, self._stats, until))
        return ShardEnd(self._stats, stacked(self._ended, ENDED), np.concatenate(charge, axis=1))

    def checkpoint(self) -> bytes:
        """Return the whole state."""
        return pickle.dumps((self._cells, self._stats, self._ended, self._asked), protocol=pickle.HIGHEST_PROTOCOL)

    @classmethod
    def restore(cls, world: World, blob: bytes) -> Shard:
        """Return the shard that a checkpoint is of."""
        shard = cls.__new__(cls)
        shard._world, shard._scratch = world, Scratch()
        shard._cells, shard._stats, shard._ended, shard._asked = pickle.loads(blob)  # our own bytes
        return shard


def stacked(parts: list[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    """Return matrices of requests, int64 ``[n, width]``, below each other."""
    return np.concatenate([np.empty((0, width), np.int64), *parts])
