"""How full one unit of a tier is, as its answers would say: `Gauge`, by the tiers' own `Admission`.

The tiers take the largest of three shares: requests inside over `max_queue`, waiting work over the time that callers
give, and how busy the event loop is. The simulator knows no event loop; requests that wait for an answer from further
up count in the tiers and not here; and the time that callers give is that of those who are inside, where the tiers
take a running mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.simulations.fleet.quantiles import mean_ms
from escalade.tiers.admission import Admission, RunTimes
from escalade.tiers.config import LimitsConfig

if TYPE_CHECKING:
    from escalade.simulations.fleet.compiled import Desk


class Gauge:
    """The load of one unit of a tier, from what is in it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        row_s = mean_ms(desk.service) / 1e3
        self._times = RunTimes(row_s, max_rows=desk.max_batch)
        rows = 2
        while rows < 2 * desk.max_batch:
            size = min(rows, desk.max_batch)
            self._times.observe(size, row_s * (1.0 + desk.each_more * (size - 1)))
            rows *= 2
        self._max_queue = desk.max_queue or LimitsConfig().max_queue

    def load(self, inside: int, waiting: int, given_ns: int, callers: int) -> float:
        """Return it, in eighths from 0 to 1.

        Parameters
        ----------
        inside, waiting
            Requests in the unit, and those of them that no worker has begun.
        given_ns, callers
            The time from arrival to limit of those that have one, summed, and how many these are.
        """
        desk = self._desk
        one = Admission("", self._times, max_queue=self._max_queue, max_batch=desk.max_batch, workers=desk.workers)
        if callers:
            one.admit(1, 0, given_ns / callers / 1e9, 0.0, pending=0, waiting=(), free_in_s=-1.0)
        return one.load(inside, (waiting,))
