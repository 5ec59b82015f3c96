"""Where windows end: `Windows`. Nothing that is in force may change inside one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from escalade.simulations.fleet.load import rate_hz, views_hz
from escalade.simulations.fleet.rows import FAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from escalade.simulations.fleet.compiled import World

ROWS = 48_000
"""Arrivals of a cell in a window, about: few enough for the processor's caches, enough for the calls to cost little."""

ALL_ROWS = 1_200_000
"""Arrivals of all cells in a window, about: what is on its way to the servers is then some ten megabytes."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The ends of a run's windows, ns.

    Attributes
    ----------
    length
        The most.
    steps
        At the multiples of these something changes.
    duration
        Of the run; one more window, without end, then brings everything home that is under way.
    """

    length: int
    steps: tuple[int, ...]
    duration: int

    @classmethod
    def of(cls, world: World, steps: tuple[int, ...]) -> Windows:
        """Return the scenario's, or as long ones as suit the caches."""
        asked = world.scenario.engine.window_s
        if asked is not None:
            return cls(max(1, round(asked * 1e9)), steps, world.duration)
        rate = sum(one.count * rate_hz(world, kind) for kind, one in enumerate(world.scenario.endpoints))
        rate += views_hz(world)
        rows = min(ROWS * world.cells, max(ALL_ROWS, world.cells * ROWS // 8))
        seconds = rows / max(rate, 1e-9)
        return cls(min(max(1, round(seconds * 1e9)), world.duration), steps, world.duration)

    def __iter__(self) -> Iterator[int]:
        t = 0
        while t < self.duration:
            t = min(self.duration, *((t // step + 1) * step for step in (self.length, *self.steps)))
            yield t
        yield FAR
