"""Micro-batching for models that are too slow to run on the event loop.

An idle tier runs a request at once, alone. While every worker is busy requests wait, and the next
free worker takes all that wait, up to `max_batch` rows: the batch grows with the load and nobody waits
for company. `max_delay_s` lets a run that follows a shared one wait a little longer to fill; measured,
it rarely pays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.errors import DeadlineError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Arrays = list[NDArray[Any]]

THREAD_NAME = "escalade-model"
"""What the names of the model's threads begin with."""


@dataclass(slots=True)
class _Item:
    x: NDArray[Any]
    deadline: float
    arrived: float
    future: asyncio.Future[Arrays]
    alone: bool = False


class Batcher:
    """Collects requests into runs of the model on worker threads.

    Parameters
    ----------
    run:
        Called in a worker thread with a batch `[B, ...]`; returns arrays with leading dimension `B`.
    max_batch:
        Most rows in one run; a request with more runs alone.
    workers:
        Threads, and so runs at a time.
    clock:
        Seconds, monotonic; the same that deadlines are given in.
    on_batch:
        Told the rows of each run.
    """

    def __init__(
        self,
        run: Callable[[NDArray[Any]], Arrays],
        *,
        max_batch: int,
        max_delay_s: float,
        workers: int,
        clock: Callable[[], float],
        on_batch: Callable[[int], None],
    ) -> None:
        self._run, self._clock, self._on_batch = run, clock, on_batch
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME)
        self._idle = workers
        self._waiting: deque[_Item] = deque()
        self._under_load = False
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, x: NDArray[Any], deadline: float) -> asyncio.Future[Arrays]:
        """Return the outputs for `x` once they are computed.

        The future raises DeadlineError when the deadline passed before a worker was free, ModelError
        when the model failed. Cancelling it takes the request out of the queue.
        """
        future: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(x, deadline, self._clock(), future))
        self._pump()
        return future

    def close(self) -> None:
        """Start no more runs. One under way is left to its thread: a model that hangs must not hold the loop."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pump(self) -> None:
        """Start as many runs as there are idle workers and waiting requests."""
        while self._idle and self._waiting:
            if self._held_back():
                return
            if batch := self._take():
                self._start(batch)

    def _held_back(self) -> bool:
        """Whether the next run waits to fill; arranges to look again when its time is up."""
        if not (self._max_delay_s and self._under_load):
            return False
        left = self._waiting[0].arrived + self._max_delay_s - self._clock()
        if left <= 0 or sum(len(item.x) for item in self._waiting) >= self._max_batch:
            return False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._timer_fired)
        return True

    def _timer_fired(self) -> None:
        self._timer = None
        self._pump()

    def _take(self) -> list[_Item]:
        """Take the next run's requests off the queue; what is late or cancelled is dropped, not computed."""
        batch: list[_Item] = []
        rows, now = 0, self._clock()
        while self._waiting:
            item = self._waiting[0]
            if batch and not self._may_join(item, batch[0], rows):
                break
            self._waiting.popleft()
            if item.future.done():
                continue
            if item.deadline <= now:
                item.future.set_exception(DeadlineError("the deadline passed while the request waited for the model"))
                continue
            batch.append(item)
            rows += len(item.x)
        return batch

    def _may_join(self, item: _Item, first: _Item, rows: int) -> bool:
        return (
            rows + len(item.x) <= self._max_batch
            and item.x.shape[1:] == first.x.shape[1:]
            and not (item.alone or first.alone)
        )

    def _start(self, batch: list[_Item]) -> None:
        self._idle -= 1
        self._under_load = len(batch) > 1 or bool(self._waiting)
        x = batch[0].x if len(batch) == 1 else np.concatenate([item.x for item in batch])
        self._on_batch(len(x))
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, x)
        running.add_done_callback(lambda done: self._finish(batch, len(x), done))

    def _finish(self, batch: list[_Item], rows: int, done: asyncio.Future[Arrays]) -> None:
        """Hand each request its rows, then start what waited meanwhile."""
        self._idle += 1
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None and len(batch) > 1:
            wrong = next((array for array in done.result() if array.ndim == 0 or len(array) != rows), None)
            if wrong is not None:
                error = ModelError(f"the model answered {list(wrong.shape)} to {rows} rows")
        if isinstance(error, ModelError) and len(batch) > 1:
            # One input's failure must not be its neighbours': each runs again, alone.
            for item in reversed(batch):
                item.alone = True
                self._waiting.appendleft(item)
            self._pump()
            return
        start = 0
        for item in batch:
            stop = start + len(item.x)
            if item.future.done():
                pass
            elif error is not None:
                item.future.set_exception(error)
            else:
                item.future.set_result([array[start:stop] if len(batch) > 1 else array for array in done.result()])
            start = stop
        self._pump()
