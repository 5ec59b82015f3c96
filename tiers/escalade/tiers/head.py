"""From a model's outputs to what a policy decides on: posterior, label and score."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from escalade.policies import Score, posterior_one, softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.model import OnnxModel

    Row = tuple[list[float] | None, int, float]
    Rows = tuple[NDArray[np.float32] | None, NDArray[np.int64] | None, NDArray[np.float32]]

log = structlog.get_logger(__name__)

NO_SCORE = float("-inf")
WIDE = 150
"""Above so many classes numpy is faster than plain Python, even for one row."""


class Head:
    """Reads the outputs of one model.

    Parameters
    ----------
    model:
        Whose outputs; all of them are asked for only where something needs them.
    temperature:
        Divides the logits (or log-probabilities) before softmax.
    score:
        The confidence.

    Attributes
    ----------
    on_score_error:
        Told what the user's own score raised; the rows then count as not confident.
    """

    def __init__(self, model: OnnxModel, temperature: float, score: Score) -> None:
        self._kind = model.output_kind
        if score.needs != "outputs" and self._kind != "raw":
            model.only_main_output()
        self._names, self._main = model.output_names, model.main
        self._temperature, self._score, self._needs = temperature, score, score.needs
        self._softmax = self._kind == "logits" or temperature != 1.0
        self._wide = model.classes > WIDE
        self.on_score_error: Callable[[Exception], object] = lambda error: log.error("score failed", error=repr(error))

    def one(self, outputs: list[NDArray[Any]]) -> Row:
        """Return posterior, label and score of a single row as plain Python values (the hot path)."""
        if self._kind == "raw":
            return None, -1, float(self._custom(outputs)[0])
        if self._wide:
            rows, labels, scores = self.many(outputs)
            assert rows is not None
            assert labels is not None
            return rows[0].tolist(), int(labels[0]), float(scores[0])
        values: list[float] = outputs[self._main][0].tolist()
        if not self._softmax:
            posterior = values = outputs[self._main][0].astype(np.float32).tolist()
        elif self._kind == "logits":
            posterior = posterior_one(values, self._temperature)
        else:
            posterior = posterior_one(_log(np.asarray(values)).tolist(), self._temperature)
        if not isfinite(sum(posterior)):
            return posterior, -1, NO_SCORE
        if self._needs == "posterior":
            score = self._score.one(posterior)
        elif self._needs == "logits":
            score = self._score.one(values)
        else:
            score = float(self._custom(outputs)[0])
        return posterior, posterior.index(max(posterior)), score

    def many(self, outputs: list[NDArray[Any]]) -> Rows:
        """Return posteriors `[B, C]`, labels `[B]` and scores `[B]`; None for what a raw model has not."""
        if self._kind == "raw":
            return None, None, self._custom(outputs)
        values = outputs[self._main]
        if not self._softmax:
            posterior = np.array(values, np.float32)
        else:
            posterior = softmax(values if self._kind == "logits" else _log(values), self._temperature)
        if self._needs == "outputs":
            score = self._custom(outputs)
        else:
            score = self._score.batch(posterior if self._needs == "posterior" else values)
        usable = np.isfinite(posterior).all(axis=1)
        label = np.where(usable, posterior.argmax(axis=1), -1)
        return posterior, label, np.where(usable, score, np.float32(NO_SCORE))

    def _custom(self, outputs: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the user's own score; what it cannot score is not confident."""
        rows = len(outputs[0])
        try:
            score = self._score.batch(dict(zip(self._names, outputs, strict=True)))
            if len(score) == rows:
                return score
            raise ValueError(f"score {self._score.name} gave {len(score)} numbers for {rows} rows")
        except Exception as error:  # noqa: BLE001  # a user's score may raise anything and must not stop the tier
            self.on_score_error(error)
            return np.full(rows, NO_SCORE, np.float32)


def _log(posterior: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        logits: NDArray[np.float64] = np.log(np.asarray(posterior, np.float64))
    return logits
