"""Run policies over recorded traffic: what would they have answered, where, and what would it have sent up.

A recording holds what every tier says about the same inputs, so any set of policies can be tried on it in
milliseconds, by the same policy objects that decide in the services.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import MAX_PROB, Action, Batch, Threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from escalade.policies import Policy, Score

NO_ANSWER = -1
"""Index of the tier, and label, of a row on which the last policy asked abstained."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What every tier says about the same `N` inputs.

    Parameters
    ----------
    tiers:
        Names, lowest first.
    posteriors:
        One array float32 `[N, C]` for each tier.
    labels:
        The true classes, int64 `[N]`.
    hop_bytes:
        Bytes that sending one input from each tier to the next takes; one fewer than tiers.

    Raises
    ------
    ValueError
        The parts do not fit each other.
    """

    tiers: tuple[str, ...]
    posteriors: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]
    hop_bytes: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tiers or len(self.posteriors) != len(self.tiers) or len(self.hop_bytes) != len(self.tiers) - 1:
            raise ValueError(
                f"{len(self.tiers)} tiers need as many posteriors and one fewer hop_bytes; "
                f"got {len(self.posteriors)} and {len(self.hop_bytes)}"
            )
        for tier, posterior in zip(self.tiers, self.posteriors, strict=True):
            if posterior.ndim != 2 or len(posterior) != len(self.labels):
                expected = f"({len(self.labels)}, classes)"
                raise ValueError(f"{tier}: a posterior must have shape {expected}, got {posterior.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    def above(self) -> Recording:
        """Return the recording without its lowest tier."""
        return Recording(self.tiers[1:], self.posteriors[1:], self.labels, self.hop_bytes[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Where each input ended and what came of it.

    Attributes
    ----------
    tiers:
        Names, lowest first.
    tier:
        Int8 `[N]`, index into `tiers` of the tier that answered; `NO_ANSWER` where a policy abstained.
    label:
        Int64 `[N]`, the class answered; `NO_ANSWER` where there is none.
    correct:
        Bool `[N]`; a row without an answer is not correct.
    bytes_up:
        Float64 `[N]`, bytes that each input sent up, over all hops.
    """

    tiers: tuple[str, ...]
    tier: NDArray[np.int8]
    label: NDArray[np.int64]
    correct: NDArray[np.bool_]
    bytes_up: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Share of all inputs answered with their true class; nan without inputs."""
        return _share(self.correct)

    @property
    def share(self) -> dict[str, float]:
        """Share of the inputs answered by each tier; nan without inputs."""
        return {name: _share(self.tier == index) for index, name in enumerate(self.tiers)}

    @property
    def accuracy_by_tier(self) -> dict[str, float]:
        """Accuracy of each tier on the inputs that it answered; tiers that answered none are left out."""
        return {
            name: _share(self.correct[self.tier == index])
            for index, name in enumerate(self.tiers)
            if (self.tier == index).any()
        }


def replay(recording: Recording, policies: Sequence[Policy], *, score: Score = MAX_PROB, seed: int = 0) -> Replayed:
    """Send every recorded input up until a policy accepts it; the highest tier answers what reaches it.

    Each policy sees only the inputs that reach its tier, in one batch. `DEFER` goes up as `ESCALATE` does
    (the correction counts, not the provisional answer); `ABSTAIN` ends without an answer.

    Parameters
    ----------
    recording:
        What the tiers say.
    policies:
        One for each tier but the highest, lowest first.
    score:
        The confidence that the policies are given.
    seed:
        Seed of the uniform number that each input brings to each policy.

    Notes
    -----
    No clock runs: `time_s` is 0, deadlines are infinite and every tier can be reached.
    """
    if len(policies) != len(recording.tiers) - 1:
        raise ValueError(f"{len(recording.tiers)} tiers need {len(recording.tiers) - 1} policies, got {len(policies)}")
    n, rng = len(recording), np.random.default_rng(seed)
    tier = np.full(n, NO_ANSWER, np.int8)
    label = np.full(n, NO_ANSWER, np.int64)
    bytes_up = np.zeros(n)
    here = np.arange(n)
    for index, posterior in enumerate(recording.posteriors):
        at_tier = posterior[here]
        if index < len(policies):
            action = _decide(policies[index], at_tier, score, recording.hop_bytes[index], rng)
        else:
            action = np.full(len(here), Action.ACCEPT, np.int8)
        answered, up = action == Action.ACCEPT, (action == Action.ESCALATE) | (action == Action.DEFER)
        tier[here[answered]] = index
        label[here[answered]] = at_tier[answered].argmax(axis=1)
        here = here[up]
        if index < len(policies):
            bytes_up[here] += recording.hop_bytes[index]
    correct = (tier != NO_ANSWER) & (label == recording.labels)
    return Replayed(recording.tiers, tier, label, correct, bytes_up)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What each of `K` thresholds at the lowest tier would give; all columns float64 `[K]`.

    `share_escalated` counts the inputs that leave the lowest tier; `bytes_up` is over all inputs and hops.
    """

    threshold: NDArray[np.float64]
    share_escalated: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    bytes_up: NDArray[np.float64]


def threshold_curve(
    recording: Recording,
    thresholds: ArrayLike,
    policies_above: Sequence[Policy],
    *,
    score: Score = MAX_PROB,
    seed: int = 0,
) -> Curve:
    """Replay a `Threshold` at the lowest tier for many thresholds at once, the policies above it unchanged.

    The tiers above are replayed once over all inputs, so their policies must decide each input by itself: a
    policy that looks at the whole batch (a budget over it) needs `replay` for each threshold.
    """
    values = np.atleast_1d(np.asarray(thresholds, np.float64))
    lowest = recording.posteriors[0]
    scores = score.batch(lowest)
    batch = Batch.of(scores, lowest)
    accepted = np.stack([Threshold(float(value)).decide(batch).action == Action.ACCEPT for value in values])
    above = replay(recording.above(), policies_above, score=score, seed=seed)
    correct = np.where(accepted, lowest.argmax(axis=1) == recording.labels, above.correct)
    sent = np.where(accepted, 0.0, recording.hop_bytes[0] + above.bytes_up)
    return Curve(values, (~accepted).mean(axis=1), correct.mean(axis=1), sent.sum(axis=1))


def _share(rows: NDArray[np.bool_]) -> float:
    return float(rows.mean()) if len(rows) else float("nan")


def _decide(
    policy: Policy, posterior: NDArray[np.float32], score: Score, hop_bytes: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    batch = Batch.of(score.batch(posterior), posterior, uniform=rng.random(len(posterior)), bytes_up=round(hop_bytes))
    return policy.decide(batch).action
