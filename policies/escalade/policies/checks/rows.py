"""The rows a policy is tried on: `ordinary_rows`, `unusable_rows`, `awkward_batches`, `tie_scores`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.types import Batch, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.policy import Policy

_UNUSUAL = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, -50.0, 1e30, np.inf], np.float32)


def ordinary_rows(classes: int, seed: int) -> Batch:
    """Make rows as traffic brings them: posteriors from sure to unsure, and scores that tie.

    Scores are highest probabilities, round numbers (and their float32 neighbours), of which each
    occurs twice, and values at the edge of what a score can be. The rest of the context is random.
    """
    rng = np.random.default_rng(seed)
    grid = np.linspace(0.0, 1.0, 101).astype(np.float32)
    ties = np.concatenate([grid, grid, np.nextafter(grid, np.float32(2)), np.nextafter(grid, np.float32(-2))])
    posterior = _posteriors(rng, 160 + len(ties) + len(_UNUSUAL), classes)
    posterior[:4] = np.eye(1, classes, dtype=np.float32)
    posterior[4:8] = 1.0 / classes
    score = np.concatenate([posterior[:160].max(axis=1), ties, _UNUSUAL])
    order = rng.permutation(len(score))
    return _with_context(rng, score[order], posterior[order])


def trial_rows(policy: Policy, classes: int, seed: int) -> Batch:
    """Return `ordinary_rows`; the first of them where the policy has a memory, which decides row by row."""
    rows = ordinary_rows(classes, seed)
    return rows.take(slice(0, 160)) if policy.sequential else rows


def unusable_rows(classes: int, seed: int) -> Batch:
    """Make rows without a usable score, some of which have a posterior that looks sure."""
    rng = np.random.default_rng(seed)
    score = np.tile(np.array([np.nan, -np.inf], np.float32), 16)
    posterior = _posteriors(rng, 32, classes)
    posterior[:8] = np.nan
    posterior[8:16] = np.eye(1, classes, dtype=np.float32)
    return _with_context(rng, score, posterior)


def awkward_batches(policy: Policy, classes: int, seed: int) -> dict[str, Batch]:
    """Make batches of unusual content or layout, by what is unusual about them."""
    rng = np.random.default_rng(seed)
    rows = trial_rows(policy, classes, seed)
    assert rows.posterior is not None
    eye = np.eye(classes, dtype=np.float32)
    uniform = np.full((5, classes), 1.0 / classes, np.float32)
    single = np.ones((7, 1), np.float32)
    half = _posteriors(rng, 33, classes).astype(np.float16)
    return {
        "an empty batch": rows.take(slice(0, 0)),
        "one row": rows.take(slice(0, 1)),
        "one-hot posteriors": _with_context(rng, eye.max(axis=1), eye),
        "uniform posteriors": _with_context(rng, uniform.max(axis=1), uniform),
        "one class": _with_context(rng, single[:, 0], single),
        "float16 input": Batch.of(half.max(axis=1), half, uniform=rng.random(33)),
        "every third row of another array": rows.take(slice(1, None, 3)),
        "reversed columns": rows.take(slice(None, None, -1)),
        "column-major posteriors": replace(rows, posterior=np.asfortranarray(rows.posterior)),
        "one context for all rows": Batch.of(rows.score, rows.posterior),
    }


def tie_scores(policy: Policy, rows: Batch) -> NDArray[np.float32]:
    """Find the float32 scores between which the policy changes its mind, by bisection.

    A policy's own threshold is rarely among random scores, and it is there that a comparison in
    float64 and one in float32 differ.

    Returns
    -------
    NDArray
        float32, the last score before and the first score after each change (at most 8 changes).
    """

    def actions(score: NDArray[np.float32]) -> NDArray[np.int8]:
        return decide_each(policy, replace(rows.take(np.zeros(len(score), int)), score=score)).action

    grid = np.unique(rows.score[np.isfinite(rows.score)])
    taken = actions(grid)
    changes = np.flatnonzero(taken[1:] != taken[:-1])[:8]
    low, high, below = grid[changes], grid[changes + 1], taken[changes]
    for _ in range(300):
        middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
        if np.all((middle == low) | (middle == high)):
            break
        same = actions(middle) == below
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.concatenate([low, high])


def decide_each(policy: Policy, batch: Batch) -> Decisions:
    """Decide on every row as if it came next: what `decide` does, unless the policy has a memory."""
    if not policy.sequential:
        return policy.decide(batch)
    decided = [policy.decide(batch.take(slice(row, row + 1))) for row in range(len(batch))]
    if not all(isinstance(one, Decisions) and len(one.action) == len(one.propensity) == 1 for one in decided):
        raise ValueError("decide on one row does not give one decision")
    action = np.array([one.action[0] for one in decided], np.int8)
    return Decisions(action, np.array([one.propensity[0] for one in decided], np.float64))


def copied(batch: Batch) -> Batch:
    """Copy every column, so that what a policy does to one batch does not reach another."""
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    copies: dict[str, Any] = {name: None if c is None else c.copy() for name, c in columns.items()}
    return Batch(**copies)


def _posteriors(rng: np.random.Generator, rows: int, classes: int) -> NDArray[np.float32]:
    weight = rng.gamma(np.tile([0.05, 0.3, 1.0, 20.0], rows)[:rows, None], size=(rows, classes)) + 1e-30
    posterior: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    return posterior.astype(np.float32)


def _with_context(rng: np.random.Generator, score: NDArray[np.float32], posterior: NDArray[np.float32]) -> Batch:
    rows = len(score)
    return Batch.of(
        score,
        posterior,
        time_s=1.7e9 + rng.random(rows) * 86400 * 7,
        uniform=rng.random(rows),
        remaining_ms=np.where(rng.random(rows) < 0.2, np.inf, rng.exponential(100.0, rows)),
        bytes_up=rng.integers(0, 100_000, rows),
        upstream_ms=np.where(rng.random(rows) < 0.2, np.nan, rng.exponential(20.0, rows)),
        device=rng.integers(0, 5, rows),
        upstream_load=np.where(rng.random(rows) < 0.5, 0.0, rng.integers(0, 9, rows) / 8),
    )
