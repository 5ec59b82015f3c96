"""What a policy learns from: `Feedback` on single inputs, `Telemetry` of a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.types import column, taken

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

UNKNOWN = -1
"""In a column of labels: nobody said."""


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What became of inputs that were decided on earlier, one row each.

    Rows arrive late, in any order and incomplete: a label is `UNKNOWN` where nobody gave one. Without an
    audit the only label beside the tier's own is that of the tier above, and only where it was asked. The
    constructor trusts its arguments; `Feedback.of` checks and converts them.

    Attributes
    ----------
    score
        float32 ``[B]``, this tier's, as it was decided on.
    action
        int8 ``[B]``, values of `Action`: what was done.
    propensity
        float64 ``[B]`` in (0, 1]: how probable that was.
    local, upper, truth
        int64 ``[B]``, classes: this tier's own label; the label of the tier that answered above, else
        `UNKNOWN`; the true one where an audit gave it, else `UNKNOWN`.
    hops
        int64 ``[B]``: how many tiers further up `upper` comes from; 0 where it is `UNKNOWN`.
    posterior
        float32 ``[B, C]``, this tier's, or None.
    time_s
        float64 ``[B]``: when the input arrived.
    upstream_ms
        float64 ``[B]``: how long the tier above took, ``nan`` where it was not asked or gave no answer.
    device
        int64 ``[B]``, as in `Context`.

    Examples
    --------
    >>> feedback = Feedback.of([0.9, 0.3], local=[1, 2], action=[0, 1], upper=[UNKNOWN, 0], hops=[0, 1])
    >>> feedback.best_label().tolist()
    [-1, 0]
    """

    score: NDArray[np.float32]
    action: NDArray[np.int8]
    propensity: NDArray[np.float64]
    local: NDArray[np.int64]
    upper: NDArray[np.int64]
    truth: NDArray[np.int64]
    hops: NDArray[np.int64]
    posterior: NDArray[np.float32] | None
    time_s: NDArray[np.float64]
    upstream_ms: NDArray[np.float64]
    device: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        score: ArrayLike,
        *,
        local: ArrayLike,
        action: ArrayLike,
        propensity: ArrayLike = 1.0,
        upper: ArrayLike = UNKNOWN,
        truth: ArrayLike = UNKNOWN,
        hops: ArrayLike = 0,
        posterior: ArrayLike | None = None,
        time_s: ArrayLike = 0.0,
        upstream_ms: ArrayLike = nan,
        device: ArrayLike = 0,
    ) -> Feedback:
        """Make feedback from anything array-like; a scalar stands for a column of that value.

        Raises
        ------
        ValueError
            If the columns' lengths differ or a value cannot be converted; the text names the column.
        """
        scores = np.atleast_1d(np.asarray(score, np.float32))
        rows = len(scores)
        return cls(
            column("score", scores, np.float32, rows),
            column("action", action, np.int8, rows),
            column("propensity", propensity, np.float64, rows),
            column("local", local, np.int64, rows),
            column("upper", upper, np.int64, rows),
            column("truth", truth, np.int64, rows),
            column("hops", hops, np.int64, rows),
            None if posterior is None else np.asarray(posterior, np.float32).reshape(rows, -1),
            column("time_s", time_s, np.float64, rows),
            column("upstream_ms", upstream_ms, np.float64, rows),
            column("device", device, np.int64, rows),
        )

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: slice | list[int] | NDArray[Any]) -> Feedback:
        """Return the rows that `index` selects: a slice (views), a boolean mask or row numbers (copies)."""
        return Feedback(**taken(self, index))

    def best_label(self) -> NDArray[np.int64]:
        """Return int64 ``[B]``: the true label where an audit gave it, else the upper tier's, else `UNKNOWN`."""
        return np.where(self.truth == UNKNOWN, self.upper, self.truth)


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """How a fleet fared over the last control interval.

    Attributes
    ----------
    time_s, interval_s
        The end of the interval and its length, seconds.
    device, device_class
        int64 ``[D]``: each device's number and the class that it belongs to.
    answered, in_time, escalated
        int64 ``[D]``, counts of the interval: inputs answered, those of them within their service level
        objective, those escalated.
    upstream_load
        Work offered to the tier above as a share of what it can do, above 1 when it saturates; ``nan``
        when unknown.
    upstream_ms
        Latency of the tier above at its 95th percentile over the interval, ``nan`` when unknown.
    """

    time_s: float
    interval_s: float
    device: NDArray[np.int64]
    device_class: NDArray[np.int64]
    answered: NDArray[np.int64]
    in_time: NDArray[np.int64]
    escalated: NDArray[np.int64]
    upstream_load: float = nan
    upstream_ms: float = nan
