"""What a policy is told of its decisions: what was really done (`commit`), and what came of it (`observe`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import UNKNOWN, Action, Batch, Context, Decisions, Feedback, Policy
from escalade.policies.combinator import listens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from escalade.tiers.answer import Hop

ACCEPT, ESCALATE, ABSTAIN = Action.ACCEPT, Action.ESCALATE, Action.ABSTAIN


class Asked:
    """Rows that went up, until the tier above answers; its methods tell the policy what came of them.

    Parameters
    ----------
    batch:
        The rows.
    propensity:
        How probable it was that they would go up.
    label:
        This tier's own classes, -1 where it has none.
    at:
        When the tier above was asked, on the tier's clock.
    observe:
        Takes the feedback.
    """

    __slots__ = ("_at", "_batch", "_label", "_observe", "_propensity")

    def __init__(
        self,
        batch: Batch,
        propensity: NDArray[np.float64],
        label: NDArray[np.int64],
        at: float,
        observe: Callable[[Feedback], None],
    ) -> None:
        self._batch, self._propensity, self._label = batch, propensity, label
        self._at, self._observe = at, observe

    def answered(
        self,
        label: ArrayLike | None,
        tiers: Sequence[str],
        path: Sequence[Hop],
        now: float,
        unused: NDArray[np.bool_] | None = None,
    ) -> None:
        """Say what the tier above answered: its labels, which tier each is of, and the way that was taken.

        Rows that are `unused`, since the tier above made nothing of them, are as good as not answered.
        """
        names = [hop.tier for hop in path]
        hops = np.array([names.index(tier) + 1 if tier in names else 1 for tier in tiers])
        upper = np.full(len(hops), UNKNOWN) if label is None else np.atleast_1d(np.asarray(label))
        took_ms = np.full(len(hops), (now - self._at) * 1e3)
        if unused is not None:
            upper, hops = np.where(unused, UNKNOWN, upper), np.where(unused, 0, hops)
            took_ms = np.where(unused, np.nan, took_ms)
        self._tell(upper, hops, took_ms)

    def unanswered(self) -> None:
        """Say that the tier above was asked and gave no answer."""
        self._tell(UNKNOWN, 0, float("nan"))

    def _tell(self, upper: ArrayLike, hops: ArrayLike, upstream_ms: ArrayLike) -> None:
        action = np.int8(ESCALATE)
        self._observe(
            _feedback(
                self._batch, self._label, action, self._propensity, upper=upper, hops=hops, upstream_ms=upstream_ms
            )
        )


class Learning:
    """Tells a policy about its decisions, and counts what it raises as a failure of the policy.

    Parameters
    ----------
    failed:
        Called with what the policy raised.
    """

    @classmethod
    def of(cls, policy: Policy, failed: Callable[[Exception], object]) -> Learning | None:
        """Return one for a policy that wants to be told anything; None for others, which then pay nothing."""
        return cls(policy, failed) if listens(policy, "commit") or listens(policy, "observe") else None

    def __init__(self, policy: Policy, failed: Callable[[Exception], object]) -> None:
        self._policy, self._failed = policy, failed
        self._commits, self._observes = listens(policy, "commit"), listens(policy, "observe")

    def did_one(
        self, score: float, context: Context, action: Action, *, can_ask: bool, label: int, at: float
    ) -> Asked | None:
        """Say what is done with one input, before it is done: of what was decided, what can be.

        Returns
        -------
        Asked or None
            For an input that goes up, where the policy wants to know what comes of it.
        """
        asked = None
        done = ESCALATE if action is ESCALATE and can_ask else ABSTAIN if action is ABSTAIN else ACCEPT
        try:
            told = None
            if self._observes:
                batch, own = Batch.of_row(score, context), np.array([label])
                propensity = self._policy.decide(batch).propensity
                if done is ESCALATE:
                    asked = Asked(batch, propensity, own, at, self.observe)
                else:
                    told = _feedback(batch, own, np.int8(done), propensity)
            if self._commits:
                self._policy.commit_one(score, context, done)
            if told is not None:
                self._policy.observe(told)
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything and must not stop the tier
            self._failed(error)
        return asked

    def did_many(
        self,
        batch: Batch,
        decided: Decisions,
        up: NDArray[np.bool_],
        label: NDArray[np.int64] | None,
        at: float,
    ) -> Asked | None:
        """Say the same of the rows of a request, of which those in `up` really go up."""
        asked = None
        here = np.where(decided.action == ABSTAIN, np.int8(ABSTAIN), np.int8(ACCEPT))
        try:
            own = np.full(len(batch), UNKNOWN) if label is None else label
            if self._observes and up.any():
                asked = Asked(batch.take(up), decided.propensity[up], own[up], at, self.observe)
            if self._commits:
                self._policy.commit(batch, np.where(up, np.int8(ESCALATE), here))
            if self._observes and not up.all():
                stay = ~up
                self._policy.observe(_feedback(batch.take(stay), own[stay], here[stay], decided.propensity[stay]))
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(error)
        return asked

    def observe(self, feedback: Feedback) -> None:
        """Give the policy feedback."""
        try:
            self._policy.observe(feedback)
        except Exception as error:  # noqa: BLE001  # as above
            self._failed(error)


def _feedback(
    batch: Batch, label: NDArray[np.int64], action: ArrayLike, propensity: NDArray[np.float64], **outcome: ArrayLike
) -> Feedback:
    """Return what became of these rows; without an outcome nobody above was asked."""
    return Feedback.of(
        batch.score,
        local=label,
        action=action,
        propensity=propensity,
        posterior=batch.posterior,
        time_s=batch.time_s,
        device=batch.device,
        **outcome,
    )
