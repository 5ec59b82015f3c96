"""One or more examples of every built-in policy, and of every combinator over any policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from escalade.policies import (
    BackPressure,
    Batch,
    Budgeted,
    CostAware,
    DeadlineAware,
    Explore,
    Feedback,
    FirstOf,
    FittedPolicy,
    Hysteresis,
    Policy,
    SloController,
    Telemetry,
    Threshold,
    Trace,
)
from escalade.policies.loading import BUILT_IN

CLASSES = 10
MODEL = "0" * 64


@cache
def trace(rows: int = 3000) -> Trace:
    """Make three tiers that agree with the labels more and more, with posteriors that say how sure they are."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, rows)
    posteriors = []
    for strength in (5.0, 10.0, 20.0):
        logits = rng.gumbel(size=(rows, CLASSES)) * 1.2
        logits[np.arange(rows), label] += strength * rng.random(rows)
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        posteriors.append(weight / weight.sum(axis=1, keepdims=True))
    return Trace.of(posteriors, label, costs=(0.01, 0.1, 1.0))


def made(name: str, **parameters: object) -> Policy:
    """Build a built-in; fit it where it has to be."""
    policy = BUILT_IN[name](**parameters)
    return policy.fit(trace()) if isinstance(policy, FittedPolicy) else policy


def taught(policy: Policy) -> Policy:
    """Return the policy after a few hundred escalations that came back."""
    rng = np.random.default_rng(1)
    score = rng.random(300).astype(np.float32)
    right = rng.random(300) < score
    label = rng.integers(0, CLASSES, 300)
    upper = np.where(right, label, (label + 1) % CLASSES)
    took = rng.exponential(20.0, 300)
    policy.observe(
        Feedback.of(score, local=label, action=1, upper=upper, hops=1, posterior=sharp(score, label), upstream_ms=took)
    )
    many = np.full(5, 100)
    device = np.arange(5)
    policy.retune(Telemetry(1.0, 1.0, device, device, many, np.array([100, 95, 60, 0, 30]), many))
    return policy


def sharp(score: NDArray[np.float32], label: NDArray[np.int64]) -> NDArray[np.float32]:
    """Make posteriors whose highest probability is the score, at the label."""
    table = np.repeat(((1 - score) / (CLASSES - 1))[:, None], CLASSES, axis=1)
    table[np.arange(len(score)), label] = score
    posterior: NDArray[np.float64] = table / table.sum(axis=1, keepdims=True)
    return posterior.astype(np.float32)


EXAMPLES: dict[str, list[Callable[[], Policy]]] = {
    "AlwaysAccept": [lambda: made("AlwaysAccept")],
    "AlwaysEscalate": [lambda: made("AlwaysEscalate")],
    "BackPressure": [
        lambda: BackPressure(Threshold(0.7)),
        lambda: BackPressure(Explore(Threshold(0.7), epsilon=0.1), start=0.0, least=1.0),
        lambda: BackPressure(Explore(Threshold(0.7), epsilon=0.1), start=0.0, least=0.3),
    ],
    "Budgeted": [
        lambda: Budgeted(Threshold(0.7), share=0.2),
        lambda: Budgeted(Threshold(0.7), bytes_per_s=2000.0, burst=200_000.0),
        lambda: Budgeted(Threshold(0.7), joules_per_s=0.1, joules_per_byte=1e-4, joules_per_message=0.2),
    ],
    "CostAware": [lambda: CostAware(1.0, 0.95, price_request=0.02, price_bytes=1e-6, price_ms=1e-3, assumed_ms=20.0)],
    "DeadlineAware": [
        lambda: DeadlineAware(Threshold(0.7), quantile=0.9, margin_ms=5.0),
        lambda: taught(DeadlineAware(Threshold(0.7), fresh_s=1e12)),
    ],
    "DriftGuard": [lambda: made("DriftGuard", policy=Threshold(0.7))],
    "Explore": [lambda: Explore(Threshold(0.7), epsilon=0.1), lambda: Explore(Threshold(0.7), epsilon=0.0)],
    "FirstOf": [
        lambda: FirstOf([Threshold(0.7), Explore(Threshold(0.9), epsilon=0.3)]),
        lambda: FirstOf([Threshold(0.7), Explore(Threshold(0.9), epsilon=0.3)], "accept"),
    ],
    "HILCB": [lambda: made("HILCB", cost=0.3), lambda: taught(made("HILCB", cost=0.3))],
    "HILF": [lambda: made("HILF", cost=0.3), lambda: taught(made("HILF", cost=0.3))],
    "HILN": [lambda: made("HILN", cost=0.3), lambda: taught(made("HILN", cost=0.3))],
    "Hysteresis": [
        lambda: Hysteresis(Threshold(0.7), margin=0.1),
        lambda: Hysteresis(Threshold(0.7), margin=0.1, hold=2),
    ],
    "LearnedDeferral": [lambda: made("LearnedDeferral", cost=0.4), lambda: made("LearnedDeferral", cost=0.2, level=1)],
    "PerClassThreshold": [
        lambda: made("PerClassThreshold", thresholds={0: 0.5, 3: 0.9}, default=0.7),
        lambda: made("PerClassThreshold", thresholds=np.linspace(0.1, 0.9, CLASSES).tolist()),
    ],
    "RiskControlled": [lambda: made("RiskControlled", alpha=0.1), lambda: made("RiskControlled", alpha=0.1, level=1)],
    "SloController": [lambda: SloController(0.7), lambda: taught(SloController(0.7))],
    "TargetThreshold": [lambda: made("TargetThreshold", target=0.7, cautious=True)],
    "Threshold": [lambda: Threshold(0.7), lambda: Threshold(0.1 + 0.2), lambda: Threshold(float("-inf"))],
}

