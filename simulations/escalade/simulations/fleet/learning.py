"""What policies are told while a run goes on: labels late, telemetry at the end of control intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import UNKNOWN, Feedback, Telemetry
from escalade.simulations.fleet.draws import Purpose, uniform
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.rows import FED, OUTCOME, Fed, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World

    Rows = NDArray[np.int64]


class Mailbox:
    """Keeps what came of decisions until it is known and due."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fed = np.empty((0, FED), np.int64)
        self._outcomes = np.empty((0, OUTCOME), np.int64)

    def put(self, fed: list[Rows], outcomes: list[Rows]) -> None:
        """Keep what a window gave."""
        if fed:
            self._fed = np.concatenate([self._fed, *fed])
        if outcomes:
            self._outcomes = np.concatenate([self._outcomes, *outcomes])

    def feedback(self, now: int) -> list[Feedback | None]:
        """Return what is known before `now` ns, for each class of endpoints and for the edge nodes; None for nothing.

        Rows are in order of the time they became known, then of cell and number.
        """
        known = self._fed[:, Fed.KNOWN] < now
        due, self._fed = self._fed[known], self._fed[~known]
        due = due[np.lexsort((due[:, Fed.LEVEL], due[:, Fed.RID], due[:, Fed.CELL], due[:, Fed.KNOWN]))]
        edge = due[:, Fed.LEVEL] == 1
        kind = np.searchsorted(self._world.class_first, due[:, Fed.DEVICE], side="right") - 1
        classes = len(self._world.scenario.endpoints)
        groups = [~edge & (kind == number) for number in range(classes)]
        return [self._made(due[mine], 0) for mine in groups] + [self._made(due[edge], 1)]

    def _made(self, rows: Rows, level: int) -> Feedback | None:
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
        return Feedback.of(
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

    def telemetry(self, now: int, interval: int, load: tuple[float, float]) -> list[Telemetry]:
        """Return how the devices fared up to `now` ns: for each class's policy, and as the edge nodes' policy sees it.

        `load` is the busy share of edge nodes and of servers in the interval.
        """
        known = self._outcomes[:, Outcome.KNOWN] < now
        due, self._outcomes = self._outcomes[known], self._outcomes[~known]
        firsts = self._world.class_first
        total = int(firsts[-1])
        found = []
        for level, ranges in (
            (0, list(zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True))),
            (1, [(0, total)]),
        ):
            mine = due[due[:, Outcome.LEVEL] == level]
            counts = [
                np.bincount(mine[mine[:, which] == 1, Outcome.UNIT], minlength=total).astype(np.int64)
                for which in (Outcome.ANSWERED, Outcome.IN_TIME, Outcome.ESCALATED)
            ]
            for low, high in ranges:
                device = np.arange(low, high, dtype=np.int64)
                answered, in_time, escalated = (column[low:high] for column in counts)
                kind = np.searchsorted(firsts, device, side="right") - 1
                found.append(
                    Telemetry(
                        now / 1e9, interval / 1e9, device, kind, answered, in_time, escalated, upstream_load=load[level]
                    )
                )
        return found


@kernel
def _audit(keys: Any, cell: Any, rid: Any, share: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = uniform(keys[cell[i], Purpose.AUDIT], rid[i]) < share


def mean_ms(total_ns: int, count: int, before: float) -> float:
    """Return a mean in ms; what it was before where there is nothing new."""
    return total_ns / count / 1e6 if count else before
