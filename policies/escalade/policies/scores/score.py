"""What a score is: `Score`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Needs = Literal["posterior", "logits", "outputs"]


class Score(ABC):
    """How sure a model is of each row: one number, higher = surer, for a policy to decide on.

    It has a form for arrays and a form for one row of plain Python floats, because the latter is
    several times faster for a single request. Both give the same float32, bit for bit.

    Attributes
    ----------
    name
        As it is written in a configuration.
    needs
        What it is computed from: ``"posterior"``, ``"logits"``, or ``"outputs"``, all outputs of the
        model by name.
    """

    name: str
    needs: Needs

    @abstractmethod
    def batch(self, values: Any) -> NDArray[np.float32]:
        """Score every row.

        Parameters
        ----------
        values
            ``[B, C]`` posteriors or logits of any float type and memory layout, or, where `needs` is
            ``"outputs"``, a mapping of the model's outputs by name.

        Returns
        -------
        NDArray
            float32 ``[B]``; ``-inf`` where there is nothing to be sure of, as in a row with ``nan``.
        """

    @abstractmethod
    def one(self, row: list[float]) -> float:
        """Score one row.

        Parameters
        ----------
        row
            ``C`` >= 1 float32 values held in Python floats, as ``array[i].tolist()`` gives them.

        Returns
        -------
        float
            A float32 value.
        """

    def __repr__(self) -> str:
        return f"<score {self.name}>"
