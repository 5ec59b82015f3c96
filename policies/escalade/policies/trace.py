"""What every tier said of the same labelled inputs: `Trace`, which policies are fitted to and judged by."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.errors import TraceError
from escalade.policies.scores.posterior import MAX_PROB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from escalade.policies.scores.score import Score

SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of a posterior may be: float16 rounding of a few classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What each of `T` tiers said of the same `N` inputs. The constructor trusts; `Trace.of` checks.

    Attributes
    ----------
    posteriors
        One float32 ``[N, C]`` for each tier, lowest first.
    labels
        int64 ``[N]``: the true classes.
    predictions
        One int64 ``[N]`` for each tier: the class it answered.
    logits
        float32 ``[N, C]`` for each tier, or None where the tiers gave probabilities: for the energy score.
    costs
        One a tier: what reaching it costs an input, in any one unit; an input pays for every tier it
        reaches. ``(0.01, 0.10, 1.00)`` makes the top tier a hundred times as dear as the lowest.
    names
        The tiers' names.

    Examples
    --------
    >>> trace = Trace.of([[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.7, 0.3]]], labels=[0, 0])
    >>> trace.tiers, len(trace), trace.correct(0).tolist(), trace.correct(1).tolist()
    (2, 2, [True, False], [True, True])
    >>> Trace.of([[[0.9, 0.3]]], labels=[0])
    Traceback (most recent call last):
        ...
    escalade.policies.errors.TraceError: posteriors[0], row 0: sums to 1.2, not to 1
    """

    posteriors: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]
    predictions: tuple[NDArray[np.int64], ...]
    logits: tuple[NDArray[np.float32], ...] | None
    costs: tuple[float, ...]
    names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        posteriors: Sequence[ArrayLike],
        labels: ArrayLike,
        *,
        predictions: Sequence[ArrayLike] | None = None,
        logits: Sequence[ArrayLike] | None = None,
        costs: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
    ) -> Trace:
        """Check and convert.

        Parameters
        ----------
        predictions
            Where a tier's answer is not the class of the highest probability; by default it is.
        costs
            By default 0 for the lowest tier and 1 for each above it.
        names
            By default ``tier 1`` and so on.

        Raises
        ------
        TraceError
            For the first thing wrong: no tier or row, lengths that disagree, a label that is no class, a
            posterior with ``nan``, a negative value or another sum than 1. Nothing is clipped or left out.
        """
        if not len(posteriors):
            raise TraceError("posteriors", "there is no tier")
        tiers = range(len(posteriors))
        tables = tuple(_posterior(f"posteriors[{tier}]", posteriors[tier]) for tier in tiers)
        rows, classes = tables[0].shape
        for tier in tiers:
            if tables[tier].shape != (rows, classes):
                raise TraceError(
                    f"posteriors[{tier}]", f"is {list(tables[tier].shape)}, but posteriors[0] is {[rows, classes]}"
                )
        answered = tuple(table.argmax(axis=1) for table in tables)
        if predictions is not None:
            _count("predictions", predictions, len(tables))
            answered = tuple(_classes(f"predictions[{t}]", predictions[t], rows, classes) for t in tiers)
        scores: tuple[NDArray[np.float32], ...] | None = None
        if logits is not None:
            _count("logits", logits, len(tables))
            scores = tuple(np.asarray(logits[tier], np.float32) for tier in tiers)
            for tier, table in enumerate(scores):
                if table.shape != (rows, classes):
                    raise TraceError(f"logits[{tier}]", f"is {list(table.shape)}, not {[rows, classes]}")
        prices = tuple(float(cost) for cost in costs) if costs is not None else (0.0, *([1.0] * (len(tables) - 1)))
        _count("costs", prices, len(tables))
        for tier, price in enumerate(prices):
            if not 0.0 <= price < float("inf"):
                raise TraceError("costs", f"{price} of tier {tier} is no price: give 0 or more")
        tier_names = tuple(names) if names is not None else tuple(f"tier {tier + 1}" for tier in tiers)
        _count("names", tier_names, len(tables))
        return cls(tables, _classes("labels", labels, rows, classes), answered, scores, prices, tier_names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tiers(self) -> int:
        """How many tiers there are."""
        return len(self.posteriors)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        classes: int = self.posteriors[0].shape[1]
        return classes

    def correct(self, tier: int) -> NDArray[np.bool_]:
        """Return bool ``[N]``: where the tier's own answer is right."""
        right: NDArray[np.bool_] = self.predictions[tier] == self.labels
        return right

    def score(self, tier: int, score: Score = MAX_PROB) -> NDArray[np.float32]:
        """Return float32 ``[N]``, the tier's scores; ValueError for one that needs what the trace has not."""
        if score.needs == "posterior":
            return score.batch(self.posteriors[tier])
        if score.needs == "logits" and self.logits is not None:
            return score.batch(self.logits[tier])
        raise ValueError(f"score {score.name} needs the model's {score.needs}, which the trace does not hold")

    def take(self, index: slice | NDArray[Any]) -> Trace:
        """Return the rows that `index` selects: a slice (views), a boolean mask or row numbers (copies)."""
        return Trace(
            tuple(table[index] for table in self.posteriors),
            self.labels[index],
            tuple(answer[index] for answer in self.predictions),
            None if self.logits is None else tuple(table[index] for table in self.logits),
            self.costs,
            self.names,
        )

    def above(self, tier: int) -> Trace:
        """Return the trace of the tiers from `tier` up."""
        return Trace(
            self.posteriors[tier:],
            self.labels,
            self.predictions[tier:],
            None if self.logits is None else self.logits[tier:],
            self.costs[tier:],
            self.names[tier:],
        )

    def digest(self) -> str:
        """Return the SHA-256 of labels, predictions and posteriors, 64 hexadecimal digits."""
        hashed = sha256(repr((self.names, self.posteriors[0].shape)).encode())
        for array in (self.labels, *self.predictions, *self.posteriors):
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()


def _posterior(name: str, values: ArrayLike) -> NDArray[np.float32]:
    table = np.asarray(values)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "fiu":
        raise TraceError(name, f"must be numbers of shape [N, C] with N, C >= 1, got {table.dtype} {list(table.shape)}")
    posterior: NDArray[np.float32] = table.astype(np.float32)
    total: NDArray[np.float64] = posterior.sum(axis=1, dtype=np.float64)
    _first(name, ~np.isfinite(total), lambda row: "holds a value that is no finite number")
    least: NDArray[np.float32] = posterior.min(axis=1)
    _first(name, least < 0, lambda row: f"holds {least[row]:.6g}: no probability")
    _first(name, np.abs(total - 1) > SUM_TOLERANCE, lambda row: f"sums to {total[row]:.6g}, not to 1")
    return posterior


def _classes(name: str, values: ArrayLike, rows: int, classes: int) -> NDArray[np.int64]:
    column = np.asarray(values)
    if column.shape != (rows,):
        raise TraceError(name, f"has shape {list(column.shape)}, but posteriors[0] has {rows} rows")
    if column.dtype.kind not in "iu":
        raise TraceError(name, f"must be whole numbers, got {column.dtype}")
    wide = column.astype(np.int64)
    _first(name, (wide < 0) | (wide >= classes), lambda row: f"{wide[row]} is no class of {classes}")
    return wide


def _first(name: str, bad: NDArray[np.bool_], text: Any) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise TraceError(name, text(row), row=row)


def _count(name: str, given: Sequence[object], tiers: int) -> None:
    if len(given) != tiers:
        raise TraceError(name, f"there are {len(given)} for {tiers} tiers")
