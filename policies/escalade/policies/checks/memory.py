"""The rules about what a policy remembers and learns. Each yields one line for every finding."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.checks.rows import copied, ordinary_rows, trial_rows, unusable_rows
from escalade.policies.checks.state import decides_otherwise, pickled, same
from escalade.policies.combinator import listens
from escalade.policies.feedback import UNKNOWN, Feedback
from escalade.policies.policy import FittedPolicy, Policy
from escalade.policies.types import Action, Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def batch_equals_loop_with_commit(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A batch is decided as the loop `decide_one`, `commit_one` over its rows, whatever came before it."""
    if not policy.sequential:
        return
    rows = _in_time(trial_rows(policy, classes, seed))
    for start in (0, len(rows) // 2):
        before, part = rows.take(slice(0, start)), rows.take(slice(start, None))
        batch, loop = copy.deepcopy(policy), copy.deepcopy(policy)
        for twin in (batch, loop):
            twin.commit(copied(before), _done(before, seed))
        decided = batch.decide(copied(part)).action
        for row in range(len(part)):
            score, context = part.row(row)
            one = loop.decide_one(score, context)
            if one != decided[row]:
                yield f"row {row} after {start} others: decide gives {Action(decided[row]).name}, the loop {one.name}"
                break
            loop.commit_one(score, context, one)


def commit_changes_the_memory(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """`commit` on a batch and `commit_one` on its rows leave the same state; all memory is in `state_dict`."""
    if not (policy.sequential or listens(policy, "commit")):
        return
    rows = _in_time(trial_rows(policy, classes, seed))
    done = _done(rows, seed)
    batch, loop = copy.deepcopy(policy), copy.deepcopy(policy)
    batch.commit(copied(rows), done)
    for row in range(len(rows)):
        score, context = rows.row(row)
        loop.commit_one(score, context, Action(int(done[row])))
    if not same(batch.state_dict(), loop.state_dict()):
        yield "commit leaves another state than commit_one does row by row"
    for _ in range(2):  # an even and an odd number of rows
        batch.commit(rows.take(slice(0, 1)), done[:1])
        twin = copy.deepcopy(policy)
        twin.load_state_dict(copy.deepcopy(batch.state_dict()))
        yield from decides_otherwise("a copy that was given the state after commit", twin, batch, classes, seed)
    if policy.sequential and pickled(policy) is not None and pickled(batch) == pickled(policy):
        yield f"commit of {len(rows)} rows changes nothing; a policy without a memory is not sequential"


def memory_is_declared(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A policy that decides otherwise after a `commit` says that it is `sequential`."""
    if policy.sequential:
        return
    rows = trial_rows(policy, classes, seed)
    twin = copy.deepcopy(policy)
    for action in (Action.ESCALATE, Action.ACCEPT):
        twin.commit(copied(rows), np.full(len(rows), action, np.int8))
    yield from decides_otherwise("the policy after commit, though it is not sequential,", twin, policy, classes, seed)


def learns_from_anything(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """`observe` takes feedback late, twice, empty and without labels; what it learnt travels in the state."""
    if not listens(policy, "observe"):
        return
    twin = copy.deepcopy(policy)
    for what, feedback in _feedback(classes, seed).items():
        columns = {name: column.copy() for name, column in _columns(feedback).items()}
        try:
            twin.observe(feedback)
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
            yield f"{what}: raised {type(error).__name__}: {error}"
        if not same(columns, _columns(feedback)):
            yield f"{what}: observe changed the feedback"
    rows = unusable_rows(classes, seed)
    if np.any(twin.decide(copied(rows)).action == Action.ACCEPT):
        yield "after learning a row without a usable score is accepted"
    other = copy.deepcopy(policy)
    other.load_state_dict(copy.deepcopy(twin.state_dict()))
    yield from decides_otherwise("a copy that was given the state after observe", other, twin, classes, seed)


def the_fit_is_the_state(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """The state of a fitted policy is what it was fitted to; another's, or none, is refused with ValueError."""
    if not isinstance(policy, FittedPolicy):
        return
    if not policy.state_dict():
        yield "state_dict is empty, so that the fit is lost with the process"
    for name, state in (("an empty state", {}), ("a foreign state", {"no such entry": 1.0})):
        twin = copy.deepcopy(policy)
        try:
            twin.load_state_dict(dict(state))
        except ValueError:
            yield from decides_otherwise(f"the policy, after it refused {name},", twin, policy, classes, seed)
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
            yield f"{name}: raised {type(error).__name__}, not ValueError: {error}"
        else:
            yield f"{name} is taken for one of this policy"


def _in_time(rows: Batch) -> Batch:
    """Order the rows by their time, as traffic comes: about one a second."""
    return rows.take(np.argsort(rows.time_s, kind="stable"))


def _done(rows: Batch, seed: int) -> NDArray[np.int8]:
    usable = rows.score > -np.inf
    up = np.random.default_rng(seed).random(len(rows)) < 0.5
    return np.where(up | ~usable, np.int8(Action.ESCALATE), np.int8(Action.ACCEPT))


def _feedback(classes: int, seed: int) -> dict[str, Feedback]:
    rng = np.random.default_rng(seed)
    rows = ordinary_rows(classes, seed)
    count = len(rows)
    asked = rng.random(count) < 0.5
    answered = asked & (rng.random(count) < 0.9)
    audited = rng.random(count) < 0.1
    label = rng.integers(0, classes, (3, count))
    whole = Feedback.of(
        rows.score,
        local=label[0],
        action=np.where(asked, np.int8(Action.ESCALATE), np.int8(Action.ACCEPT)),
        propensity=rng.choice([0.05, 0.5, 1.0], count),
        upper=np.where(answered, label[1], UNKNOWN),
        truth=np.where(audited, label[2], UNKNOWN),
        hops=np.where(answered, 1, 0),
        posterior=rows.posterior,
        time_s=rows.time_s,
        upstream_ms=np.where(answered, rng.exponential(20.0, count), np.nan),
        device=rows.device,
    )
    blind = Feedback.of(
        [np.nan, -np.inf, 0.5], local=UNKNOWN, action=Action.ESCALATE, posterior=np.ones((3, classes)) / classes
    )
    return {
        "rows out of order": whole,
        "one row": whole.take(slice(0, 1)),
        "the same again": whole.take(slice(0, 50)),
        "no rows": whole.take(slice(0, 0)),
        "rows without a label": blind,
    }


def _columns(feedback: Feedback) -> dict[str, NDArray[np.generic]]:
    return {name: getattr(feedback, name) for name in ("score", "action", "local", "upper", "truth", "time_s")}
