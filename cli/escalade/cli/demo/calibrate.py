"""Choose each tier's temperature and threshold on digits that no model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo.train import TIERS
from escalade.policies import MAX_PROB, Threshold, cheapest_threshold, fit_temperature, softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_LOSS = 0.005
"""Accuracy that each of the two thresholds may give up on the calibration digits: half a point."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Temperature of each tier and threshold of each tier that can escalate.

    The thresholds are the cheapest that kept within `MAX_LOSS` on the calibration digits. That is what was
    seen there, not a promise about other digits.
    """

    temperature: dict[str, float]
    threshold: dict[str, float]

    def policies(self) -> list[Threshold]:
        """Return the policy of each tier that can escalate, lowest first: what its YAML names."""
        return [Threshold(self.threshold[tier]) for tier in TIERS[:-1]]


def calibrate(
    logits: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], max_loss: float = MAX_LOSS
) -> Calibration:
    """Fit temperatures, then thresholds from the top tier down.

    Each tier's threshold is the one that escalates least while the cascade from that tier up loses at most
    `max_loss` against the cascade from the tier above it up.

    Parameters
    ----------
    logits:
        Float32 `[N, C]` by tier, on the calibration images.
    labels:
        Int64 `[N]`, their true classes.
    max_loss:
        Share of all inputs: 0.005 is half a percentage point.
    """
    temperature = {tier: round(fit_temperature(logits[tier], labels), 3) for tier in TIERS}
    threshold = {}
    correct_above = logits[TIERS[-1]].argmax(axis=1) == labels
    for tier in reversed(TIERS[:-1]):
        score = MAX_PROB.batch(softmax(logits[tier], temperature[tier]))
        correct_here = logits[tier].argmax(axis=1) == labels
        limit = np.float32(cheapest_threshold(score, correct_here, correct_above, max_loss))
        threshold[tier] = float(str(limit))  # the shortest decimal that is this float32: the YAML shows it
        correct_above = np.where(score >= limit, correct_here, correct_above)
    return Calibration(temperature, {tier: threshold[tier] for tier in TIERS[:-1]})
