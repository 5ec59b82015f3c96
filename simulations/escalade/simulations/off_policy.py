"""What would policy B have done on traffic recorded under policy A: `estimate`.

Notation: an input x with its truth y, this tier's own answer, and that of the tier above where A asked.
``r_accept`` is 1 where the own answer is right, ``r_escalate`` where the one from above is. B's accuracy is the
mean of ``sum over a of P_B(a | x) r_a``. What B would do is known for every recorded input; what it would have
earned is not: the tier above was asked on the inputs that A sent up. On these, each with the weight
``w = 1 / P_A(escalate | x)``, ``r_escalate`` is known. ``r_accept`` is known wherever the truth is; without any,
the upper tier's answer stands for it, and ``r_accept`` too is known only where A escalated.

Two estimates of each action's part:

- self-normalised importance sampling, ``mean(P_B) * sum(w P_B r) / sum(w P_B)`` over the known rows
  (Swaminathan and Joachims 2015, "The self-normalized estimator for counterfactual learning");
- doubly robust, ``mean(P_B q(x)) + mean(w P_B (r - q(x)))`` with q the mean of r at scores like this one, fitted on
  the other half of the rows (Dudik, Langford and Li 2011, "Doubly robust policy evaluation and learning").

Refused, with the reason: weights that A's propensities do not give (inputs that A never sent up and B needs
known), too few effective rows, too many questions that were never answered. Not promised: anything for traffic
unlike the recorded, or when escalating changes what arrives later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import UNKNOWN, Action, Batch, FitError
from escalade.simulations.bootstrap import RESAMPLES, interval, resampled_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Policy

MIN_EFFECTIVE_ROWS = 50
"""Fewer effective rows than this are refused: their interval means nothing."""

MAX_UNANSWERED = 0.2
"""Of the escalated inputs, the share to which no answer came that is put up with."""

UNIFORMS = 64
"""Values of the random number at which a policy's probabilities are read off."""

BINS = 20
"""Of scores, in the model of the doubly robust estimate."""


class OffPolicyError(FitError):
    """The recorded propensities do not support what is asked; the text says why, and what to record instead."""


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Traffic recorded at one tier.

    Attributes
    ----------
    batch
        What policy A was told, ``N`` rows in their order.
    action, propensity
        int8 and float64 ``[N]``: what it decided, and how probable that was.
    local, upper, truth
        int64 ``[N]``: this tier's label; that of the tier above where it answered, else -1; the true one, else -1.
    """

    batch: Batch
    action: NDArray[np.int8]
    propensity: NDArray[np.float64]
    local: NDArray[np.int64]
    upper: NDArray[np.int64]
    truth: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What B would have done.

    Attributes
    ----------
    accuracy, accuracy_dr
        By self-normalised importance sampling, and doubly robust; against the true labels, or against the
        upper tier's answers where `reference` is ``upper``.
    interval, interval_dr
        At 95 %, by the bootstrap over inputs.
    share_up, share_up_interval
        Share of the inputs that B sends up: known without any weights.
    rows, effective_rows
        Recorded, and how many unweighted ones would tell as much: ``1 / (sum over a of mean(P_B)^2 / n_a)``, where
        ``n_a = sum(w P_B)^2 / sum((w P_B)^2)`` is Kish's effective size of an action's known rows.
    unanswered
        Share of A's escalations to which no answer came. They count as lost by chance.
    reference
        ``truth`` or ``upper``.
    """

    accuracy: float
    interval: tuple[float, float]
    accuracy_dr: float
    interval_dr: tuple[float, float]
    share_up: float
    share_up_interval: tuple[float, float]
    rows: int
    effective_rows: float
    unanswered: float
    reference: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in self.__slots__}


