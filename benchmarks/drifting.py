"""A stream that drifts, from the Fashion images and models, and a guarded cascade over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from escalade.policies import UNKNOWN, Batch, Feedback, Policy, Threshold, softmax
from escalade.policies.drift_guard import DriftGuard

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SEGMENTS = ("clean", "pixel noise", "rotation", "low contrast")
NOISE, ANGLE, CONTRAST = 0.15, 30.0, 0.3
AUDITED = 0.02
SETTLED = 500
"""Rows of a segment that are not judged."""

BLOCK = 10
"""Rows that are decided at once; their feedback comes before the next ones."""


@dataclass(frozen=True)
class Tiers:
    """Each tier's label and score of every image, in every segment."""

    labels: NDArray[np.int64]
    answers: dict[str, list[NDArray[np.int64]]]
    scores: dict[str, list[NDArray[np.float32]]]

    def accuracy(self, segment: str, tier: int) -> float:
        """Return the share that one tier is right on."""
        return float((self.answers[segment][tier] == self.labels).mean())


def drifting_tiers(folder: Path) -> Tiers:
    """Run the three models over the images as they are, noisy, rotated and of low contrast."""
    with np.load(folder / "traces" / "fashion_images_test.npz") as data:
        images, labels = data["X"].astype(np.float32) / 255.0, data["y"].astype(np.int64)
    noise = np.random.default_rng(0).normal(0.0, NOISE, images.shape).astype(np.float32)
    seen = (images, np.clip(images + noise, 0.0, 1.0), rotated(images, ANGLE), images * CONTRAST)
    tiers = Tiers(labels, {}, {})
    sessions = [ort.InferenceSession(str(folder / "models" / f"fashion_t{tier}.onnx")) for tier in (1, 2, 3)]
    for segment, pixels in zip(SEGMENTS, seen, strict=True):
        x = ((pixels - np.float32(0.2860)) / np.float32(0.3530)).astype(np.float32)[:, None]
        logits = [np.concatenate([s.run(None, {"x": part})[0] for part in np.split(x, 20)]) for s in sessions]
        posteriors = [softmax(table) for table in logits]
        tiers.answers[segment] = [posterior.argmax(axis=1) for posterior in posteriors]
        tiers.scores[segment] = [posterior.max(axis=1) for posterior in posteriors]
    return tiers


def rotated(images: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """Rotate ``[N, H, W]`` about the middle, by bilinear interpolation with 0 outside."""
    _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    from_y = np.clip(cos * y + sin * x + (height - 1) / 2 + 1, 0, height + 0.999)
    from_x = np.clip(cos * x - sin * y + (width - 1) / 2 + 1, 0, width + 0.999)
    top, left = from_y.astype(int), from_x.astype(int)
    down, right = (from_y - top).astype(np.float32), (from_x - left).astype(np.float32)
    above = padded[:, top, left] * (1 - right) + padded[:, top, left + 1] * right
    below = padded[:, top + 1, left] * (1 - right) + padded[:, top + 1, left + 1] * right
    turned: NDArray[np.float32] = above * (1 - down) + below * down
    return turned


def guarded(tiers: Tiers, chain: tuple[int, ...], seed: int, *, guard: bool = True) -> list[float]:
    """Return, for each segment, the points of accuracy below the best constant choice of a tier of the chain.

    An audited input goes up all the way, so that every tier learns the label above it, and is judged by what the
    cascade would have answered. The tier above's label is what the cascade from there on answers.
    """
    rng = np.random.default_rng(seed)
    policies: list[Policy] = [Threshold(0.9) for _ in chain[1:]]
    if guard:
        policies = [DriftGuard(policy) for policy in policies]
    regrets = []
    for segment in SEGMENTS:
        order = rng.permutation(len(tiers.labels))
        truth = tiers.labels[order]
        answers = [tiers.answers[segment][tier][order] for tier in chain]
        scores = [tiers.scores[segment][tier][order] for tier in chain]
        audited = rng.random(len(order)) < AUDITED
        given = np.empty(len(order), np.int64)
        for start in range(0, len(order), BLOCK):
            rows = slice(start, start + BLOCK)
            given[rows] = _block(
                policies, [a[rows] for a in answers], [s[rows] for s in scores], truth[rows], audited[rows]
            )
        right = (given == truth)[SETTLED:].mean()
        regrets.append(100 * float(max((a == truth)[SETTLED:].mean() for a in answers) - right))
    return regrets


def _block(
    policies: list[Policy],
    answers: list[NDArray[np.int64]],
    scores: list[NDArray[np.float32]],
    truth: NDArray[np.int64],
    audited: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Answer a block of inputs and feed back what each tier may know."""
    actions = [policy.decide(Batch.of(scores[tier])).action for tier, policy in enumerate(policies)]
    answer, hops = answers[-1], np.zeros(len(truth), np.int64)
    told = []
    for tier in reversed(range(len(policies))):
        told.append((tier, answer, hops + 1))
        up = actions[tier] == 1
        answer, hops = np.where(up, answer, answers[tier]), np.where(up, hops + 1, 0)
    reached = np.ones(len(truth), bool)
    for tier, above, distance in reversed(told):
        asked = (actions[tier] == 1) | audited
        known = asked & reached
        feedback = Feedback.of(
            scores[tier],
            local=answers[tier],
            action=asked.astype(np.int8),
            upper=np.where(known, above, UNKNOWN),
            hops=np.where(known, distance, 0),
            truth=np.where(audited, truth, UNKNOWN),
        )
        policies[tier].observe(feedback.take(reached))
        reached = known
    return answer
