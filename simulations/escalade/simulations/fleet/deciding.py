"""Policies inside a cell: `Decider` calls `decide` on arrays, keeps memories apart, and says where one raised."""

from __future__ import annotations

import copy
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Action, Decisions, Telemetry
from escalade.simulations.fleet.result import Failure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Batch, Feedback, Policy
    from escalade.simulations.fleet.columns import LazyBatch

    Decided = tuple[NDArray[np.int8], NDArray[np.float64]]


class PolicyRaisedError(Exception):
    """A policy raised; the run ends and says so."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


def failure_of(error: BaseException, tier: str, cell: int, call: str, batch: Batch | None, time_s: float) -> Failure:
    """Describe what a policy raised."""
    rows = 0 if batch is None else len(batch)
    text = ""
    if batch is not None and rows:
        shown = slice(0, min(rows, 3))
        text = (
            f"score {batch.score[shown].tolist()}, time_s {batch.time_s[shown].tolist()}, "
            f"device {batch.device[shown].tolist()}" + (" .." if rows > 3 else "")
        )
        time_s = float(batch.time_s.min())
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return Failure(time_s, tier, cell, rows, call, text, "".join(lines))


class Decider:
    """Decides for one class of endpoints, or for the edge nodes, of one cell.

    A policy with a memory of its decisions (`sequential`) has one copy for each device, or edge node: there it is an
    object of its own too, and is told of its own decisions only. Rows of one unit are decided in order of time, then of
    number. All other policies are one object for the whole fleet, which `Control` brings.
    """

    def __init__(self, tier: str, cell: int) -> None:
        self.tier, self.cell = tier, cell
        self.policy: Policy | None = None
        self.memories: dict[int, Policy] = {}

    def use(self, policy: Policy) -> None:
        """Take over what is in force from now on; units keep their memories."""
        self.policy = policy

    @property
    def remembers(self) -> bool:
        """Whether the policy has a memory of its decisions: `decide_in_order` is then to be called."""
        assert self.policy is not None
        return self.policy.sequential

    def teach(self, what: Feedback | Telemetry, unit: NDArray[np.int64], at_s: float) -> None:
        """Tell each unit that has decided before of its own rows; `unit` says whose each is, -1 for another cell's.

        Telemetry is told even where it has no rows: nothing happened.
        """
        order = np.argsort(unit, kind="stable")
        owners = np.fromiter(self.memories, np.int64, len(self.memories))
        low, high = (np.searchsorted(unit[order], owners, side) for side in ("left", "right"))
        for mine, start, stop in zip(self.memories.values(), low.tolist(), high.tolist(), strict=True):
            rows = order[start:stop]
            try:
                if isinstance(what, Telemetry):
                    mine.retune(part_of(what, rows))
                elif len(rows):
                    mine.observe(what.take(rows))
            except Exception as error:
                call = "retune" if isinstance(what, Telemetry) else "observe"
                raise PolicyRaisedError(failure_of(error, self.tier, self.cell, call, None, at_s)) from error

    def decide(self, batch: LazyBatch) -> Decided:
        """Return actions and propensities of a policy without a memory."""
        assert self.policy is not None
        try:
            return checked(self.policy.decide(batch), len(batch))
        except Exception as error:
            raise PolicyRaisedError(failure_of(error, self.tier, self.cell, "decide", batch, 0.0)) from error

    def decide_in_order(
        self,
        batch: LazyBatch,
        unit: NDArray[np.int64],
        when: NDArray[np.int64],
        number: NDArray[np.int64],
        infeasible: NDArray[np.bool_],
    ) -> Decided:
        """Return actions and propensities of one with a memory, which is told what is done.

        Parameters
        ----------
        unit, when, number
            int64 ``[B]``: whose memory, and the order.
        infeasible
            Bool ``[B]``: what cannot be sent up whatever is decided: `commit` is told of an answer instead.
        """
        policy = self.policy
        assert policy is not None
        call, rows = "decide", batch.take(slice(None))
        everything = rows
        action, propensity = np.empty(len(batch), np.int8), np.empty(len(batch))
        order = np.lexsort((number, when, unit))
        starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
        try:
            for part in np.split(order, starts[1:]) if len(order) else []:
                owner = int(unit[part[0]])
                if owner not in self.memories:
                    self.memories[owner] = copy.deepcopy(policy)
                mine = self.memories[owner]
                # What is done must be what was decided for a whole part to be decided at once.
                for piece in np.split(part, len(part)) if infeasible[part].any() else [part]:
                    call, rows = "decide", everything.take(piece)
                    action[piece], propensity[piece] = checked(mine.decide(rows), len(piece))
                    masked = infeasible[piece] & (action[piece] != Action.ABSTAIN)
                    call = "commit"
                    mine.commit(rows, np.where(masked, np.int8(Action.ACCEPT), action[piece]))
        except Exception as error:
            raise PolicyRaisedError(failure_of(error, self.tier, self.cell, call, rows, 0.0)) from error
        return action, propensity


def part_of(telemetry: Telemetry, rows: NDArray[np.intp]) -> Telemetry:
    """Return some rows."""
    columns = ("device", "device_class", "answered", "in_time", "escalated")
    return replace(telemetry, **{name: getattr(telemetry, name)[rows] for name in columns})


def checked(decided: object, rows: int) -> Decided:
    """Return actions int8 and propensities float64, ``[rows]``; TypeError or ValueError for what is none."""
    if not isinstance(decided, Decisions):
        raise TypeError(f"decide returned {type(decided).__name__}: return Decisions.of(actions)")
    action = np.ascontiguousarray(decided.action, np.int8)
    if action.shape != (rows,) or (rows and (action.min() < 0 or action.max() > max(Action))):
        raise ValueError(f"decide returned actions {decided.action!r} for {rows} rows")
    return action, np.ascontiguousarray(decided.propensity, np.float64)
