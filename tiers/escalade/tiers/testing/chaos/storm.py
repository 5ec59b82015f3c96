"""Many short faults at once: no order to them, and nothing left in peace. A pure function of a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from escalade.tiers.testing.chaos.history import Fault
from escalade.tiers.testing.chaos.kinds import CELL, KILLING, KINDS, LINKS, TIERS

if TYPE_CHECKING:
    from collections.abc import Collection

EVERY_S = 0.8
"""The mean time between two beginnings."""
SHORTEST_S, LONGEST_S = 0.1, 2.5
RESTART_S = 4.0
"""A tier that was killed is left alone for so long: it must first be there again."""
BREATH_S = 0.3


def storm(seed: int, start_s: float, stop_s: float, *, kinds: Collection[str] = tuple(KINDS)) -> list[Fault]:
    """Return faults of any kind, of which several may go on at once, on each link and tier one at a time.

    Nothing of how soon something is noticed can be told in a storm; everything else holds in it too.

    Examples
    --------
    >>> for fault in storm(1, 0.0, 6.0):
    ...     print(f"{fault.kind} {fault.target} {fault.start_s:.1f} {fault.seconds:.1f}")
    loss near 0.1 0.4
    power_cut endpoint 1.3 1.0
    kill edge_node 1.4 2.2
    garbage near 1.8 0.7
    cap near 3.1 0.2
    kill edge_server 3.2 2.4
    """
    draw = random.Random(seed)
    free_s = dict.fromkeys((*LINKS, CELL, *TIERS), start_s)
    faults: list[Fault] = []
    now = start_s
    while (now := now + draw.expovariate(1 / EVERY_S)) < stop_s - LONGEST_S:
        targets = [target for target, from_s in free_s.items() if from_s <= now]
        if not targets:
            continue
        target = draw.choice(targets)
        like = LINKS[0] if target == CELL else target
        possible = [kind for kind in kinds if like in KINDS[kind].targets]
        if not possible:
            continue
        kind, lasts_s = draw.choice(possible), draw.uniform(SHORTEST_S, LONGEST_S)
        faults.append(Fault(kind, target, now, now + lasts_s))
        free_s[target] = now + lasts_s + (RESTART_S if kind in KILLING else BREATH_S)
    return faults
