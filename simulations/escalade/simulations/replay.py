"""Run policies over recorded traffic: what would they have answered, where, and what would it have sent up.

A recording holds what every tier says about the same inputs, so any set of policies can be tried on it in
milliseconds, by the same policy objects that decide in the services.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
    logits:
        Float32 `[N, C]` for each tier, for scores that need them.
    predictions:
        Int64 `[N]` for each tier, where its answer is not the class of the highest probability.
    time_s:
        Float64 `[N]`, when each input arrived; else all arrive at 0.
    row_bytes:
        Float64 `[N, hops]`, where the bytes of a hop differ from input to input; takes the place of `hop_bytes`.
    latency_ms:
        For each tier, the time that asking it takes: it shortens what is left of the deadline, and the
        policies are told that of the tier above.
    deadline_ms:
        Time that every input has.

    Raises
    ------
    ValueError
        The parts do not fit each other.
    """

    tiers: tuple[str, ...]
    posteriors: tuple[NDArray[np.float32], ...]
    labels: NDArray[np.int64]
    hop_bytes: tuple[float, ...]
    logits: tuple[NDArray[np.float32], ...] | None = None
    predictions: tuple[NDArray[np.int64], ...] | None = None
    time_s: NDArray[np.float64] | None = None
    row_bytes: NDArray[np.float64] | None = None
    latency_ms: tuple[float, ...] | None = None
    deadline_ms: float = float("inf")

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
        for name, parts in (
            ("logits", self.logits),
            ("predictions", self.predictions),
            ("latency_ms", self.latency_ms),
        ):
            if parts is not None and len(parts) != len(self.tiers):
                raise ValueError(f"{len(self.tiers)} tiers need as many {name}, got {len(parts)}")
        if self.row_bytes is not None and self.row_bytes.shape != (len(self), len(self.hop_bytes)):
            raise ValueError(
                f"row_bytes must have shape {(len(self), len(self.hop_bytes))}, got {self.row_bytes.shape}"
            )
        if self.time_s is not None and len(self.time_s) != len(self):
            raise ValueError(f"{len(self)} inputs need as many time_s, got {len(self.time_s)}")

    def __len__(self) -> int:
        return len(self.labels)

    def above(self) -> Recording:
        """Return the recording without its lowest tier."""
        return replace(
            self,
            tiers=self.tiers[1:],
            posteriors=self.posteriors[1:],
            hop_bytes=self.hop_bytes[1:],
            logits=None if self.logits is None else self.logits[1:],
            predictions=None if self.predictions is None else self.predictions[1:],
            row_bytes=None if self.row_bytes is None else self.row_bytes[:, 1:],
            latency_ms=None if self.latency_ms is None else self.latency_ms[1:],
        )

    def answered(self, tier: int) -> NDArray[np.int64]:
        """Return int64 `[N]`, the class that a tier answers."""
        if self.predictions is not None:
            return self.predictions[tier]
        answer: NDArray[np.int64] = self.posteriors[tier].argmax(axis=1)
        return answer

    def scores(self, tier: int, score: Score) -> NDArray[np.float32]:
        """Return float32 `[N]`, a tier's scores; ValueError for one that needs what was not recorded."""
        if score.needs == "posterior":
            return score.batch(self.posteriors[tier])
        if score.needs == "logits" and self.logits is not None:
            return score.batch(self.logits[tier])
        raise ValueError(f"score {score.name} needs the models' {score.needs}, which were not recorded")

    def sent(self, hop: int) -> NDArray[np.float64]:
        """Return float64 `[N]`, bytes that each input sends when it goes up from tier `hop`."""
        return np.full(len(self), self.hop_bytes[hop]) if self.row_bytes is None else self.row_bytes[:, hop]

    def batch(self, tier: int, rows: NDArray[Any], score: Score, uniform: NDArray[np.float64]) -> Batch:
        """Return what the policy of a tier is told of these rows."""
        spent_ms, upstream_ms = 0.0, float("nan")
        if self.latency_ms is not None:
            spent_ms = sum(self.latency_ms[1 : tier + 1])
            upstream_ms = self.latency_ms[tier + 1]
        return Batch.of(
            self.scores(tier, score)[rows],
            self.posteriors[tier][rows],
            time_s=0.0 if self.time_s is None else self.time_s[rows],
            uniform=uniform,
            remaining_ms=self.deadline_ms - spent_ms,
            bytes_up=np.round(self.sent(tier)[rows]).astype(np.int64),
            upstream_ms=upstream_ms,
        )


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
    reached:
        Int8 `[N]`, index of the highest tier that was asked; that of `tier` unless a policy abstained.
    """

    tiers: tuple[str, ...]
    tier: NDArray[np.int8]
    label: NDArray[np.int64]
    correct: NDArray[np.bool_]
    bytes_up: NDArray[np.float64]
    reached: NDArray[np.int8]

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
    No clock runs: inputs arrive when the recording says, every tier can be reached and nothing queues. A
    `sequential` policy decides the rows in their order; no policy's state is changed.
    """
    if len(policies) != len(recording.tiers) - 1:
        raise ValueError(f"{len(recording.tiers)} tiers need {len(recording.tiers) - 1} policies, got {len(policies)}")
    n, rng = len(recording), np.random.default_rng(seed)
    tier = np.full(n, NO_ANSWER, np.int8)
    label = np.full(n, NO_ANSWER, np.int64)
    bytes_up, reached = np.zeros(n), np.zeros(n, np.int8)
    here = np.arange(n)
    for index in range(len(recording.tiers)):
        if index < len(policies):
            action = policies[index].decide(recording.batch(index, here, score, rng.random(len(here)))).action
        else:
            action = np.full(len(here), Action.ACCEPT, np.int8)
        answered, up = action == Action.ACCEPT, (action == Action.ESCALATE) | (action == Action.DEFER)
        tier[here[answered]] = index
        label[here[answered]] = recording.answered(index)[here[answered]]
        here = here[up]
        if index < len(policies):
            reached[here] = index + 1
            bytes_up[here] += recording.sent(index)[here]
    correct = (tier != NO_ANSWER) & (label == recording.labels)
    return Replayed(recording.tiers, tier, label, correct, bytes_up, reached)


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
    batch = Batch.of(recording.scores(0, score), recording.posteriors[0])
    accepted = np.stack([Threshold(float(value)).decide(batch).action == Action.ACCEPT for value in values])
    above = replay(recording.above(), policies_above, score=score, seed=seed)
    correct = np.where(accepted, recording.answered(0) == recording.labels, above.correct)
    sent = np.where(accepted, 0.0, recording.sent(0) + above.bytes_up)
    return Curve(values, (~accepted).mean(axis=1), correct.mean(axis=1), sent.sum(axis=1))


def _share(rows: NDArray[np.bool_]) -> float:
    return float(rows.mean()) if len(rows) else float("nan")
