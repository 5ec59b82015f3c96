"""Whether the checker notices when a part of the tiers is switched off: a test of the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers.testing.chaos.history import Fault
from escalade.tiers.testing.chaos.kinds import CELL
from escalade.tiers.testing.chaos.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS, SETTLE_S = 8.0, 2.0


class Mutation(NamedTuple):
    """Something to switch off, the faults that bring it to light, and the violation that must be found."""

    faults: Sequence[Fault]
    violation: str


def _cut(start_s: float, stop_s: float) -> list[Fault]:
    return [Fault("reset", link, start_s, stop_s) for link in ("near", CELL)]


def _answers_lost(start_s: float) -> list[Fault]:
    """Deliveries have their effect, their answers are held, and then the connection is gone with them."""
    return [Fault("drop_down", "near", start_s, start_s + 1.5), Fault("reset", "near", start_s + 1.45, start_s + 1.7)]


MUTATIONS = {
    "breaker": Mutation([Fault("freeze", "edge_node", 1.0, 5.0)], "waited"),
    "fsync": Mutation([*_cut(1.0, 5.0), Fault("kill", "endpoint", 3.0, 4.0)], "lost"),
    "dedup": Mutation([*_answers_lost(1.0), *_answers_lost(3.2), *_answers_lost(5.4)], "duplicate_effect"),
}


async def noticed(*, seed: int = 0) -> dict[str, bool]:
    """Run each mutation, side by side; return whether the checker found its violation."""

    async def found(name: str, mutation: Mutation) -> bool:
        outcome = await run(seed=seed, seconds=SECONDS, faults=mutation.faults, broken=name, settle_s=SETTLE_S)
        return mutation.violation in {violation.kind for violation in outcome.violations}

    seen = await asyncio.gather(*(found(name, mutation) for name, mutation in MUTATIONS.items()))
    return dict(zip(MUTATIONS, seen, strict=True))
