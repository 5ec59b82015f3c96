"""The book-keeping of one cell's window, or of the servers': `Book` brings kernels, buffers and counters together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, desk
from escalade.simulations.fleet.order import arriving
from escalade.simulations.fleet.result import Series
from escalade.simulations.fleet.rows import CORRECTED, OUTCOME, UP, Ended, Outcome, Up
from escalade.simulations.fleet.sink import AT_ENDED, AT_FED, Scratch, Sink, count_ended
from escalade.simulations.fleet.telling import tell_ended, tell_fed
from escalade.simulations.fleet.views import lost_on_the_way

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk, World
    from escalade.simulations.fleet.result import Stats
    from escalade.simulations.fleet.telling import Counts

    Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the run wants to be told beside the counters."""

    keep: bool = False
    outcomes: tuple[bool, bool] = (False, False)
    """For policies of endpoints, of edge nodes, that retune."""
    by_node: bool = False
    """Whether the edge nodes' retune each for itself."""
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

    def __init__(self, world: World, stats: Stats, asked: Asked, scratch: Scratch, counts: Counts, t1: int) -> None:
        self.stats, self.asked, self.out, self.scratch = stats, asked, CellOutput(), scratch
        self._world, self._counts = world, counts
        self._edge = ((t1 - 1) // world.interval + 1) * world.interval

    @property
    def each(self) -> bool:
        """Whether single requests are asked for, not only counters."""
        return self.asked.keep or self.asked.fed

    def sink(self, rows: int, ends: int = 3) -> Sink:
        """Return buffers for what becomes of so many requests; by default each may end once and be corrected twice."""
        learns = self.asked.fed
        return self.scratch.sink(rows, ends, fed=learns or self.asked.outcomes[1], learns=learns)

    def close(self, sink: Sink) -> None:
        """Count what kernels put down, and keep what is asked for."""
        world, ended = self._world, sink.ended[: sink.size[AT_ENDED]]
        if len(ended):
            right = tuple(table.right for table in world.tables)
            count_ended(ended, self.stats, world.keys, world.kinds.slo, right, world.interval)
        fed = sink.fed[: sink.size[AT_FED]]
        if self.asked.keep and len(ended):
            self.out.ended.append(ended[ended[:, Ended.REASON] != CORRECTED])
        for tell, asked, rows in (
            (tell_ended, self.asked.outcomes[0], ended),
            (tell_fed, self.asked.outcomes[1], fed),
        ):
            if asked and len(rows):
                later = self.scratch.take("told", len(rows), OUTCOME)
                n = tell(self._counts, rows, world.kinds.slo, self._edge, later)
                if n:
                    self.out.outcomes.append(later[:n].copy())
        if self.asked.fed and len(fed):
            self.out.fed.append(fed.copy())

    def arrived(self, t: NDArray[np.int64]) -> None:
        """Count arrivals."""
        self.out.requests = len(t)
        self.stats.count[0] += len(t)
        if len(t):
            interval = self._world.interval
            first, last = int(t[0]) // interval, int(t[-1]) // interval
            if first == last:
                self.stats.series[first, Series.ARRIVED] += len(t)
                return
            ends = np.searchsorted(t, np.arange(first + 1, last + 2) * interval)
            self.stats.series[first : last + 1, Series.ARRIVED] += ends
            self.stats.series[first + 1 : last + 1, Series.ARRIVED] -= ends[:-1]

    def escalated(self, up: Rows) -> None:
        """Keep escalations of the edge nodes, int64 ``[n, UP]``, for telemetry of each."""
        rows = np.zeros((len(up), OUTCOME), np.int64)
        rows[:, Outcome.LEVEL], rows[:, Outcome.UNIT], rows[:, Outcome.NODE] = 1, up[:, Up.NUMBER], up[:, Up.FLEET_NODE]
        rows[:, Outcome.KNOWN], rows[:, Outcome.ESCALATED] = up[:, Up.END], 1
        self.out.outcomes.append(rows)

    def below(self, rows: Rows, hop: int) -> None:
        """Let the sending tier answer what did not get over a hop."""
        if hop == 1 and self._world.sights is not None:
            self.out.seen.append(lost_on_the_way(rows))
        sink = self.sink(len(rows))
        answers.below(self._world, sink, rows, hop)
        self.close(sink)

    def time_out(self, rows: Rows, t1: int, edge: bool) -> None:
        """Let tiers answer what is still under way after their limit."""
        limits = [Up.LIMIT_0, Up.LIMIT_1] if edge else [Up.LIMIT_0]
        if len(rows) and any(rows[:, limit].min() < t1 for limit in limits):
            sink = self.sink(len(rows))
            answers.time_out(self._world, sink, rows, t1, edge=edge)
            self.close(sink)

    def serve(
        self, station: Desk, units: desk.Units, rows: Rows, unit_of: NDArray[np.int64], level: int, t1: int
    ) -> None:
        """Let a tier serve what arrives before `t1`: rows whose `END` is -1, or that are `WAITING`."""
        world, stats = self._world, self.stats
        order = arriving(rows, t1)
        arguments = (
            station, units, world.keys, stats.count, stats.hist, stats.series, world.interval, rows, order, unit_of,
            level, world.tables[0].samples,
        )  # fmt: skip
        if station.max_batch == 1:
            desk.serve(*arguments)
        else:
            desk.serve_batches(*arguments, t1)
