"""The rules about what a policy decides. Each yields one line for every finding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.checks.rows import (
    awkward_batches,
    copied,
    decide_each,
    tie_scores,
    trial_rows,
    unusable_rows,
)
from escalade.policies.types import Action, Batch, Decisions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from escalade.policies.policy import Policy


def well_formed(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """`decide` gives an int8 action and a float64 propensity for each row, `decide_one` an `Action`."""
    rows = trial_rows(policy, classes, seed)
    decisions: object = policy.decide(copied(rows))
    if not isinstance(decisions, Decisions):
        yield f"decide returned a {type(decisions).__name__}, not Decisions"
        return
    expected = {"action": np.int8, "propensity": np.float64}
    for name, dtype in expected.items():
        column: object = getattr(decisions, name)
        if not isinstance(column, np.ndarray):
            yield f"{name} must be an array, got a {type(column).__name__}"
            return
        if column.dtype != dtype or column.shape != (len(rows),):
            yield (
                f"{name} must be {np.dtype(dtype)} of shape [{len(rows)}], "
                f"got {column.dtype} of shape {list(column.shape)}"
            )
    unknown = set(np.unique(decisions.action).tolist()) - set(Action)
    if unknown:
        yield f"actions must be 0 to {max(Action)}, got {sorted(unknown)}"
    action: object = policy.decide_one(*rows.row(0))
    if not isinstance(action, Action):
        yield f"decide_one returned {action!r}, a {type(action).__name__}, not an Action"


def batch_equals_loop(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """`decide` on a batch and `decide_one` on its rows take the same actions, at exact ties too.

    A policy with a memory is asked about one row at a time; its batches have a rule of their own.
    """
    rows = trial_rows(policy, classes, seed)
    ties = tie_scores(policy, copied(rows))
    yield from _loop_differs(policy, rows)
    yield from _loop_differs(policy, replace(rows.take(np.zeros(len(ties), int)), score=ties))
    yield from _loop_differs(policy, unusable_rows(classes, seed))


def rows_are_independent(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """Another order of the rows, or other rows beside them, leave the decision on a row as it is.

    Where the policy has a memory, this holds of the rows that come after.
    """
    rows = trial_rows(policy, classes, seed)
    if policy.sequential:
        yield from _depends_on_later_rows(policy, rows)
        return
    whole = policy.decide(copied(rows))
    order = np.random.default_rng(seed).permutation(len(rows))
    yield from _differ("in another order", policy.decide(rows.take(order)), whole, order)
    for size in (1, 7, len(rows) // 2):
        part = np.arange(size)
        yield from _differ(f"in a batch of {size}", policy.decide(rows.take(part)), whole, part)


def deterministic(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """The same batch gives the same decisions again; chance comes from `Batch.uniform` only."""
    rows = trial_rows(policy, classes, seed)
    first = policy.decide(copied(rows))
    for _ in range(3):
        yield from _differ("decided again", policy.decide(copied(rows)), first, np.arange(len(rows)))


def unusable_never_accepted(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A row whose score is ``nan`` or ``-inf`` is never accepted, however sure its posterior looks."""
    rows = unusable_rows(classes, seed)
    accepted = policy.decide(copied(rows)).action == Action.ACCEPT
    for score in np.unique(rows.score[accepted]):
        yield f"decide accepted a row with score {score}"
    for row in range(len(rows)):
        score, context = rows.row(row)
        if policy.decide_one(score, context) == Action.ACCEPT:
            yield f"decide_one accepted a row with score {score}"


def awkward_input(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """An empty batch, one-hot, uniform, one class, float16 values and strided columns are all decided."""
    for name, rows in awkward_batches(policy, classes, seed).items():
        try:
            decisions = policy.decide(rows)
            plain = policy.decide(copied(rows))
            if len(rows):
                policy.decide_one(*rows.row(0))
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
            yield f"{name}: raised {type(error).__name__}: {error}"
            continue
        if len(decisions.action) != len(rows) or len(decisions.propensity) != len(rows):
            yield f"{name}: {len(decisions.action)} decisions for {len(rows)} rows"
            continue
        for line in _differ("in a plain copy", plain, decisions, np.arange(len(rows))):
            yield f"{name}: {line}"


def propensity_is_honest(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A propensity is in (0, 1] and is how often, over `Batch.uniform`, that action is taken."""
    draws, count = (256, 12) if policy.sequential else (4096, 32)
    rows, rng = trial_rows(policy, classes, seed), np.random.default_rng(seed)
    uniform = (rng.permutation(draws) + rng.random(draws)) / draws  # one in each part of [0, 1), all bits in use
    for row in range(count):
        decisions = decide_each(policy, replace(rows.take(np.full(draws, row)), uniform=uniform.copy()))
        if not np.all((decisions.propensity > 0.0) & (decisions.propensity <= 1.0)):
            low, high = decisions.propensity.min(), decisions.propensity.max()
            yield f"propensities must be in (0, 1], got {low:.6g} to {high:.6g}"
            return
        for action in np.unique(decisions.action):
            taken = decisions.action == action
            share, stated = taken.mean(), decisions.propensity[taken]
            if np.abs(stated - share).max() > 4.0 * np.sqrt(share * (1.0 - share) / draws) + 1.0 / draws:
                yield (
                    f"score {rows.score[row]:.6g}: {_name(action)} is taken in {share:.3f} of "
                    f"{draws} draws, its propensity says {stated[0]:.3f}"
                )


def _depends_on_later_rows(policy: Policy, rows: Batch) -> Iterator[str]:
    whole = policy.decide(copied(rows))
    for size in (1, 7, len(rows) // 2):
        part = np.arange(size)
        yield from _differ(f"as the end of a batch of {size}", policy.decide(rows.take(part)), whole, part)


def _loop_differs(policy: Policy, rows: Batch) -> Iterator[str]:
    decided = decide_each(policy, copied(rows)).action
    for row in range(len(rows)):
        score, context = rows.row(row)
        one = policy.decide_one(score, context)
        if one != decided[row]:
            yield (
                f"score {score!r}: decide gives {_name(decided[row])}, decide_one {_name(one)}; "
                "compare float32 with float32"
            )


def _differ(how: str, found: Decisions, whole: Decisions, index: NDArray[np.int64]) -> Iterator[str]:
    """Compare `found` with ``whole[index]``: actions exactly, propensities but for the last bits."""
    action, propensity = whole.action[index], whole.propensity[index]
    if len(found.action) != len(action) or len(found.propensity) != len(propensity):
        yield f"{how}: {len(found.action)} decisions for {len(action)} rows"
        return
    close = np.isclose(found.propensity, propensity, rtol=1e-9, atol=0.0, equal_nan=True)
    for row in np.flatnonzero((found.action != action) | ~close):
        yield (
            f"row {index[row]} {how} is {_name(found.action[row])} with propensity "
            f"{found.propensity[row]:.6g}, before {_name(action[row])} with {propensity[row]:.6g}"
        )


def _name(action: object) -> str:
    value = int(action) if isinstance(action, (int, np.integer)) else None
    return Action(value).name if value in set(Action) else repr(action)