COMBINATORS: dict[str, Callable[[Policy], Policy]] = {
    "BackPressure": lambda part: BackPressure(part, start=0.25, least=0.1),
    "Budgeted, share": lambda part: Budgeted(part, share=0.2),
    "Budgeted, bytes": lambda part: Budgeted(part, bytes_per_s=2000.0, burst=200_000.0),
    "DeadlineAware": lambda part: DeadlineAware(part, margin_ms=5.0),
    "Explore": lambda part: Explore(part, epsilon=0.2),
    "FirstOf, escalate": lambda part: FirstOf([Explore(Threshold(0.9), epsilon=0.1), part]),
    "FirstOf, accept": lambda part: FirstOf([part, Threshold(0.9)], "accept"),
    "Hysteresis": lambda part: Hysteresis(part, margin=0.1, hold=1),
}


def build(name: str, number: int) -> Policy:
    """Return a fresh example."""
    return EXAMPLES[name][number]()


def named() -> list[tuple[str, int]]:
    """Return every example of a built-in that there is, by name and number."""
    return [(name, number) for name in BUILT_IN for number in range(len(EXAMPLES.get(name, [])))]


def random_rows(rows: int, seed: int, near: NDArray[np.float32] | None = None) -> Batch:
    """Make rows of random context; a third of the scores are any float32 bits, ties among them."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows).astype(np.float32)
    odd = rng.integers(0, 2**32, rows // 6).astype(np.uint32).view(np.float32)
    score[: len(odd)] = odd
    if near is not None and len(near):
        ties = rng.choice(near, rows // 6)
        score[len(odd) : len(odd) + len(ties)] = np.nextafter(
            ties, rng.choice(np.array([-9, 9], np.float32), len(ties))
        )
        score[len(odd) : len(odd) + len(ties) // 2] = ties[: len(ties) // 2]
    weight = rng.gamma(0.3, size=(rows, CLASSES)) + 1e-9
    order = rng.permutation(rows)
    return Batch.of(
        score[order],
        (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32),
        time_s=np.sort(rng.random(rows) * rows),
        uniform=rng.random(rows),
        remaining_ms=np.where(rng.random(rows) < 0.2, np.inf, rng.exponential(100.0, rows)),
        bytes_up=rng.integers(0, 10_000, rows),
        upstream_ms=np.where(rng.random(rows) < 0.2, np.nan, rng.exponential(20.0, rows)),
        device=rng.integers(0, 7, rows),
        upstream_load=np.where(rng.random(rows) < 0.5, 0.0, rng.integers(0, 9, rows) / 8),
    )
