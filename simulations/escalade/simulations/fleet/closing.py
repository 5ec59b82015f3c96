"""When fused events are answered, corrected and learnt from: `timeline`, the tiers' `aggregator.window` as arrays.

An event closes as soon as its quorum has reported, or `deadline_ms` after its first report. A report that comes later
than that, by `late_ms` at most, may correct the answer. A report that is older than an event can live begins none. The
rule learns from an event when all have reported, or when no late report is taken any more. Of what falls on one instant
deadlines come first, then what has been final, then reports, in the order of their numbers; so a report at the very
deadline is late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.rows import FAR, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.int64]

CLOSE, LATE, LEARN = range(3)
DUE, FINAL, REPORT = range(3)
"""Order of what falls on one instant."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """How events close; times in ns."""

    views: int
    quorum: int
    deadline: int
    late: int


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What the aggregators do in a window, in the order of groups, then of time.

    Attributes
    ----------
    kind, when
        int64 ``[S]``: `CLOSE`, `LATE` or `LEARN`, and the time, ns.
    event
        int64 ``[S]``: its place among the events of the reports.
    mask
        bool ``[S, V]``: whose report had come.
    due
        bool ``[S]``: closed by the deadline.
    """

    kind: Column
    when: Column
    event: Column
    mask: NDArray[np.bool_]
    due: NDArray[np.bool_]

    def take(self, which: NDArray[np.intp]) -> Steps:
        """Return some of them."""
        return Steps(self.kind[which], self.when[which], self.event[which], self.mask[which], self.due[which])


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Reports, sorted by event and time, and what becomes of them.

    Attributes
    ----------
    reports
        int64 ``[n, SEEN or more]``.
    first
        int64 ``[E]``: each event's first row.
    event
        int64 ``[n]``: each row's event.
    expired
        bool ``[n]``: come after its event was final.
    over
        bool ``[E]``: nothing will happen to it after the window.
    lost
        bool ``[E]``: over, and never answered: no report came, or none before the event would have been final.
    """

    reports: NDArray[np.int64]
    first: Column
    event: Column
    expired: NDArray[np.bool_]
    over: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    steps: Steps


def timeline(reports: NDArray[np.int64], rules: Rules, t0: int, t1: int) -> Timeline:
    """Return what happens in ``[t0, t1)``; all reports that arrive before `t1` are known.

    Parameters
    ----------
    reports
        int64 ``[n, SEEN or more]``, ``n > 0``, see `rows.Seen`: those of every event that was not over at `t0`.
    """
    order = np.lexsort((reports[:, Seen.VIEW], reports[:, Seen.AT], reports[:, Seen.EVENT], reports[:, Seen.CELL]))
    reports = reports[order]
    at, view = reports[:, Seen.AT], reports[:, Seen.VIEW]
    begins = np.diff(reports[:, Seen.CELL], prepend=-1) | np.diff(reports[:, Seen.EVENT], prepend=-1)
    first = np.flatnonzero(begins)
    known = np.diff(first, append=len(reports))
    event = np.repeat(np.arange(len(first)), known)
    rank = np.arange(len(reports)) - first[event]

    came = at < FAR
    opened = came[first] & (at[first] - reports[first, Seen.T] <= rules.deadline + rules.late)
    due = np.where(opened, at[first] + rules.deadline, FAR)
    in_time = np.add.reduceat((at < due[event]).astype(np.int64), first)
    enough = in_time >= rules.quorum
    close = np.where(opened & enough, at[np.minimum(first + rules.quorum - 1, len(at) - 1)], due)
    used = np.where(enough, rules.quorum, in_time)
    final = close + rules.late
    taken = opened[event] & ((rank < used[event]) | (came & (at < final[event])))
    n_taken = np.add.reduceat(taken.astype(np.int64), first)
    whole = n_taken == rules.views
    learn = np.where(whole, at[first + n_taken - 1], final)  # of none taken not looked at: it is far

    closing = np.flatnonzero((t0 <= close) & (close < t1))
    late = np.flatnonzero(taken & (rank >= used[event]) & (t0 <= at) & (at < t1))
    learning = np.flatnonzero((t0 <= learn) & (learn < t1))
    kind = np.repeat([CLOSE, LATE, LEARN], [len(closing), len(late), len(learning)])
    what = np.concatenate([closing, event[late], learning])
    last = np.concatenate([used[closing] - 1, rank[late], n_taken[learning] - 1])
    phase = np.concatenate(
        [
            np.where(enough[closing], REPORT, DUE),
            np.full(len(late), REPORT),
            np.where(whole[learning], REPORT, FINAL),
        ]
    )
    when = np.concatenate([close[closing], at[late], learn[learning]])
    row = first[what] + last
    steps = np.lexsort((kind, view[row], reports[row, Seen.EVENT], phase, when, reports[row, Seen.GROUP]))
    place = np.full((len(first), rules.views), len(reports))
    place[event, view] = rank
    what = what[steps]
    ends = np.maximum(np.where(opened, final, 0), np.maximum.reduceat(np.where(came, at, 0), first))
    over = (known == rules.views) & (ends < t1)
    return Timeline(
        reports,
        first,
        event,
        came & ~taken,
        over,
        over & ~opened,
        Steps(kind[steps], when[steps], what, place[what] <= last[steps, None], phase[steps] == DUE),
    )
