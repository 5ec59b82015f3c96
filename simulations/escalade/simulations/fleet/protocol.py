"""What travels between the run and its shards each window: `Control` down, `ShardOutput` up; and `Backend`.

A window ``[t0, t1)`` of a shard needs nothing but its own state and the `Control` of its beginning, so shards may
live in threads, in processes or on other machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from escalade.policies import Feedback, Policy, Telemetry
    from escalade.simulations.fleet.book import Asked
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.result import Failure, Stats


class Told(NamedTuple):
    """What consecutive devices of the fleet counted for the policies of a level."""

    level: int
    first: int
    counts: NDArray[np.int32]
    """``[devices, 3]``: answers, those in time, escalations."""


class Lesson(NamedTuple):
    """What policies are told that every unit has for itself: those with a memory of their decisions.

    Attributes
    ----------
    which
        The class of endpoints; their number for the edge nodes.
    what
        To observe, or to retune by.
    unit
        int64, for each row of it: whose it is, a device or an edge node of the fleet.
    at_s
        Now.
    """

    which: int
    what: Feedback | Telemetry
    unit: NDArray[np.int64]
    at_s: float


@dataclass(slots=True, eq=False)
class Control:
    """What is in force from the beginning of a window on.

    Attributes
    ----------
    policies
        The policy of each endpoint class, then that of the edge nodes; None where they are those of the last
        window. `decide` is pure, so threads share them; a process gets a pickled copy.
    upstream_ms
        What the endpoints and the edge nodes are told of the tier above; nan when unknown.
    server_load
        float64 ``[servers]``: what the edge nodes are told; None where no policy of theirs asks.
    lessons
        Due at the beginning of the window.
    """

    policies: list[Policy] | None = None
    upstream_ms: tuple[float, float] = (float("nan"), float("nan"))
    server_load: NDArray[np.float64] | None = None
    lessons: list[Lesson] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ShardOutput:
    """What a shard did in a window.

    Attributes
    ----------
    up
        Of each cell, int64 ``[n, UP]``: messages that were sent to the servers; those that got over the link have the
        `STATUS` `DONE`; see `rows.Up`.
    outcomes
        int64 ``[n, OUTCOME]``, only for policies that retune; see `rows.Outcome`.
    feedback
        int64 ``[n, FED]``, only for policies that observe; see `rows.Fed`.
    requests
        Arrivals of this window.
    answered
        Answers by the tiers of the shard so far in this window, endpoint and edge node.
    pending
        Requests that are under way at the end of the window.
    interval
        int64 ``[SERIES]``: the row of the time series of the control interval that the window ended, or is in.
    told
        At the end of a control interval and for policies that retune; `outcomes` has the rest, known later.
    seen
        int64 ``[n, SEEN]``: views of fused events that arrive at the server, or never will; see `rows.Seen`.
    failure
        A policy raised; the window's state is then not whole, and the run ends.
    """

    up: list[NDArray[np.int64]]
    outcomes: NDArray[np.int64]
    feedback: NDArray[np.int64]
    requests: int
    answered: tuple[int, int]
    pending: int
    interval: NDArray[np.int64]
    told: list[Told]
    seen: NDArray[np.int64]
    failure: Failure | None = None


@dataclass(slots=True, eq=False)
class ShardEnd:
    """What a shard hands over when a run ends, or is interrupted.

    Attributes
    ----------
    stats
        Its counters.
    ended
        With ``keep_requests``, int64 ``[n, ENDED]``; see `rows.Ended`.
    charge
        Of every device with a battery: capacity, charge left, time of death (or -1), int64 ``[4, n]`` after the
        device's number; in pJ and ns.
    """

    stats: Stats
    ended: NDArray[np.int64]
    charge: NDArray[np.int64]


class Backend(Protocol):
    """Where the shards live. Order of shards is order of cells, whatever the number of workers."""

    name: str

    def start(self, world: World, asked: Asked) -> None:
        """Make the shards; each owns consecutive cells of ``range(world.cells)``."""

    def advance(self, control: Control, t1: int) -> list[ShardOutput]:
        """Bring every shard to `t1` ns; return their outputs in order of cell."""

    def finish(self, until: int) -> list[ShardEnd]:
        """Return what every shard counted, in order of cell; batteries idle until `until`."""

    def used(self) -> tuple[float, float]:
        """Return CPU seconds and peak memory, MiB, of processes of its own, once finished."""

    def close(self) -> None:
        """Let go of everything; may be called twice."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, after each window."""

    time_s: float
    duration_s: float
    requests: int
    answered: tuple[int, int, int]
    pending: int
    wall_s: float


def ranges(cells: int, workers: int) -> Sequence[range]:
    """Return the cells of each worker: consecutive, as equal as they can be, none empty."""
    parts = max(1, min(cells, workers))
    return [range(k * cells // parts, (k + 1) * cells // parts) for k in range(parts)]
