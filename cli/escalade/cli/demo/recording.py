"""What every tier says about the test images, beside what the running fleet answered: the input of replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo.export import logits
from escalade.cli.demo.train import TIERS
from escalade.policies import softmax
from escalade.simulations.replay import Recording

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from escalade.cli.demo.calibrate import Calibration
    from escalade.cli.demo.data import Split
    from escalade.cli.demo.run import Answers
    from escalade.cli.demo.strategies import Measured
    from escalade.simulations.replay import Replayed


def record(
    files: Mapping[str, Path], calibration: Calibration, split: Split, cascade: Measured, top: Measured
) -> Recording:
    """Run every tier's model over a split; the bytes of a hop are those that the cascade's processes counted.

    A hop that no image of the cascade took is given the bytes of `top`, which sends every image up once.
    """
    posteriors = tuple(
        softmax(logits(tier, files[tier], split.images), calibration.temperature[tier]) for tier in TIERS
    )
    hop_bytes = []
    left = np.ones(len(split), np.bool_)
    for tier in TIERS[:-1]:
        left &= cascade.answers.tier != tier
        sent = cascade.bytes_up_by_tier[tier] / left.sum() if left.any() else top.bytes_up / len(split)
        hop_bytes.append(float(sent))
    return Recording(TIERS, posteriors, split.labels, tuple(hop_bytes))


def agreement(replayed: Replayed, answers: Answers) -> int:
    """Count the images that replay answers at the same tier, with the same class, as the processes did."""
    same_tier = np.asarray(replayed.tiers)[replayed.tier] == answers.tier
    return int((same_tier & (replayed.label == answers.label)).sum())


def save(file: Path, recording: Recording, answers: Answers) -> None:
    """Write everything that replay needs, and the measured answers, as one compressed numpy file."""
    np.savez_compressed(
        file,
        tiers=np.array(recording.tiers),
        labels=recording.labels,
        hop_bytes=np.array(recording.hop_bytes),
        measured_tier=answers.tier,
        measured_label=answers.label,
        posteriors=np.stack(recording.posteriors),
    )
