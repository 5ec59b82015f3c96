"""Who follows a request besides its caller: a policy that learns, the recorder, and the results' reporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.tiers.answer import Row
from escalade.tiers.learning import Asked, Learning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from escalade.policies import Action, Batch, Context, Decisions, Feedback, Policy
    from escalade.tiers.answer import Answer, Hop
    from escalade.tiers.record import Note, Recorder
    from escalade.tiers.reports import Reports


class Watch:
    """What the followers are told of one request after it was decided."""

    __slots__ = ("_asked", "_note", "_reports")

    def __init__(self, asked: Asked | None, note: Note | None, reports: Reports | None) -> None:
        self._asked, self._note, self._reports = asked, note, reports

    def row_answered_above(self, row: Row, now: float) -> None:
        """Say that the tier above answered the only row."""
        if self._note is not None:
            self._note.answered_above()
        if self._asked is not None:
            self._asked.answered(row.label, [row.tier], row.path, now)

    def answered_above(
        self, answer: Answer, path: Sequence[Hop], now: float, up: NDArray[np.bool_], unused: NDArray[np.bool_]
    ) -> None:
        """Say that the tier above was asked about the rows `up`, answered, and made nothing of those `unused`."""
        if self._note is not None:
            self._note.answered_above(up & ~unused)
        if self._asked is not None:
            labels = None if answer.label is None else answer.label[up]
            tiers = [tier for tier, went in zip(answer.tier, up.tolist(), strict=True) if went]
            self._asked.answered(labels, tiers, path, now, unused[up])

    def unanswered(self) -> None:
        """Say that the tier above was to be asked and gave no answer."""
        if self._asked is not None:
            self._asked.unanswered()

    def finished(self, answer: Row | Answer, elapsed_ms: float, request_id: str) -> None:
        """Say that the request is answered."""
        if self._reports is not None:
            self._reports.answered(answer, request_id)
        if self._note is None:
            return
        if isinstance(answer, Row):
            self._note.finished([answer.tier], elapsed_ms, [answer.label], [answer.posterior])
        else:
            self._note.finished(answer.tier, elapsed_ms, answer.label, answer.posterior, answer.degraded, answer.reason)


class Followers:
    """Tells the followers what is decided, before it is done.

    Parameters
    ----------
    policy:
        The tier's.
    recorder:
        Keeps what is decided and what comes of it.
    reports:
        Reports results upward.
    failed:
        Called with what the policy raises when it is told.
    """

    @classmethod
    def of(
        cls,
        policy: Policy,
        recorder: Recorder | None,
        failed: Callable[[Exception], object],
        reports: Reports | None = None,
    ) -> Followers | None:
        """Return None where nobody follows: then a request pays nothing for it."""
        learning = Learning.of(policy, failed)
        if learning is None and recorder is None and reports is None:
            return None
        return cls(policy, learning, recorder, reports)

    def __init__(
        self, policy: Policy, learning: Learning | None, recorder: Recorder | None, reports: Reports | None
    ) -> None:
        self._policy, self._learning, self._recorder, self._reports = policy, learning, recorder, reports

    def decided_one(
        self, score: float, context: Context, action: Action, *, can_ask: bool, label: int, at: float
    ) -> Watch:
        """Say what is decided on a request of one row; `can_ask`: whether it can go up at all."""
        note = asked = None
        if self._recorder is not None:
            note = self._recorder.note_one(self._policy, score, context, action, label)
        if self._learning is not None:
            asked = self._learning.did_one(score, context, action, can_ask=can_ask, label=label, at=at)
        return Watch(asked, note, self._reports)

    def decided_many(
        self,
        batch: Batch,
        decided: Decisions,
        up: NDArray[np.bool_],
        label: NDArray[np.int64] | None,
        at: float,
    ) -> Watch:
        """Say the same of the rows of a request, of which those in `up` really go up."""
        note = None if self._recorder is None else self._recorder.note(batch, decided, label)
        asked = None if self._learning is None else self._learning.did_many(batch, decided, up, label, at)
        return Watch(asked, note, self._reports)

    def observe(self, feedback: Feedback) -> None:
        """Give the policy feedback from elsewhere."""
        if self._learning is not None:
            self._learning.observe(feedback)
