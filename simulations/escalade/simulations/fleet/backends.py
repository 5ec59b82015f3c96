"""Where shards live in one process: `SerialBackend` and `ThreadBackend`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from escalade.simulations.fleet.jit import COMPILED
from escalade.simulations.fleet.protocol import ranges
from escalade.simulations.fleet.shard import Shard

if TYPE_CHECKING:
    from escalade.simulations.fleet.book import Asked
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.protocol import Control, ShardEnd, ShardOutput


class SerialBackend:
    """One shard, in the caller's thread."""

    name = "serial"

    def start(self, world: World, asked: Asked) -> None:
        """Make the shard."""
        self._shard = Shard(world, range(world.cells), asked)

    def advance(self, control: Control, t1: int) -> list[ShardOutput]:
        """Bring it to `t1`."""
        return [self._shard.advance(control, t1)]

    def finish(self, until: int) -> list[ShardEnd]:
        """Return what it counted."""
        return [self._shard.finish(until)]

    def used(self) -> tuple[float, float]:
        """It has no processes of its own."""
        return 0.0, 0.0

    def close(self) -> None:
        """Nothing to let go of."""


class ThreadBackend:
    """A shard for each thread; the kernels hold no lock while they run.

    Parameters
    ----------
    workers
        Threads; default: as many as processors this process may use.
    """

    name = "threads"

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or (len(os.sched_getaffinity(0)) if COMPILED else 1)
        self._pool: ThreadPoolExecutor | None = None

    def start(self, world: World, asked: Asked) -> None:
        """Make the shards."""
        self._pool = pool = ThreadPoolExecutor(self._workers, thread_name_prefix="escalade-shard")
        self._shards = list(pool.map(lambda cells: Shard(world, cells, asked), ranges(world.cells, self._workers)))

    def advance(self, control: Control, t1: int) -> list[ShardOutput]:
        """Bring all to `t1`."""
        assert self._pool is not None
        return list(self._pool.map(lambda shard: shard.advance(control, t1), self._shards))

    def finish(self, until: int) -> list[ShardEnd]:
        """Return what each counted."""
        return [shard.finish(until) for shard in self._shards]

    def used(self) -> tuple[float, float]:
        """It has no processes of its own."""
        return 0.0, 0.0

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
