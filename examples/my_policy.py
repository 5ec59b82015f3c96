"""A policy of one's own: surer than usual on the classes that cost much to get wrong."""

from typing import Annotated

import numpy as np
from pydantic import Field

from escalade.policies import Action, Batch, Decisions, Policy

Share = Annotated[float, Field(ge=0, le=1)]


class CarefulClasses(Policy):
    """Accept at `threshold`, but at `careful` when the predicted class is one of `classes`."""

    def __init__(self, threshold: Share, careful: Share = 0.99, classes: list[int] = []) -> None:  # noqa: B006
        self.threshold, self.careful, self.classes = threshold, careful, classes

    def decide(self, batch: Batch) -> Decisions:
        """Return one action a row."""
        label = np.zeros(len(batch)) if batch.posterior is None else batch.posterior.argmax(axis=1)
        needed = np.where(np.isin(label, self.classes), self.careful, self.threshold).astype(np.float32)
        return Decisions.of(np.where(batch.score >= needed, Action.ACCEPT, Action.ESCALATE))
