"""What a policy is told and what it answers: `Batch` and `Context` in, `Decisions` and `Action` out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray


class Action(IntEnum):
    """What to do with one input. The numbers are what `Decisions.action` holds."""

    ACCEPT = 0  #: answer here
    ESCALATE = 1  #: ask the tier above
    DEFER = 2  #: answer provisionally now, escalate later
    ABSTAIN = 3  #: give no answer


class Context:
    """What is known of one input besides its score, as plain Python values.

    Parameters
    ----------
    time_s
        When the input arrived, seconds since the epoch (or since the start of a simulation).
    uniform
        The input's own random number in [0, 1): the only randomness a policy may use.
    remaining_ms
        Time left until the deadline, ``inf`` without one.
    bytes_up
        Bytes that escalating this input would send.
    upstream_ms
        Recent latency of the tier above, ``nan`` when unknown.
    posterior
        Class probabilities, or None where the model gives none.
    device
        Number of the device that the input came from; 0 where there is but one.
    upstream_load
        How full the tier above said to be lately: 0.0 unknown or idle, 1.0 it refused for overload.
    """

    __slots__ = (
        "bytes_up",
        "device",
        "posterior",
        "remaining_ms",
        "time_s",
        "uniform",
        "upstream_load",
        "upstream_ms",
    )

    def __init__(
        self,
        time_s: float = 0.0,
        uniform: float = 0.5,
        remaining_ms: float = inf,
        bytes_up: int = 0,
        upstream_ms: float = nan,
        posterior: list[float] | None = None,
        device: int = 0,
        upstream_load: float = 0.0,
    ) -> None:
        self.time_s = time_s
        self.uniform = uniform
        self.remaining_ms = remaining_ms
        self.bytes_up = bytes_up
        self.upstream_ms = upstream_ms
        self.posterior = posterior
        self.device = device
        self.upstream_load = upstream_load

    def __repr__(self) -> str:
        return f"Context({', '.join(f'{name}={getattr(self, name)!r}' for name in sorted(self.__slots__))})"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs to decide on, one row each, as columns of equal length ``B``.

    The constructor trusts its arguments; `Batch.of` checks and converts them. The columns may be
    views of arrays that others read too, so nobody writes to them.

    Attributes
    ----------
    score
        float32 ``[B]``, higher = surer; a row without a usable score holds ``-inf``.
    posterior
        float32 ``[B, C]`` class probabilities, or None where the model gives none.
    time_s, uniform, remaining_ms, upstream_ms, upstream_load
        float64 ``[B]``; meaning and units as in `Context`.
    bytes_up, device
        int64 ``[B]``; as in `Context`.

    Examples
    --------
    >>> batch = Batch.of([0.9, 0.25], uniform=[0.1, 0.7], bytes_up=64)
    >>> len(batch), batch.bytes_up.tolist()
    (2, [64, 64])
    >>> score, context = batch.row(1)
    >>> score, context.uniform
    (0.25, 0.7)
    """

    score: NDArray[np.float32]
    posterior: NDArray[np.float32] | None
    time_s: NDArray[np.float64]
    uniform: NDArray[np.float64]
    remaining_ms: NDArray[np.float64]
    bytes_up: NDArray[np.int64]
    upstream_ms: NDArray[np.float64]
    device: NDArray[np.int64]
    upstream_load: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        score: ArrayLike,
        posterior: ArrayLike | None = None,
        *,
        time_s: ArrayLike = 0.0,
        uniform: ArrayLike = 0.5,
        remaining_ms: ArrayLike = inf,
        bytes_up: ArrayLike = 0,
        upstream_ms: ArrayLike = nan,
        device: ArrayLike = 0,
        upstream_load: ArrayLike = 0.0,
    ) -> Batch:
        """Make a batch from anything array-like; a scalar stands for a column of that value.

        Raises
        ------
        ValueError
            If a column's length differs from that of `score`, if `score` is not ``[B]`` or
            `posterior` not ``[B, C]``, or if a value cannot be converted. The text names the column.
        """
        scores = _converted("score", score, np.float32)
        if scores.ndim != 1:
            raise ValueError(f"column 'score' must have shape [B], got {list(scores.shape)}")
        rows = len(scores)
        probabilities = None
        if posterior is not None:
            probabilities = _converted("posterior", posterior, np.float32)
            if probabilities.ndim != 2:
                raise ValueError(f"column 'posterior' must have shape [B, C], got {list(probabilities.shape)}")
            _same_length("posterior", len(probabilities), rows)
        return cls(
            scores,
            probabilities,
            column("time_s", time_s, np.float64, rows),
            column("uniform", uniform, np.float64, rows),
            column("remaining_ms", remaining_ms, np.float64, rows),
            column("bytes_up", bytes_up, np.int64, rows),
            column("upstream_ms", upstream_ms, np.float64, rows),
            column("device", device, np.int64, rows),
            column("upstream_load", upstream_load, np.float64, rows),
        )

    @classmethod
    def of_row(cls, score: float, context: Context) -> Batch:
        """Make the batch of one that holds this row: the inverse of `row`."""
        posterior = None if context.posterior is None else np.array([context.posterior], np.float32)
        return cls(
            np.array([score], np.float32),
            posterior,
            np.array([context.time_s], np.float64),
            np.array([context.uniform], np.float64),
            np.array([context.remaining_ms], np.float64),
            np.array([context.bytes_up], np.int64),
            np.array([context.upstream_ms], np.float64),
            np.array([context.device], np.int64),
            np.array([context.upstream_load], np.float64),
        )

    def __len__(self) -> int:
        return len(self.score)

    def row(self, index: int) -> tuple[float, Context]:
        """Return one row's score and context as plain Python values."""
        return float(self.score[index]), Context(
            float(self.time_s[index]),
            float(self.uniform[index]),
            float(self.remaining_ms[index]),
            int(self.bytes_up[index]),
            float(self.upstream_ms[index]),
            None if self.posterior is None else self.posterior[index].tolist(),
            int(self.device[index]),
            float(self.upstream_load[index]),
        )

    def take(self, index: slice | list[int] | NDArray[Any]) -> Batch:
        """Return the rows that `index` selects: a slice (views), a boolean mask or row numbers (copies)."""
        return Batch(**taken(self, index))


