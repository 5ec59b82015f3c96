"""The rules about what a policy leaves alone, keeps and hands on. Each yields one line for every finding."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.checks.rows import copied, trial_rows, unusable_rows
from escalade.policies.state_file import from_json, from_npz, to_json, to_npz
from escalade.policies.types import Action, Batch, Context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from escalade.policies.policy import Policy


def input_untouched(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """`decide` and `decide_one` write neither to the batch nor to the context."""
    for rows in (trial_rows(policy, classes, seed), unusable_rows(classes, seed)):
        given = copied(rows)
        _lock(given)
        try:
            policy.decide(given)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            yield f"decide writes to the batch: {error}"
        for field in fields(Batch):
            if not same(getattr(given, field.name), getattr(rows, field.name)):
                yield f"decide changed column '{field.name}' of the batch"
        score, context = rows.row(0)
        before = _facts(context)
        policy.decide_one(score, context)
        if not same(_facts(context), before):
            yield "decide_one changed the context"
        policy.commit_one(score, context, Action.ESCALATE)
        if not same(_facts(context), before):
            yield "commit_one changed the context"
        done = np.zeros(len(given), np.int8)
        done.flags.writeable = False
        policy.commit(given, done)


def state_untouched(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """Deciding leaves the policy as it was: its state and, where it pickles, all else in it."""
    rows = trial_rows(policy, classes, seed)
    state, frozen = copy.deepcopy(policy.state_dict()), pickled(policy)
    for name in ("decide", "decide_one"):
        if name == "decide":
            policy.decide(copied(rows))
        else:
            for row in range(16):
                policy.decide_one(*rows.row(row))
        if not same(policy.state_dict(), state):
            yield f"{name} changed what state_dict returns"
        elif pickled(policy) != frozen:
            yield f"{name} changed an attribute of the policy"


def pickles(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A pickled and restored policy decides the same: it has to travel to workers."""
    try:
        twin = pickle.loads(pickle.dumps(policy))
    except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
        yield f"raised {type(error).__name__}: {error}"
        return
    yield from decides_otherwise("the restored policy", twin, policy, classes, seed)


def state_round_trip(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """A copy that loads the state has that state and decides the same; a state is arrays and scalars."""
    state = policy.state_dict()
    if not isinstance(state, dict):
        yield f"state_dict returned a {type(state).__name__}, not a dict"
        return
    for path, value in _leaves(state, ""):
        if not isinstance(value, (np.ndarray, np.generic, int, float, bool, str, type(None))):
            yield f"state{path} is a {type(value).__name__}; only arrays, scalars and dicts of them travel"
    twin = copy.deepcopy(policy)
    before = copy.deepcopy(state)
    twin.load_state_dict(copy.deepcopy(state))
    if not same(twin.state_dict(), before):
        yield "the copy that loaded the state returns another one"
    yield from decides_otherwise("the copy that loaded the state", twin, policy, classes, seed)


def state_travels(policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """The state comes back from both kinds of state file as it went in, to the bit."""
    del classes, seed
    state = policy.state_dict()
    for name, write, read in (("npz", to_npz, from_npz), ("JSON", to_json, from_json)):
        try:
            back, _ = read(write(copy.deepcopy(state)))
        except (TypeError, ValueError, OverflowError) as error:
            yield f"{name}: {error}"
            continue
        if not same(back, state):
            yield f"{name}: {back!r} came back for {state!r}"[:300]


def decides_otherwise(who: str, twin: Policy, policy: Policy, classes: int, seed: int) -> Iterator[str]:
    """Say so if two policies differ in any decision."""
    rows = trial_rows(policy, classes, seed)
    ours, theirs = policy.decide(copied(rows)), twin.decide(copied(rows))
    if not (same(ours.action, theirs.action) and same(ours.propensity, theirs.propensity)):
        yield f"{who} decides differently"


def _lock(batch: Batch) -> None:
    for field in fields(batch):
        column = getattr(batch, field.name)
        if column is not None:
            column.flags.writeable = False


def _facts(context: Context) -> dict[str, Any]:
    return copy.deepcopy({name: getattr(context, name) for name in Context.__slots__})


def pickled(policy: Policy) -> bytes | None:
    """Return the policy as bytes, None where it does not pickle."""
    try:
        return pickle.dumps(policy)
    except Exception:  # noqa: BLE001 - that it does not pickle is the finding of another rule
        return None


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}[{key!r}]")
    else:
        yield path, value


def same(one: Any, other: Any) -> bool:
    """Compare deeply, types and bits included; ``nan`` equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) and one.dtype != object:
        alike: bool = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, float) and one != one:
        return bool(other != other)
    return bool(np.all(one == other))