def action_probabilities(policy: Policy, batch: Batch, *, seed: int = 0) -> tuple[NDArray[np.float64], ...]:
    """Return how probable a policy's `ACCEPT` and its going up (`ESCALATE`, `DEFER`) are: two float64 ``[N]``.

    What is left to 1 is `ABSTAIN`. A policy that is not deterministic is asked at several values of the random
    number; the propensities that it names are taken as exact. A `sequential` one is asked once, since its
    decisions depend on its earlier ones.

    Raises
    ------
    OffPolicyError
        If its propensities do not add up.
    """
    n = len(batch)
    found = np.zeros((n, len(Action)))
    if policy.sequential:
        grid = [np.random.default_rng(seed).random(n)]
    else:
        grid = [np.full(n, (step + 0.5) / UNIFORMS) for step in range(UNIFORMS)]
    rows = np.arange(n)
    for uniform in grid:
        decided = policy.decide(_with_uniform(batch, uniform))
        found[rows, decided.action] = decided.propensity
        if np.abs(found.sum(axis=1) - 1).max(initial=0.0) < 1e-9:
            break
    rest = 1 - found.sum(axis=1)
    short = np.abs(rest) > 1e-6
    if short.any():
        # Two actions, one seen: the other takes what is left.
        one_way = (found > 0).sum(axis=1) == 1
        plain = found[:, Action.ACCEPT] + found[:, Action.ESCALATE] > 0
        if (short & ~(one_way & plain)).any() or (rest < -1e-6).any():
            row = int((short & ~(one_way & plain) | (rest < -1e-6)).argmax())
            raise OffPolicyError(f"row {row}: the policy's propensities add up to {1 - rest[row]:.4g}, not to 1")
        accepts = found[:, Action.ACCEPT] > 0
        found[short & accepts, Action.ESCALATE] = rest[short & accepts]
        found[short & ~accepts, Action.ACCEPT] = rest[short & ~accepts]
    return found[:, Action.ACCEPT], found[:, Action.ESCALATE] + found[:, Action.DEFER]


def estimate(
    logged: Logged,
    policy: Policy,
    *,
    reference: str = "truth",
    seed: int = 0,
    resamples: int = RESAMPLES,
    min_effective_rows: float = MIN_EFFECTIVE_ROWS,
) -> Estimate:
    """Estimate the accuracy that a policy would have had on the recorded traffic.

    Parameters
    ----------
    logged
        Recorded under another policy.
    policy
        B, which decides at the same tier.
    reference
        What an answer is right against: ``truth``, which must be known for every row, or ``upper``, the answer of
        the tier above where it was asked (a true label, where known, goes before it).
    seed, resamples
        Of the bootstrap.
    min_effective_rows
        Refused below.

    Raises
    ------
    OffPolicyError
        If the recording does not support it.
    """
    if reference not in ("truth", "upper"):
        raise ValueError(f"reference must be 'truth' or 'upper', got {reference!r}")
    if not len(logged):
        raise OffPolicyError("the recording holds no rows")
    weight, unanswered = _weights(logged)
    accept, up = action_probabilities(policy, logged.batch, seed=seed)
    right = logged.truth
    if reference == "truth":
        missing = int((logged.truth == UNKNOWN).sum())
        if missing:
            raise OffPolicyError(
                f"{missing} of {len(logged)} rows have no true label; add labels (`escalade record merge --labels`), "
                "or measure against the tier above (reference: upper)"
            )
        accept_weight = np.ones(len(logged))
    else:
        right = np.where(logged.truth == UNKNOWN, logged.upper, logged.truth)
        accept_weight = weight
    r_accept = (logged.local == right).astype(np.float64)
    r_up = (logged.upper == right).astype(np.float64)
    _covered(logged, "escalates", up)
    if reference == "upper":
        _covered(logged, "accepts", accept)
    columns: list[NDArray[np.float64]] = []
    noise = 0.0
    for probability, known, reward, what in (
        (accept, accept_weight, r_accept, "accepts"),
        (up, weight, r_up, "escalates"),
    ):
        pull = known * probability
        if probability.any():
            if not pull.any():
                raise OffPolicyError(f"the policy {what} {_percent(probability.mean())}, and none of these is known")
            noise += float(probability.mean() ** 2 * (pull**2).sum() / pull.sum() ** 2)
        model = _model(logged.batch.score, reward, known, seed)
        columns += [probability, pull * reward, pull, probability * model + pull * (reward - model)]
    few = 1 / noise if noise else 0.0
    if few < min_effective_rows:
        raise OffPolicyError(
            f"the {len(logged)} recorded rows are worth {few:.1f} to this policy, fewer than {min_effective_rows:g}; "
            "record more traffic, or under a policy that explores more (Explore)"
        )
    table = np.stack([*columns, up], axis=1)
    means = resampled_means(table, resamples=resamples, seed=seed)
    point = table.mean(axis=0)[None, :]
    return Estimate(
        accuracy=float(_self_normalised(point)[0]),
        interval=interval(_self_normalised(means)),
        accuracy_dr=float(_doubly_robust(point)[0]),
        interval_dr=interval(_doubly_robust(means)),
        share_up=float(point[0, 8]),
        share_up_interval=interval(means[:, 8]),
        rows=len(logged),
        effective_rows=few,
        unanswered=unanswered,
        reference=reference,
    )


