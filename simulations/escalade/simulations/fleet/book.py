"""The book-keeping of one cell's window, or of the servers': `Book` brings kernels, buffers and counters together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, desk
from escalade.simulations.fleet.order import by_time
from escalade.simulations.fleet.result import Series
from escalade.simulations.fleet.rows import CORRECTED, OUTCOME, UP, Ended, Fed, Outcome, Up
from escalade.simulations.fleet.sink import AT_ENDED, AT_FED, Scratch, Sink, count_ended
from escalade.simulations.fleet.views import lost_on_the_way

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk, World
    from escalade.simulations.fleet.result import Stats

    Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the run wants to be told beside the counters."""

    keep: bool = False
    outcomes: tuple[bool, bool] = (False, False)
    """For policies of endpoints, of edge nodes, that retune."""
    loads: tuple[bool, bool] = (False, False)
    """For policies of endpoints, of edge nodes, that read `upstream_load`."""
    fed: bool = False


@dataclass(slots=True, eq=False)
class CellOutput:
    """What a cell, or the servers, give at the end of a window; see `ShardOutput`."""

    up: Rows = field(default_factory=lambda: np.empty((0, UP), np.int64))
    requests: int = 0
    pending: int = 0
    ended: list[Rows] = field(default_factory=list)
    outcomes: list[Rows] = field(default_factory=list)
    fed: list[Rows] = field(default_factory=list)
    seen: list[Rows] = field(default_factory=list)


class Book:
    """Counts what happens in one window, and keeps what the run asked for."""

    def __init__(self, world: World, stats: Stats, asked: Asked, scratch: Scratch) -> None:
        self.stats, self.asked, self.out, self.scratch = stats, asked, CellOutput(), scratch
        self._world = world

    @property
    def each(self) -> bool:
        """Whether single requests are asked for, not only counters."""
        return self.asked.keep or self.asked.fed

    def sink(self, rows: int, ends: int = 3) -> Sink:
        """Return buffers for what becomes of so many requests; by default each may end once and be corrected twice."""
        return self.scratch.sink(rows, ends, fed=self.asked.fed or self.asked.outcomes[1])

    def close(self, sink: Sink) -> None:
        """Count what kernels put down, and keep what is asked for."""
        world, ended = self._world, sink.ended[: sink.size[AT_ENDED]]
        right = tuple(table.right for table in world.tables)
        count_ended(ended, self.stats, world.keys, world.kinds.slo, right, world.interval)
        fed = sink.fed[: sink.size[AT_FED]]
        if self.asked.keep and len(ended):
            self.out.ended.append(ended[ended[:, Ended.REASON] != CORRECTED])
        if self.asked.outcomes[0] and len(ended):
            answered = ended[(ended[:, Ended.TIER] >= 0) & (ended[:, Ended.REASON] != CORRECTED)]
            self.out.outcomes.append(outcomes_0(answered, world.kinds.slo))
        if self.asked.outcomes[1] and len(fed):
            self.out.outcomes.append(outcomes_1(fed[fed[:, Fed.LEVEL] == 1]))
        if self.asked.fed and len(fed):
            self.out.fed.append(fed.copy())

    def arrived(self, t: NDArray[np.int64]) -> None:
        """Count arrivals."""
        self.out.requests = len(t)
        self.stats.count[0] += len(t)
        if len(t):
            interval = self._world.interval
            first, last = int(t[0]) // interval, int(t[-1]) // interval
            ends = np.searchsorted(t, np.arange(first + 1, last + 2) * interval)
            self.stats.series[first : last + 1, Series.ARRIVED] += np.diff(ends, prepend=0)

    def escalated(self, up: Rows) -> None:
        """Keep escalations of the edge nodes, int64 ``[n, UP]``, for telemetry."""
        rows = np.zeros((len(up), OUTCOME), np.int64)
        rows[:, Outcome.LEVEL], rows[:, Outcome.UNIT], rows[:, Outcome.NODE] = 1, up[:, Up.NUMBER], up[:, Up.FLEET_NODE]
        rows[:, Outcome.KNOWN], rows[:, Outcome.ESCALATED] = up[:, Up.END], 1
        self.out.outcomes.append(rows)

    def below(self, rows: Rows, hop: int) -> None:
        """Let the sending tier answer what did not get over a hop."""
        if hop == 1 and self._world.sights is not None:
            self.out.seen.append(lost_on_the_way(rows))
        sink = self.sink(len(rows))
        answers.below(sink, rows, answers.ways_back(self._world, rows), hop)
        self.close(sink)

    def time_out(self, rows: Rows, t1: int, edge: bool) -> None:
        """Let tiers answer what is still under way after their limit."""
        if len(rows):
            sink = self.sink(len(rows))
            answers.time_out(sink, rows, answers.ways_back(self._world, rows), t1, edge)
            self.close(sink)

    def serve(
        self, station: Desk, units: desk.Units, rows: Rows, unit_of: NDArray[np.int64], level: int, t1: int
    ) -> None:
        """Let a tier serve what arrives before `t1`: rows whose `END` is -1, or that are `WAITING`."""
        world, stats = self._world, self.stats
        new = np.flatnonzero((rows[:, Up.END] < 0) & (rows[:, Up.AT] < t1))
        cell = rows[new, Up.CELL] if level == 2 else None
        order = new[by_time(rows[new, Up.AT], rows[new, Up.RID], cell)]
        arguments = (
            station, units, world.keys, stats.count, stats.hist, stats.series, world.interval, rows, order, unit_of,
            level, world.tables[0].samples,
        )  # fmt: skip
        if station.max_batch == 1:
            desk.serve(*arguments)
        else:
            desk.serve_batches(*arguments, t1)


def outcomes_0(ended: Rows, slo: NDArray[np.int64]) -> Rows:
    """Return answers as the endpoints' telemetry counts them: in time unless degraded or late."""
    rows = np.zeros((len(ended), OUTCOME), np.int64)
    rows[:, Outcome.UNIT], rows[:, Outcome.KNOWN] = ended[:, Ended.DEVICE], ended[:, Ended.AT]
    sound = np.isin(ended[:, Ended.REASON], (0, 7))
    in_time = ended[:, Ended.AT] - ended[:, Ended.T] <= slo[ended[:, Ended.KIND]]
    rows[:, Outcome.IN_TIME], rows[:, Outcome.ANSWERED] = sound & in_time, 1
    return rows


def outcomes_1(fed: Rows) -> Rows:
    """Return answers as the edge nodes' telemetry counts them: in time if the tier that was wanted gave them."""
    rows = np.zeros((len(fed), OUTCOME), np.int64)
    rows[:, Outcome.LEVEL], rows[:, Outcome.UNIT], rows[:, Outcome.KNOWN] = 1, fed[:, Fed.DEVICE], fed[:, Fed.KNOWN]
    rows[:, Outcome.IN_TIME] = (fed[:, Fed.ACTION] != 1) | (fed[:, Fed.UPPER] >= 0)
    rows[:, Outcome.ANSWERED], rows[:, Outcome.NODE] = 1, fed[:, Fed.NODE]
    return rows
