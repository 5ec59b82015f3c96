"""What a tier says about one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from escalade.tiers.errors import UpstreamError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REASONS = {
    "no_upstream": "the policy escalated, but the tier has no upstream",
    "deadline": "too little of the deadline was left to ask the tier above",
    "timeout": "the tier above did not answer in time",
    "unavailable": "the tier above could not be reached",
    "denied": "the tier above was not asked: its certificate is revoked",
    "circuit_open": "the tier above gave no answers lately and is left alone for a moment",
    "overloaded": "the tier above is overloaded or draining",
    "rejected": "the tier above refused the request",
    "bad_answer": "the tier above answered something that cannot be used",
    "egress": "such inputs may not leave the tier: no link's `egress` allows them",
    "too_many_hops": "the request had been passed on too often: are two tiers above one another?",
    "no_outbox": "the policy deferred, but the tier keeps no outbox",
    "outbox_full": "the policy deferred, but the outbox had no room",
    "outbox_failed": "the policy deferred, but the outbox could not be written",
    "outbox_slow": "the policy deferred, but the disk took longer than the answer could wait",
    "deferred": "a tier above deferred; the tier below it keeps the input in its outbox",
}
"""Why a row was answered below the tier that the policy asked for."""

HIGHEST = frozenset({"no_upstream", "egress"})
"""Reasons of a tier that is as high as an input gets, however often it comes."""


NO_LABEL = -1
"""A row of which the model made nothing."""

FACTS = ("score", "tier", "degraded")
"""Outputs, one value a row, that every tier adds on the wire to its model's own."""


class Hop(NamedTuple):
    """One tier's part of the way.

    `elapsed_ms` runs from the request's arrival at the tier to its answer, the hops above included;
    so the first hop's is the whole time, and the difference of two neighbours is the lower tier's own
    work and the link between them.
    """

    tier: str
    elapsed_ms: float


@dataclass(slots=True, eq=False)
class Answer:
    """The answer to a request of `B` rows; rows may have been answered by different tiers.

    Attributes
    ----------
    score:
        Float32 `[B]`, confidence of the tier that answered the row; `-inf` when it had none to give.
    tier:
        `B` names, the tier that answered each row.
    degraded:
        Bool `[B]`: answered below the tier that a policy on the way asked for.
    posterior, label:
        Float32 `[B, C]` and int64 `[B]` (`-1`: no usable class); None when the model is no classifier.
    outputs:
        A raw model's outputs by name, leading dimension `B`; None for classifiers.
    reason:
        Why rows are degraded, a key of `REASONS`; empty when none is.
    path:
        The hops that took part, this tier first.
    kept:
        The item under which degraded or deferred rows wait in an outbox, on the disk: a correction will come by
        that name. Empty when nothing is promised.
    """

    score: NDArray[np.float32]
    tier: list[str]
    degraded: NDArray[np.bool_]
    posterior: NDArray[np.float32] | None = None
    label: NDArray[np.int64] | None = None
    outputs: dict[str, NDArray[np.generic]] | None = None
    reason: str = ""
    path: tuple[Hop, ...] = ()
    kept: str = ""

    def __len__(self) -> int:
        return len(self.tier)

    def rows(self, start: int, stop: int) -> Answer:
        """Return the answer to rows `start` to `stop` alone (views, no copies)."""
        return self._part(slice(start, stop), self.tier[start:stop])

    def take(self, index: NDArray[np.intp]) -> Answer:
        """Return the answer to the rows of these numbers alone (copies)."""
        return self._part(index, [self.tier[row] for row in index.tolist()])

    def _part(self, part: slice | NDArray[np.intp], tier: list[str]) -> Answer:
        degraded = self.degraded[part]
        return Answer(
            score=self.score[part],
            tier=tier,
            degraded=degraded,
            posterior=None if self.posterior is None else self.posterior[part],
            label=None if self.label is None else self.label[part],
            outputs=None if self.outputs is None else {name: array[part] for name, array in self.outputs.items()},
            reason=self.reason if degraded.any() else "",
            path=self.path,
        )


class Row(NamedTuple):
    """The answer to a single row, not degraded, as plain Python values: an `Answer` costs 5 us to build.

    `posterior` holds float32 values; `label` is `-1` where there is no usable class.
    """

    tier: str
    posterior: list[float]
    label: int
    score: float
    path: tuple[Hop, ...]

    def answer(self) -> Answer:
        """Return the same as arrays."""
        return Answer(
            score=np.array([self.score], np.float32),
            tier=[self.tier],
            degraded=np.array([False]),
            posterior=np.array([self.posterior], np.float32),
            label=np.array([self.label]),
            path=self.path,
        )


def merge_rows(
    answer: Answer, rows: NDArray[np.intp], parts: list[Answer]
) -> tuple[tuple[Hop, ...], NDArray[np.bool_]]:
    """Write what the tier above said about `rows` into `answer`.

    Returns
    -------
    path, unused
        The longest way that any row took; and bool `[B]`, the rows on which the tier above answered NaN
        although this one has a class: they keep this one's answer.

    Raises
    ------
    UpstreamError
        `bad_answer`, before anything is written, when the parts do not fit.
    """
    for part in parts:
        if (part.outputs is None) != (answer.outputs is None):
            raise UpstreamError("bad_answer", "the tier above is of another kind (classifier or raw)")
        if part.outputs is not None and answer.outputs is not None and part.outputs.keys() != answer.outputs.keys():
            names = ", ".join(part.outputs)
            raise UpstreamError(
                "bad_answer", f"the tier above has outputs {names}; this one {', '.join(answer.outputs)}"
            )
        if part.posterior is not None and answer.posterior is not None:
            classes, own = part.posterior.shape[1], answer.posterior.shape[1]
            if classes != own:
                raise UpstreamError("bad_answer", f"the tier above has {classes} classes, this one {own}")
    outputs = _joined(parts) if answer.outputs is not None else None
    unused = np.zeros(len(answer), np.bool_)
    start = 0
    for part in parts:
        index = rows[start : start + len(part)]
        start += len(part)
        used = np.ones(len(part), np.bool_)
        if part.posterior is not None and answer.label is not None:
            used = ~np.isnan(part.posterior).any(axis=1) | (answer.label[index] == NO_LABEL)
            unused[index[~used]] = True
        answer.score[index[used]] = part.score[used]
        answer.degraded[index[used]] = part.degraded[used]
        for row in np.flatnonzero(used).tolist():
            answer.tier[index[row]] = part.tier[row]
        if answer.posterior is not None and part.posterior is not None:
            answer.posterior[index[used]] = part.posterior[used]
        if answer.label is not None and part.label is not None:
            answer.label[index[used]] = part.label[used]
        answer.reason = answer.reason or part.reason
    answer.outputs = outputs
    return max((part.path for part in parts), key=len), unused


def _joined(parts: list[Answer]) -> dict[str, NDArray[np.generic]]:
    """Return the outputs of consecutive parts, put together."""
    tables = [part.outputs for part in parts if part.outputs is not None]
    try:
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    except ValueError as error:
        raise UpstreamError("bad_answer", f"the parts of its answer do not fit together: {error}") from error