def _weights(logged: Logged) -> tuple[NDArray[np.float64], float]:
    """Return ``1 / P_A(escalate)`` where the tier above answered, else 0; and the share that it never answered."""
    bad = ~((logged.propensity > 0) & (logged.propensity <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise OffPolicyError(f"row {row}: {logged.propensity[row]} is no propensity of an action that was taken")
    up = logged.action == Action.ESCALATE
    answered = up & (logged.upper != UNKNOWN)
    unanswered = 1 - float(answered.sum() / up.sum()) if up.any() else 0.0
    if unanswered > MAX_UNANSWERED:
        raise OffPolicyError(
            f"no answer came from the tier above to {_percent(unanswered)} of the escalated inputs: what was lost need "
            "not be like what came; record again while the link is up"
        )
    return np.where(answered, 1 / logged.propensity, 0.0), unanswered


def _covered(logged: Logged, what: str, needed: NDArray[np.float64]) -> None:
    """Refuse if B needs known what A never sent up."""
    never = _never_up(logged)
    short = never & (needed > 0)
    if short.any():
        share = float(short.mean())
        raise OffPolicyError(
            f"the policy {what} {_percent(share)} of the inputs which the recorded policy never sent up (the first is "
            f"row {int(short.argmax())}): what the tier above says of them is not known. Record under a policy "
            "that tries both (Explore), or one that escalates everything"
        )


def _never_up(logged: Logged) -> NDArray[np.bool_]:
    never: NDArray[np.bool_] = (logged.action != Action.ESCALATE) & (logged.propensity >= 1.0)
    return never


def _model(
    score: NDArray[np.float32], reward: NDArray[np.float64], weight: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the weighted mean reward at scores like each row's own, from the other half of the rows."""
    finite = np.where(np.isfinite(score), score, -np.inf)
    usable = score[np.isfinite(score)]
    cuts = np.linspace(0, 1, BINS + 1)[1:-1]
    edges: NDArray[np.float32] = np.unique(np.quantile(usable, cuts)) if len(usable) else usable
    place = np.searchsorted(edges, finite, side="right")
    half = np.random.default_rng(seed).random(len(score)) < 0.5
    model = np.zeros(len(score))
    bins = len(edges) + 1
    for fold in (half, ~half):
        w = np.where(fold, 0.0, weight)
        total = np.bincount(place, w, bins)
        overall = (w * reward).sum() / w.sum() if w.any() else 0.0
        mean = np.where(total > 0, np.bincount(place, w * reward, bins) / np.maximum(total, 1e-300), overall)
        model[fold] = mean[place[fold]]
    return model


def _self_normalised(means: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(len(means))
    for start in (0, 4):
        probability, gained, pull = means[:, start], means[:, start + 1], means[:, start + 2]
        total += np.where(pull > 0, probability * gained / np.where(pull > 0, pull, 1.0), 0.0)
    return total


def _doubly_robust(means: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = means[:, 3] + means[:, 7]
    return total


def _with_uniform(batch: Batch, uniform: NDArray[np.float64]) -> Batch:
    return replace(batch, uniform=uniform)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
