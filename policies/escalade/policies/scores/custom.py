"""A user's own function as a score: `CustomScore`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.scores.score import Needs, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


class CustomScore(Score):
    """A function of the model's outputs, so that the model need not be a classifier.

    It may be the negated reconstruction error of an autoencoder, or the best box of a detector.

    Parameters
    ----------
    name
        As it is written in a configuration: ``module:callable``.
    function
        Takes the model's outputs, arrays by name with the rows along the first axis, and returns
        one number a row, higher = surer.

    Examples
    --------
    >>> surprise = CustomScore("anomaly:surprise", lambda outputs: -outputs["error"].mean(axis=1))
    >>> surprise.batch({"error": np.array([[0.25, 0.75], [np.nan, 0.0]])}).tolist()
    [-0.5, -inf]
    """

    needs: Needs = "outputs"

    def __init__(self, name: str, function: Callable[[Mapping[str, NDArray[Any]]], Any]) -> None:
        self.name = name
        self.function = function

    def batch(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Call the function on the model's outputs.

        Raises
        ------
        ValueError
            If what it returns is not one number a row. What the function itself raises passes through.
        """
        result = np.asarray(self.function(values))
        if result.ndim != 1 or result.dtype.kind not in "fiub":
            raise ValueError(
                f"score {self.name} must return one number a row, shape [B]; "
                f"got {result.dtype} of shape {list(result.shape)}"
            )
        with np.errstate(over="ignore"):
            score = result.astype(np.float32)
        score[np.isnan(score)] = -inf
        return score

    def one(self, row: list[float]) -> float:
        """Refuse: outputs are arrays by name, so a single input is a batch of one.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(f"score {self.name} needs the model's outputs by name: call batch on a batch of one")