@dataclass(slots=True, eq=False)
class Decisions:
    """What a policy decided, one row for each row of the batch.

    Attributes
    ----------
    action
        int8 ``[B]``, values of `Action`.
    propensity
        float64 ``[B]``: the probability, over `Batch.uniform`, of having taken this action for this
        row; 1.0 for a deterministic policy. Recorded traffic needs it to evaluate another policy.
    """

    action: NDArray[np.int8]
    propensity: NDArray[np.float64]

    @classmethod
    def of(cls, action: ArrayLike) -> Decisions:
        """Make decisions that were certain: propensity 1.

        Examples
        --------
        >>> Decisions.of([Action.ACCEPT, Action.ESCALATE]).propensity.tolist()
        [1.0, 1.0]
        """
        actions = np.asarray(action, dtype=np.int8)
        return cls(actions, np.ones(len(actions)))

    def __len__(self) -> int:
        return len(self.action)


def _converted(name: str, value: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype == dtype:
        return array
    if dtype is np.int64 and array.size and array.dtype.kind not in "iu":
        raise ValueError(f"column '{name}' must hold whole numbers, got {array.dtype}")
    try:
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column '{name}' cannot be converted to {np.dtype(dtype)}: {error}") from error


def column(name: str, value: ArrayLike, dtype: DTypeLike, rows: int) -> NDArray[Any]:
    """Convert to `rows` values of `dtype`; one number stands for a column of it. ValueError names the column."""
    array = _converted(name, value, dtype)
    if array.ndim == 0:  # one number repeated without storing it `rows` times
        column: NDArray[Any] = np.ndarray((rows,), dtype, array.copy(), strides=(0,))
        column.flags.writeable = False
        return column
    if array.ndim != 1:
        raise ValueError(f"column '{name}' must have shape [B] or be one number, got {list(array.shape)}")
    _same_length(name, len(array), rows)
    return array


def taken(table: Any, index: slice | list[int] | NDArray[Any]) -> dict[str, Any]:
    """Return the columns of a dataclass of columns, by name, at the rows that `index` selects; None stays None."""
    columns = {field.name: getattr(table, field.name) for field in fields(table)}
    return {name: None if c is None else c[index] for name, c in columns.items()}


def _same_length(name: str, length: int, rows: int) -> None:
    if length != rows:
        raise ValueError(f"column '{name}' has {length} rows, but 'score' has {rows}")
