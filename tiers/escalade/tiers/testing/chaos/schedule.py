"""Which fault happens when: a pure function of a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from escalade.tiers.testing.chaos.history import Fault
from escalade.tiers.testing.chaos.kinds import CELL, DOWN, KILLING, KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

WARM_S = 3.0
"""Quiet at first, so that every tier has been reached."""
PAUSE_S = 5.5
"""Between two faults: a little more than recovery may take."""
STRETCH = 1.3
"""A fault drawn by chance lasts up to so many times as long as its kind must."""
RESTART_S = 2.0
"""More after a tier was killed: it must start before anyone can recover."""
LEAD_S = 1.0
"""An offline fault begins so long after the links are cut, and ends so long before."""

Pair = tuple[str, str]
EVERYTHING: tuple[Pair, ...] = tuple((kind, target) for kind, facts in KINDS.items() for target in facts.targets)


class TooShortError(ValueError):
    """The faults do not fit into the run."""


def required(draw: random.Random, kinds: Collection[str]) -> list[Pair]:
    """Return each kind once, and those of processes with every tier."""
    chosen: list[Pair] = []
    for kind in kinds:
        targets = KINDS[kind].targets
        chosen += [(kind, target) for target in (targets if kind in DOWN else [draw.choice(targets)])]
    return chosen


def schedule(
    seed: int, seconds: float, *, kinds: Collection[str] = tuple(KINDS), pairs: Sequence[Pair] | None = None
) -> list[Fault]:
    """Return the faults of a run in the order of their beginnings.

    Parameters
    ----------
    seconds:
        The traffic's length. What time is left when each kind has occurred is filled with further faults.
    kinds:
        Those that are possible here.
    pairs:
        Exactly these, in this order and no longer than they must be, instead.

    Raises
    ------
    TooShortError
        `seconds` are too few; the message says how many are needed.

    Examples
    --------
    >>> for fault in schedule(7, 21.0, pairs=[("freeze", "edge_server"), ("drop_both", "near")]):
    ...     print(fault)
    Fault(kind='freeze', target='edge_server', start_s=3.0, stop_s=7.0)
    Fault(kind='drop_both', target='near', start_s=12.5, stop_s=16.5)
    """
    draw = random.Random(seed)  # no secrets here
    wanted = list(pairs) if pairs is not None else required(draw, kinds)
    if pairs is None:
        draw.shuffle(wanted)
    faults: list[Fault] = []
    now = WARM_S
    for pair in wanted:
        faults += (these := _at(now, *pair, 1.0 if pairs is not None else draw.uniform(1.0, STRETCH)))
        now = over_s(these) + PAUSE_S
    if now - PAUSE_S > seconds:
        raise TooShortError(f"{len(wanted)} faults need {now - PAUSE_S:.0f} s; the run has {seconds:.0f}")
    more = [pair for pair in EVERYTHING if pair[0] in kinds]
    while pairs is None and more:
        these = _at(now, *draw.choice(more), draw.uniform(1.0, STRETCH))
        now = over_s(these) + PAUSE_S
        if now > seconds:
            break
        faults += these
    return faults


def over_s(faults: Sequence[Fault]) -> float:
    """Return when all of them are over and everything runs again."""
    return max(fault.stop_s + (RESTART_S if fault.kind in KILLING else 0.0) for fault in faults)


def _at(start_s: float, kind: str, target: str, stretch: float) -> list[Fault]:
    """Return the fault, with the cut of the endpoint's links about it if it is one for a tier offline."""
    lasts_s = KINDS[kind].seconds * stretch
    if not (KINDS[kind].offline or (kind, target) == ("kill", "endpoint")):
        return [Fault(kind, target, start_s, start_s + lasts_s)]
    cut = [Fault("reset", link, start_s, start_s + lasts_s + 2 * LEAD_S) for link in ("near", CELL)]
    return [*cut, Fault(kind, target, start_s + LEAD_S, start_s + LEAD_S + lasts_s)]
