"""Who may enter a tier that is short of time or room: refused early and cheaply, the least urgent first.

No clock, no I/O. What could not be answered by its deadline, given the work ahead of it, is refused at the door
instead of computed in vain; when the queue is full, the least urgent class that waits makes room. A tier with a
free worker refuses nothing that has time left, whatever was measured: so a wrong measurement corrects itself.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from escalade.tiers.errors import DeadlineError, OverloadedError
from escalade.tiers.outbox.item import PRIORITIES, RANKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from escalade.tiers.caller import Caller
    from escalade.tiers.outbox.item import Priority

MARGIN = 1.5
"""What an answer is expected to take, times this, must fit into the time left: runs vary, more urgent requests
come in between, and the answer has a way to go. A shorter queue costs no throughput."""
NEWEST = 0.2
"""Weight of the newest measurement in a running mean."""
IDLE_BUSY = 0.5
"""The load counts from here: an event loop that is busy half of the time has room for bursts."""
RUN_SHARE = 0.25
"""No shared run takes more of the time that callers give: a worker that is busy as long answers nobody else."""
EIGHTHS = 8
BULK = RANKS["bulk"]


def rank_of(caller: Caller) -> int:
    """Return a request's class: its priority's place, 0 first; what comes from an outbox waits with `bulk`."""
    return BULK if caller.delivery else RANKS[caller.priority]


def class_of(caller: Caller) -> Priority:
    """Return the name of that class, as it is counted."""
    return PRIORITIES[rank_of(caller)]


class RunTimes:
    """How long runs of the model take, by their rows: learnt from runs, over sizes 1, 2, 4, 8 and so on.

    A size that was never run is taken to be as quick as the next smaller one that was: on many devices 32 rows
    take hardly longer than one, and to refuse for that would be to never find out.

    Parameters
    ----------
    row_s:
        Of one row, measured at warm-up.
    max_rows:
        Most rows in any run.
    """

    def __init__(self, row_s: float, *, max_rows: int) -> None:
        self._seconds: list[float | None] = [None] * ((max_rows - 1).bit_length() + 1)
        self._seconds[0] = row_s

    def observe(self, rows: int, seconds: float) -> None:
        """Take in a run."""
        size = min((rows - 1).bit_length(), len(self._seconds) - 1)
        known = self._seconds[size]
        self._seconds[size] = seconds if known is None else known + NEWEST * (seconds - known)

    def expected_s(self, rows: int) -> float:
        """Return how long a run of so many rows takes."""
        for size in range(min((rows - 1).bit_length(), len(self._seconds) - 1), -1, -1):
            if (known := self._seconds[size]) is not None:
                return known
        raise AssertionError("one row is always known")  # pragma: no cover


class Admission:
    """Decides about requests that have to wait for a worker, and tells how full the tier is.

    Parameters
    ----------
    name:
        The tier's, for the texts.
    max_queue:
        Requests in the tier at once.
    max_batch, workers:
        Most rows in a shared run, and runs at a time.
    """

    def __init__(self, name: str, times: RunTimes, *, max_queue: int, max_batch: int, workers: int) -> None:
        self._name, self.times = name, times
        self._max_queue, self._max_batch, self._workers = max_queue, max_batch, workers
        self._budget_s = inf  # the time that callers give, a running mean
        self.busy = 0.0
        """Share of the time that the event loop was at work lately: whoever measures it sets it."""

    def admit(
        self,
        rows: int,
        rank: int,
        deadline: float,
        now: float,
        *,
        pending: int,
        waiting: Sequence[int],
        free_in_s: float,
    ) -> int | None:
        """Return None if a request may enter, or the class of which a waiting request has to leave for it.

        Parameters
        ----------
        rows, rank, deadline:
            The request's.
        pending:
            Requests in the tier.
        waiting:
            Rows that wait for a worker, by class.
        free_in_s:
            When a worker is expected to be free; negative when one is.

        Raises
        ------
        DeadlineError
            It is over.
        OverloadedError
            `deadline`: it could not be answered in time; `queue`: no room, and nobody less urgent waits.
        """
        left_s = deadline - now
        if left_s <= 0:
            raise late_on_arrival()
        if left_s < inf:
            self._budget_s = left_s if self._budget_s == inf else self._budget_s + NEWEST * (left_s - self._budget_s)
        if free_in_s >= 0.0:
            needed_s = free_in_s + self._work_s(sum(waiting[: rank + 1]) + rows)
            if needed_s * MARGIN > left_s:
                raise OverloadedError(
                    f"{self._name} is overloaded: an answer would take {needed_s * 1e3:.0f} ms and "
                    f"{left_s * 1e3:.0f} ms are left; give it more time, ask elsewhere, or try again later",
                    cause="deadline",
                    retry_s=max(0.0, needed_s - left_s),
                )
        if pending < self._max_queue:
            return None
        for other in range(len(waiting) - 1, rank, -1):
            if waiting[other]:
                return other
        raise self.full(pending, waiting)

    def full(self, pending: int, waiting: Sequence[int] = ()) -> OverloadedError:
        """Return the refusal for want of room."""
        return OverloadedError(
            f"{self._name} already holds {pending} requests, its limits.max_queue; ask elsewhere or try again later",
            cause="queue",
            retry_s=self._work_s(sum(waiting)),
        )

    def displaced(self, waiting: Sequence[int]) -> OverloadedError:
        """Return what a request is told that has to leave for a more urgent one."""
        return OverloadedError(
            f"{self._name} is full and gave this place to a more urgent request; ask elsewhere or try again later",
            cause="displaced",
            retry_s=self._work_s(sum(waiting)),
        )

    def run_rows(self) -> int:
        """Return the most rows that share a run now: `max_batch`, or as many as leave time for others."""
        rows, longest_s = self._max_batch, self._budget_s * RUN_SHARE
        while rows > 1 and self.times.expected_s(rows) > longest_s:
            rows = (rows + 1) // 2
        return rows

    def load(self, pending: int, waiting: Sequence[int]) -> float:
        """Return how full the tier is, in eighths from 0 to 1: by count, by time, or by the event loop's work.

        1 means: what comes now can hardly be answered within the time that callers give.
        """
        if not pending and self.busy <= IDLE_BUSY:
            return 0.0
        full = max(pending / self._max_queue, (self.busy - IDLE_BUSY) / (1.0 - IDLE_BUSY))
        if (rows := sum(waiting)) and self._budget_s < inf:
            full = max(full, self._work_s(rows) * MARGIN / self._budget_s)
        return int(min(max(full, 0.0), 1.0) * EIGHTHS) / EIGHTHS

    def _work_s(self, rows: int) -> float:
        """Return how long the workers take to run so many rows together."""
        if not rows:
            return 0.0
        at_a_time = self.run_rows()
        runs, rest = divmod(rows, at_a_time)
        whole_s = self.times.expected_s(at_a_time) if runs else 0.0
        rest_s = self.times.expected_s(rest) if rest else 0.0
        return max((runs * whole_s + rest_s) / self._workers, whole_s, rest_s)


def late_on_arrival() -> DeadlineError:
    """Return the error for a request that nobody waits for any more."""
    return DeadlineError("the deadline had passed when the request arrived")
