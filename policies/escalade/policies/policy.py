"""The interface every policy has: `Policy`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.feedback import Feedback, Telemetry
    from escalade.policies.trace import Trace


class Policy(ABC):
    """Maps scores and context to actions.

    One object decides everywhere: on one request in a service, on arrays in the simulator, in replay
    of recorded traffic. So that these agree, every policy keeps these rules (`check_policy` tests them):

    - `decide` is pure. It does no I/O, reads no clock and no global random state, and changes neither
      the batch nor itself: time and one uniform random number a row arrive as columns of the batch.
    - Rows are independent: an action depends on its own row only, not on its place or its neighbours.
    - `decide_one` decides as `decide` does on a batch of one.
    - A row without a usable score (``nan`` or ``-inf``) is never accepted.

    A policy with a memory of its decisions (a budget, a state of alarm) sets `sequential`. The rows of its
    batches are then decided in their order, each as if `commit` had been told of those before it, which
    takes the place of the second rule: a batch decides as the loop ``decide_one``, ``commit`` does. The
    memory itself changes in `commit` only; what it learns, in `observe` and `retune` only.

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

    sequential: bool = False
    """Whether a decision depends on the decisions before it."""

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
        (action,) = self.decide(Batch.of_row(score, context)).action
        return Action(int(action))

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:  # noqa: B027  # optional
        """Take note of what was really done, in order, after the tier masked what cannot be done.

        Parameters
        ----------
        batch
            The ``B`` rows, as they were decided.
        action
            int8 ``[B]``, values of `Action`.
        """

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        """Take note of one row; override it with `commit` where wrapping that (about 5 us) is too slow."""
        if type(self).commit is not Policy.commit:
            self.commit(Batch.of_row(score, context), np.array([action], np.int8))

    def observe(self, feedback: Feedback) -> None:  # noqa: B027  # optional
        """Learn from what became of earlier inputs: late, out of order, and incomplete as it may be."""

    def retune(self, telemetry: Telemetry) -> None:  # noqa: B027  # optional
        """Adjust to how the fleet fares; called every few seconds at most, never for a request."""

    def at_tier(self, level: int) -> Policy:
        """Return the policy that decides at tier `level` (0 the lowest) of the cascade this was made for.

        A policy that decides alike everywhere is its own; one that was fitted for several tiers at once
        returns another view of the same fit.
        """
        del level
        return self

    def check_model(self, sha256: str) -> None:  # noqa: B027  # optional
        """Raise ValueError if this policy may not decide on the scores of that model file.

        Parameters
        ----------
        sha256
            Digest of the exact bytes of the tier's own model, 64 hexadecimal digits.
        """

    def check_score(self, name: str) -> None:  # noqa: B027  # optional
        """Raise ValueError if this policy's thresholds are of another score than the tier computes.

        Parameters
        ----------
        name
            The tier's ``score``, as its configuration names it.
        """

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

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the numbers that lead to the action on one input, by name; plain values, for people."""
        del context
        return {"score": score}


class FittedPolicy(Policy):
    """A policy that has to be fitted to recorded data, or given a fit, before it decides.

    The fit is its state: `load_policy` loads it from the file that a configuration's ``state`` names. A
    subclass is constructed from parameters alone, keeps its fit in attributes that start as None, says in
    `fitted` whether it has one, and raises NotFittedError from `decide` without.
    """

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether it can decide."""

    @abstractmethod
    def fit(self, trace: Trace) -> Self:
        """Fit it to what every tier said of the same inputs, and return itself.

        Raises
        ------
        TraceError
            If the trace has too few tiers or rows, or holds what cannot be; it names array and row.
        FitError
            If these data cannot support what is asked; it says how much would.
        """
