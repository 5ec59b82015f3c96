"""Micro-batching for models that are too slow to run on the event loop.

An idle tier runs a request at once, alone. While every worker is busy requests wait, and the next
free worker takes what waits, the most urgent class first, up to `max_batch` rows: the batch grows with
the load and nobody waits for company. `max_delay_s` lets a run that follows a shared one wait a little
longer to fill; measured, it rarely pays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.errors import DeadlineError, ModelError
from escalade.tiers.outbox.item import PRIORITIES, RANKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.admission import Admission

    Arrays = list[NDArray[Any]]

THREAD_NAME = "escalade-model"
"""What the names of the model's threads begin with."""
SWEEP_S = 0.01
"""How often, at most, classes that are not served are looked through for what is late."""


@dataclass(slots=True)
class _Item:
    x: NDArray[Any]
    deadline: float
    arrived: float
    rank: int
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
    admission:
        Decides who may wait; told how long each run took.
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
        admission: Admission,
        on_batch: Callable[[int], None],
    ) -> None:
        self._run, self._clock, self._on_batch = run, clock, on_batch
        self._admission, self._times = admission, admission.times
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME)
        self._idle = workers
        self._ends: list[float] = []  # when the runs under way are expected to end
        self._waiting: list[deque[_Item]] = [deque() for _ in PRIORITIES]
        self.waiting_rows = [0] * len(PRIORITIES)
        """Rows that wait, by class, the most urgent first."""
        self._under_load = False
        self._timer: asyncio.TimerHandle | None = None
        self._swept = 0.0

    def submit(
        self, x: NDArray[Any], deadline: float, rank: int = RANKS["normal"], *, pending: int = 0
    ) -> asyncio.Future[Arrays]:
        """Return the outputs for `x` once they are computed.

        The future raises DeadlineError when the deadline passed before a worker was free, or would pass before
        the run ends; OverloadedError when a more urgent request took its place; ModelError when the model
        failed. Cancelling it takes the request out of the queue.

        Parameters
        ----------
        rank:
            The request's class, 0 the most urgent.
        pending:
            Requests in the tier, beside this one.

        Raises
        ------
        DeadlineError, OverloadedError
            It may not wait: see `Admission.admit`.
        """
        now, waiting = self._clock(), self.waiting_rows
        leaves = self._admission.admit(
            len(x), rank, deadline, now, pending=pending, waiting=waiting, free_in_s=self._free_in_s(now)
        )
        if leaves is not None:
            self._displace(leaves)
        future: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        self._waiting[rank].append(_Item(x, deadline, now, rank, future))
        waiting[rank] += len(x)
        self._pump()
        return future

    def close(self) -> None:
        """Start no more runs. One under way is left to its thread: a model that hangs must not hold the loop."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _free_in_s(self, now: float) -> float:
        """Return when a worker is expected to be free; negative when one is and nothing waits for it."""
        if self._idle:
            return 0.0 if any(self.waiting_rows) else -1.0
        return max(0.0, min(self._ends) - now)

    def _displace(self, rank: int) -> None:
        """Fail the newest waiting request of a class."""
        queue = self._waiting[rank]
        while queue:
            item = queue.pop()
            self.waiting_rows[rank] -= len(item.x)
            if not item.future.done():
                item.future.set_exception(self._admission.displaced(self.waiting_rows))
                return

    def _pump(self) -> None:
        """Start as many runs as there are idle workers and waiting requests."""
        while self._idle and any(self._waiting):
            if self._held_back():
                return
            if batch := self._take():
                self._start(batch)

    def _held_back(self) -> bool:
        """Whether the next run waits to fill; arranges to look again when its time is up."""
        if not (self._max_delay_s and self._under_load):
            return False
        oldest = min(queue[0].arrived for queue in self._waiting if queue)
        left = oldest + self._max_delay_s - self._clock()
        if left <= 0 or sum(self.waiting_rows) >= self._max_batch:
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
        rows, now, room = 0, self._clock(), self._admission.run_rows()
        run_s = self._times.expected_s(min(room, sum(self.waiting_rows)))
        for queue in self._waiting:
            while queue:
                item = queue[0]
                if batch and not self._may_join(item, batch[0], room - rows):
                    self._sweep(now)
                    return batch
                queue.popleft()
                self.waiting_rows[item.rank] -= len(item.x)
                if not self._gone(item, now, run_s):
                    batch.append(item)
                    rows += len(item.x)
        return batch

    def _gone(self, item: _Item, now: float, run_s: float) -> bool:
        """Whether nobody waits for an item any more; one that came too late for a run is told so."""
        if item.future.done():
            return True
        # A request that found an idle worker is run whatever was measured: a wrong measurement must not last.
        if item.deadline > now + (run_s if now > item.arrived else 0.0):
            return False
        item.future.set_exception(DeadlineError("the deadline passed while the request waited for the model"))
        return True

    def _sweep(self, now: float) -> None:
        """Drop what is late in classes that more urgent ones keep from being served."""
        if now < self._swept + SWEEP_S:
            return
        self._swept = now
        for rank, queue in enumerate(self._waiting):
            kept = [item for item in queue if not self._gone(item, now, 0.0)]
            if len(kept) < len(queue):
                self._waiting[rank] = deque(kept)
                self.waiting_rows[rank] = sum(len(item.x) for item in kept)

    def _may_join(self, item: _Item, first: _Item, room: int) -> bool:
        return len(item.x) <= room and item.x.shape[1:] == first.x.shape[1:] and not (item.alone or first.alone)

    def _start(self, batch: list[_Item]) -> None:
        self._idle -= 1
        self._under_load = len(batch) > 1 or any(self._waiting)
        x = batch[0].x if len(batch) == 1 else np.concatenate([item.x for item in batch])
        self._on_batch(len(x))
        started = self._clock()
        end = started + self._times.expected_s(len(x))
        self._ends.append(end)
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, x)
        running.add_done_callback(lambda done: self._finish(batch, len(x), started, end, done))

    def _finish(self, batch: list[_Item], rows: int, started: float, end: float, done: asyncio.Future[Arrays]) -> None:
        """Hand each request its rows, then start what waited meanwhile."""
        self._idle += 1
        self._ends.remove(end)
        self._times.observe(rows, self._clock() - started)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None and len(batch) > 1:
            wrong = next((array for array in done.result() if array.ndim == 0 or len(array) != rows), None)
            if wrong is not None:
                error = ModelError(f"the model answered {list(wrong.shape)} to {rows} rows")
        if isinstance(error, ModelError) and len(batch) > 1:
            # One input's failure must not be its neighbours': each runs again, alone.
            for item in reversed(batch):
                item.alone = True
                self._waiting[item.rank].appendleft(item)
                self.waiting_rows[item.rank] += len(item.x)
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
