"""The interface every policy has: `Policy`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from escalade.policies.types import Action, Batch, Context, Decisions


class Policy(ABC):
    """Maps scores and context to actions.

    One object decides everywhere: on one request in a service, on arrays in the simulator, in replay
    of recorded traffic. So that these agree, every policy keeps these rules (`check_policy` tests them):

    - `decide` is pure. It does no I/O, reads no clock and no global random state, and changes neither
      the batch nor itself: time and one uniform random number a row arrive as columns of the batch.
    - Rows are independent: an action depends on its own row only, not on its place or its neighbours.
    - `decide_one` decides as `decide` does on a batch of one.
    - A row without a usable score (``nan`` or ``-inf``) is never accepted.

    What is feasible is not the policy's business: the tier masks an action that cannot be done (no
    link, no time, data that may not leave) and records the reason.

    Examples
    --------
    A policy of one's own needs one method; in YAML it is named ``my_module:OfficeHours``.

    >>> import numpy as np
    >>> class OfficeHours(Policy):
    ...     '''Ask the tier above from 9 to 17 h UTC, when somebody pays for it.'''
    ...
    ...     def decide(self, batch: Batch) -> Decisions:
    ...         hour = batch.time_s // 3600 % 24
    ...         here = (batch.score > -np.inf) & ((hour < 9) | (hour >= 17))
    ...         return Decisions.of(np.where(here, Action.ACCEPT, Action.ESCALATE))
    >>> OfficeHours().decide(Batch.of([0.5, 0.5], time_s=[8 * 3600, 12 * 3600])).action.tolist()
    [0, 1]
    >>> OfficeHours().decide_one(0.5, Context(time_s=12 * 3600))
    <Action.ESCALATE: 1>
    """

    @abstractmethod
    def decide(self, batch: Batch) -> Decisions:
        """Decide on every row of a batch, which may be empty.

        Parameters
        ----------
        batch
            ``B`` rows; not to be written to.

        Returns
        -------
        Decisions
            ``B`` actions with their propensities.
        """

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide on one input; override it where wrapping `decide` (about 5 us) is too slow.

        Parameters
        ----------
        score
            A float32 value, held in a Python float.
        context
            The input's other facts; not to be written to.
        """
        return Action(int(self.decide(Batch.of_row(score, context)).action[0]))

    def state_dict(self) -> dict[str, Any]:
        """Return what the policy has learnt, as arrays and scalars; parameters are not part of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another object of this class has learnt.

        Raises
        ------
        ValueError
            If the state is not one of this class.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")
