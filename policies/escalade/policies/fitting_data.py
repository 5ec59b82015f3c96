"""What a fit takes from a trace, checked: `FittingData`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from escalade.policies.errors import FitError, TraceError
from escalade.policies.scores.loading import load_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.trace import Trace

Loss = Literal["regret", "net", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class FittingData:
    """Columns of the tiers that decide, and of all of them.

    Attributes
    ----------
    scores, predicted
        One float32 and one int64 ``[N]`` for each tier but the highest.
    correct
        bool ``[K + 1, N]``: where each tier's answer is right.
    costs
        Price of reaching each tier.
    """

    scores: tuple[NDArray[np.float32], ...]
    predicted: tuple[NDArray[np.int64], ...]
    correct: NDArray[np.bool_]
    costs: tuple[float, ...]

    @classmethod
    def of(cls, trace: Trace, score: str, level: int) -> FittingData:
        """Take the columns of a trace.

        Raises
        ------
        TraceError
            If there are fewer tiers than a policy at `level` needs, the labels are all of one class, or a
            row has no finite score.
        FitError
            If the score cannot be computed from this trace.
        """
        if trace.tiers < level + 2:
            raise TraceError(
                "posteriors",
                f"a policy at level {level} needs {level + 2} tiers or more, its own and one above, got {trace.tiers}",
            )
        if (trace.labels == trace.labels[0]).all():
            raise TraceError(
                "labels",
                f"all {len(trace)} rows are of class {trace.labels[0]}: data of one class say nothing of the others",
            )
        deciding = range(trace.tiers - 1)
        try:
            kind = load_score(score, "posterior" if trace.logits is None else "logits")
            scores = tuple(trace.score(tier, kind) for tier in deciding)
        except ValueError as error:
            raise FitError(str(error)) from error
        for tier, column in enumerate(scores):
            if not np.isfinite(column).all():
                row = int(np.flatnonzero(~np.isfinite(column))[0])
                raise TraceError(f"posteriors[{tier}]", f"the score {score} is {column[row]}", row=row)
        correct = np.stack([trace.correct(tier) for tier in range(trace.tiers)])
        return cls(scores, tuple(trace.predictions[tier] for tier in deciding), correct, trace.costs)

    def __len__(self) -> int:
        return int(self.correct.shape[1])

    def take(self, rows: NDArray[np.int64]) -> FittingData:
        """Return some of the rows."""
        return FittingData(
            tuple(column[rows] for column in self.scores),
            tuple(column[rows] for column in self.predicted),
            self.correct[:, rows],
            self.costs,
        )

    def lost(self, tier: int) -> NDArray[np.bool_]:
        """Return bool ``[N]``: where the top tier is right and this one wrong."""
        lost: NDArray[np.bool_] = self.correct[-1] & ~self.correct[tier]
        return lost

    def losses(self, loss: Loss) -> tuple[NDArray[np.float64], ...]:
        """Return the counts that a loss is made of, each float64 ``[K + 1, N]``: what each tier's answer loses.

        ``regret``: top right, answer wrong. ``net``: that, and the other way round. ``error``: answer wrong.
        """
        lost = (self.correct[-1] & ~self.correct).astype(np.float64)
        if loss == "regret":
            return (lost,)
        if loss == "net":
            return lost, (~self.correct[-1] & self.correct).astype(np.float64)
        return ((~self.correct).astype(np.float64),)
