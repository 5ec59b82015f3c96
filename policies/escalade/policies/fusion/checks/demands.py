"""What is demanded of every fusion rule. Each yields one line for every finding."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.checks.events import masks, posteriors
from escalade.policies.fusion.rule import Fused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from escalade.policies.fusion.rule import FusionRule

CLOSE = 1e-4
"""How far two posteriors that should be the same may be apart: float32 sums in another order."""


def well_formed(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """`fuse` gives float32 posterior, score and conflict and bool used, also for no events at all."""
    for events in (200, 1, 0):
        p = posteriors(nodes, classes, seed)[:events]
        fused: object = rule.fuse(p)
        if not isinstance(fused, Fused):
            yield f"fuse returned a {type(fused).__name__}, not Fused"
            return
        shapes = {
            "posterior": (np.float32, (events, classes)),
            "score": (np.float32, (events,)),
            "conflict": (np.float32, (events,)),
            "used": (np.bool_, (events, nodes)),
        }
        for name, (dtype, shape) in shapes.items():
            column = getattr(fused, name)
            if column.dtype != dtype or column.shape != shape:
                yield f"{name} must be {np.dtype(dtype)} {list(shape)}, got {column.dtype} {list(column.shape)}"


def sums_to_one(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """Posteriors are finite, not negative, and sum to one; conflicts are in [0, 1]."""
    fused = rule.fuse(posteriors(nodes, classes, seed), masks(nodes, seed))
    for event in range(len(fused)):
        row = fused.posterior[event]
        if not np.isfinite(row).all() or (row < 0.0).any():
            yield f"event {event} has the posterior {row.tolist()}"
        elif abs(row.sum() - 1.0) > 1e-5 * classes:
            yield f"event {event} sums to {row.sum():.6g}"
        if not 0.0 <= fused.conflict[event] <= 1.0:
            yield f"event {event} has the conflict {fused.conflict[event]}"


def no_node_no_answer(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """An event without any node is uniform with score ``-inf`` and does not touch its neighbours."""
    p, mask = posteriors(nodes, classes, seed), masks(nodes, seed)
    whole = rule.fuse(p, mask)
    empty = np.arange(0, len(p), 7)
    mask[empty] = False
    fused = rule.fuse(p, mask)
    if np.abs(fused.posterior[empty] - 1.0 / classes).max() > CLOSE:
        yield "an event without any node is not uniform"
    if (fused.score[empty] != -np.inf).any():
        yield f"an event without any node has the score {fused.score[empty].max()}"
    if fused.used[empty].any() or fused.conflict[empty].any():
        yield "an event without any node has used nodes or a conflict"
    others = np.setdiff1d(np.arange(len(p)), empty)
    yield from _differ("beside events without any node", fused, whole, others, others)


def masked_equals_absent(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """What a masked node holds changes nothing, ``nan`` included; for `symmetric` rules its column may go."""
    p, mask = posteriors(nodes, classes, seed), masks(nodes, seed)
    fused, every = rule.fuse(p, mask), np.arange(len(p))
    for name, value in {"one-hot": np.eye(classes, dtype=np.float32)[0], "nan": np.float32(np.nan)}.items():
        filled = np.where(mask[:, :, None], p, value)
        yield from _differ(f"with {name} in masked nodes", rule.fuse(filled, mask), fused, every, every)
    if rule.symmetric:
        mask = np.ones_like(mask)
        mask[:, -1] = False
        yield from _differ("without the column", rule.fuse(p[:, :-1]), rule.fuse(p, mask), every, every)


def weightless_equals_absent(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """A node of weight 0 is as one that did not report, and is not listed as used."""
    p, every = posteriors(nodes, classes, seed), np.arange(200)
    weights, mask = np.ones(nodes), np.ones((200, nodes), bool)
    weights[0], mask[:, 0] = 0.0, False
    fused = rule.fuse(p, None, weights)
    if fused.used[:, 0].any():
        yield "a node of weight 0 is listed as used"
    yield from _differ("with weight 0", fused, rule.fuse(p, mask), every, every)


def order_of_nodes(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """Where `symmetric`: another order of the nodes, with their mask and weights, gives the same answer."""
    if not rule.symmetric:
        return
    p, mask, every = posteriors(nodes, classes, seed), masks(nodes, seed), np.arange(200)
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2.0, nodes)
    for order in (np.roll(np.arange(nodes), 1), rng.permutation(nodes)):
        other = rule.fuse(p[:, order], mask[:, order], weights[order])
        yield from _differ(f"with nodes {order.tolist()}", other, rule.fuse(p, mask, weights), every, every)


def one_node_is_the_identity(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """Where `identity`: an event that one node saw is answered with that node's posterior."""
    if not rule.identity:
        return
    p = posteriors(nodes, classes, seed)
    for node in range(nodes):
        mask = np.zeros(p.shape[:2], bool)
        mask[:, node] = True
        gap = np.abs(rule.fuse(p, mask).posterior - p[:, node]).max(axis=1)
        for event in np.flatnonzero(gap > CLOSE):
            yield f"event {event}, node {node} alone: off by {gap[event]:.3g}"


def events_are_independent(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """Another order of the events, or fewer beside one, leave the answer to it as it is."""
    p, mask = posteriors(nodes, classes, seed), masks(nodes, seed)
    whole = rule.fuse(p, mask)
    for index in (np.random.default_rng(seed).permutation(len(p)), np.arange(100, 107), np.array([150])):
        part = rule.fuse(p[index], mask[index])
        yield from _differ(f"in a batch of {len(index)}", part, whole, np.arange(len(index)), index)


def fuse_is_pure(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """`fuse` writes to none of its arguments, changes no state and answers the same again."""
    p, mask, weights = posteriors(nodes, classes, seed), masks(nodes, seed), np.ones(nodes, np.float32)
    state = pickle.dumps(rule.state_dict())
    first = rule.fuse(p.copy(), mask.copy(), weights.copy())
    for array in (p, mask, weights):
        array.flags.writeable = False
    again, every = rule.fuse(p, mask, weights), np.arange(len(p))
    yield from _differ("asked again", again, first, every, every)
    if pickle.dumps(rule.state_dict()) != state:
        yield "fuse changed what state_dict returns"


def pickles(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """A pickled and restored rule answers the same."""
    try:
        twin = pickle.loads(pickle.dumps(rule))
    except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
        yield f"raised {type(error).__name__}: {error}"
        return
    p, every = posteriors(nodes, classes, seed), np.arange(200)
    yield from _differ("restored", twin.fuse(p), rule.fuse(p), every, every)


def state_round_trip(rule: FusionRule, nodes: int, classes: int, seed: int) -> Iterator[str]:
    """A copy that loads the state answers the same."""
    twin = copy.deepcopy(rule)
    twin.load_state_dict(copy.deepcopy(rule.state_dict()))
    p, every = posteriors(nodes, classes, seed), np.arange(200)
    yield from _differ("with the state loaded", twin.fuse(p), rule.fuse(p), every, every)


def _differ(how: str, found: Fused, whole: Fused, ours: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    gap = np.abs(found.posterior[ours] - whole.posterior[theirs]).max(axis=1, initial=0.0)
    gap = np.maximum(gap, np.abs(found.conflict[ours] - whole.conflict[theirs]))
    for at in np.flatnonzero(~(gap <= CLOSE)):
        yield f"event {theirs[at]} {how}: off by {gap[at]:.3g}"
