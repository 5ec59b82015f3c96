"""What policies are told while a run goes on: labels late, telemetry at the end of control intervals."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import UNKNOWN, Feedback, Telemetry
from escalade.simulations.fleet.columns import repeated
from escalade.simulations.fleet.draws import Purpose, uniform
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.rows import FED, OUTCOME, Fed, Outcome
from escalade.simulations.fleet.telling import columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.protocol import Told

    Rows = NDArray[np.int64]


class Mailbox:
    """Keeps what came of decisions until it is known and due.

    Parameters
    ----------
    retunes
        Whether the policies of endpoints, of edge nodes, retune.
    by_node
        Whether every edge node's policy is to have telemetry of its own.
    """

    def __init__(self, world: World, retunes: tuple[bool, bool] = (True, True), *, by_node: bool = False) -> None:
        self._world, self._by_node = world, by_node
        devices = int(world.class_first[-1])
        self.counts = (
            np.zeros((devices if retunes[0] else 0, 3), np.int32),
            np.zeros((devices if retunes[1] and not by_node else 0, 3), np.int32),
        )
        """By level, of the interval: answers, those in time, escalations, ``[devices, 3]``."""
        self._of_nodes: list[Rows] = []
        """Of the interval, int64 ``[n, OUTCOME]``; only with `by_node`."""
        self._fed = np.empty((0, FED), np.int64)
        self._later: list[Rows] = []
        """Outcomes of intervals to come."""
        self._edge = world.interval

    def put(self, fed: list[Rows], outcomes: list[Rows]) -> None:
        """Keep what a window gave."""
        if fed:
            self._fed = np.concatenate([self._fed, *fed])
        for rows in filter(len, outcomes):
            self._add(rows)

    def put_counts(self, told: list[Told]) -> None:
        """Add what cells counted themselves."""
        for level, first, rows in told:
            self.counts[level][first : first + len(rows)] += rows

    def _add(self, rows: Rows) -> None:
        if self._by_node:
            mine = (rows[:, Outcome.LEVEL] == 1) & (rows[:, Outcome.KNOWN] < self._edge)
            self._of_nodes.append(rows[mine])
            rows = rows[~mine]
        later = np.empty_like(rows)
        n = _add_up(rows, self._edge, *self.counts, later)
        if n:
            self._later.append(later[:n].copy())

    def feedback(self, now: int) -> list[tuple[Feedback, Rows] | None]:
        """Return what is known before `now` ns, for each class of endpoints and for the edge nodes; None for nothing.

        Rows are in order of the time they became known, then of cell and number. With it the fleet's number of the
        device, or edge node, that decided each.
        """
        known = self._fed[:, Fed.KNOWN] < now
        due, self._fed = self._fed[known], self._fed[~known]
        due = due[np.lexsort((due[:, Fed.LEVEL], due[:, Fed.RID], due[:, Fed.CELL], due[:, Fed.KNOWN]))]
        edge = due[:, Fed.LEVEL] == 1
        kind = np.searchsorted(self._world.class_first, due[:, Fed.DEVICE], side="right") - 1
        classes = len(self._world.scenario.endpoints)
        groups = [~edge & (kind == number) for number in range(classes)]
        return [self._made(due[mine], 0) for mine in groups] + [self._made(due[edge], 1)]

    def _made(self, rows: Rows, level: int) -> tuple[Feedback, Rows] | None:
        if not len(rows):
            return None
        world = self._world
        table, row = world.tables[level], rows[:, Fed.ROW]
        upper = np.full(len(rows), UNKNOWN, np.int64)
        for tier in (1, 2):
            mine = rows[:, Fed.UPPER] == tier
            upper[mine] = world.tables[tier].label[rows[mine, Fed.UPPER_ROW]]
        audited = np.zeros(len(rows), np.bool_)
        if world.scenario.control.audit_share > 0:
            _audit(world.keys, rows[:, Fed.CELL], rows[:, Fed.RID], world.scenario.control.audit_share, audited)
        feedback = Feedback.of(
            table.score[row],
            local=table.label[row],
            action=rows[:, Fed.ACTION].astype(np.int8),
            propensity=np.ascontiguousarray(rows[:, Fed.PROPENSITY]).view(np.float64),
            upper=upper,
            truth=np.where(audited, table.truth[row], UNKNOWN),
            hops=np.where(rows[:, Fed.UPPER] >= 0, rows[:, Fed.UPPER] - level, 0),
            posterior=table.posterior[row],
            time_s=rows[:, Fed.T] / 1e9,
            upstream_ms=np.where(rows[:, Fed.TOOK] >= 0, rows[:, Fed.TOOK] / 1e6, np.nan),
            device=rows[:, Fed.DEVICE],
        )
        return feedback, rows[:, Fed.NODE if level else Fed.DEVICE]

    def telemetry(
        self, now: int, interval: int, load: tuple[float, float], wanted: list[bool]
    ) -> Iterator[tuple[Telemetry, Rows] | None]:
        """Yield how the devices fared up to `now` ns: for each class's policy, and as the edge nodes' policy sees it.

        None where it is not `wanted`. `load` is the busy share of edge nodes and of servers in the interval. With it
        whose each row is: the device itself, or the edge node with `by_node`, whose rows are then of those devices
        that it had to do with. The next interval is counted from the end of the iteration on.
        """
        firsts = self._world.class_first.tolist()
        everyone = np.arange(firsts[-1], dtype=np.int64)
        groups = [(0, low, high) for low, high in itertools.pairwise(firsts)] + [(1, 0, firsts[-1])]
        for number, ((level, low, high), want) in enumerate(zip(groups, wanted, strict=True)):
            if not want:
                yield None
                continue
            if level == 1 and self._by_node:
                device, unit, (answered, in_time, escalated) = self._seen_by_nodes()
                kind = np.searchsorted(self._world.class_first, device, side="right") - 1
            else:
                unit = device = everyone[low:high]
                kind = repeated(number, high - low, whole=True)
                if level == 1:
                    kind = np.repeat(np.arange(len(firsts) - 1), np.diff(firsts))
                answered, in_time, escalated = columns(self.counts[level][low:high])
            told = Telemetry(
                now / 1e9, interval / 1e9, device, kind, answered, in_time, escalated, upstream_load=load[level]
            )
            yield told, unit
        for counts in self.counts:
            counts[:] = 0
        self._of_nodes, self._edge = [], now + interval
        known, self._later = self._later, []
        for rows in known:
            self._add(rows)

    def _seen_by_nodes(self) -> tuple[Rows, Rows, Rows]:
        """Return devices, the nodes that had to do with them, int64 ``[n]``, and the counts, int64 ``[3, n]``."""
        rows = np.concatenate([np.empty((0, OUTCOME), np.int64), *self._of_nodes])
        pairs, which = np.unique(rows[:, [Outcome.NODE, Outcome.UNIT]], axis=0, return_inverse=True)
        counts = np.zeros((3, len(pairs)), np.int64)
        for place, column in enumerate((Outcome.ANSWERED, Outcome.IN_TIME, Outcome.ESCALATED)):
            np.add.at(counts[place], which, rows[:, column])
        return pairs[:, 1], pairs[:, 0], counts


@kernel
def _add_up(rows: Any, edge: Any, endpoints: Any, edge_nodes: Any, later: Any) -> Any:
    """Count outcomes known before `edge`, ns; put the others into `later` and return how many."""
    n = 0
    for i in range(rows.shape[0]):
        if rows[i, Outcome.KNOWN] >= edge:
            for column in range(rows.shape[1]):
                later[n, column] = rows[i, column]
            n += 1
            continue
        counts = endpoints if rows[i, Outcome.LEVEL] == 0 else edge_nodes
        unit = rows[i, Outcome.UNIT]
        counts[unit, 0] += rows[i, Outcome.ANSWERED]
        counts[unit, 1] += rows[i, Outcome.IN_TIME]
        counts[unit, 2] += rows[i, Outcome.ESCALATED]
    return n


@kernel
def _audit(keys: Any, cell: Any, rid: Any, share: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = uniform(keys[cell[i], Purpose.AUDIT], rid[i]) < share


def mean_ms(total_ns: int, count: int, before: float) -> float:
    """Return a mean in ms; what it was before where there is nothing new."""
    return total_ns / count / 1e6 if count else before
