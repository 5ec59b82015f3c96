"""Policies inside a cell: `Decider` calls `decide` on arrays, keeps memories apart, and says where one raised."""

from __future__ import annotations

import copy
import traceback
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Action
from escalade.simulations.fleet.result import Failure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Batch, Policy
    from escalade.simulations.fleet.columns import LazyBatch


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
    object of its own too. Rows of one unit are decided in order of time, then of number. All other policies are one
    object for the whole fleet, which `Control` brings.
    """

    def __init__(self, tier: str, cell: int) -> None:
        self.tier, self.cell = tier, cell
        self.policy: Policy | None = None
        self.memories: dict[int, Policy] = {}

    def use(self, policy: Policy) -> None:
        """Take over what is in force from now on; units keep their memories."""
        self.policy = policy

    def decide(
        self,
        batch: LazyBatch,
        unit: NDArray[np.int64],
        when: NDArray[np.int64],
        number: NDArray[np.int64],
        infeasible: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """Return actions and propensities.

        Parameters
        ----------
        unit, when, number
            int64 ``[B]``: of a sequential policy, whose memory, and the order.
        infeasible
            Bool ``[B]``: what cannot be sent up whatever is decided: `commit` is told of an answer instead.
        """
        policy = self.policy
        assert policy is not None
        call = "decide"
        rows: Batch = batch
        try:
            if not policy.sequential:
                return _checked(policy.decide(batch), len(batch))
            action = np.empty(len(batch), np.int8)
            propensity = np.empty(len(batch))
            order = np.lexsort((number, when, unit))
            starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
            for part in np.split(order, starts[1:]):
                owner = int(unit[part[0]])
                if owner not in self.memories:
                    self.memories[owner] = copy.deepcopy(policy)
                mine = self.memories[owner]
                # What is done must be what was decided for a whole part to be decided at once.
                masked = infeasible is not None and infeasible[part].any()
                pieces = np.split(part, len(part)) if masked else [part]
                for piece in pieces:
                    call, rows = "decide", batch.take(piece)
                    action[piece], propensity[piece] = _checked(mine.decide(rows), len(piece))
                    done = action[piece]
                    if infeasible is not None:
                        done = np.where(infeasible[piece] & (done != Action.ABSTAIN), np.int8(Action.ACCEPT), done)
                    call = "commit"
                    mine.commit(rows, done)
        except Exception as error:
            raise PolicyRaisedError(failure_of(error, self.tier, self.cell, call, rows, 0.0)) from error
        return action, propensity


def _checked(decided: object, rows: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    action = np.ascontiguousarray(decided.action, np.int8)  # type: ignore[attr-defined]
    if action.shape != (rows,) or (rows and (action.min() < 0 or action.max() > max(Action))):
        raise ValueError(f"decide returned actions {decided.action!r} for {rows} rows")  # type: ignore[attr-defined]
    return action, np.ascontiguousarray(decided.propensity, np.float64)  # type: ignore[attr-defined]
