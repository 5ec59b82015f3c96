"""The aggregators at the servers, fed by all cells: `Aggregators` answers fused events window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.closing import LATE, LEARN, Rules, timeline
from escalade.simulations.fleet.deciding import PolicyRaisedError, failure_of
from escalade.simulations.fleet.draws import GOLDEN, Purpose, mix
from escalade.simulations.fleet.fusing import Fusers
from escalade.simulations.fleet.histogram import bin_of
from escalade.simulations.fleet.intervals import from_config, up_again
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.result import Count, Hist, Series, ViewCount
from escalade.simulations.fleet.rows import FAR, SEEN, Seen
from escalade.simulations.fleet.views import said, samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.policies.fusion import FusionRule
    from escalade.simulations.fleet.closing import Steps, Timeline
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.result import Stats

    Rows = NDArray[np.int64]

LABEL = SEEN
"""A column behind those of `Seen`: what was answered last."""
CORRECTION, GONE = 1 << 40, 1 << 41
"""In an event's part of the hash: an answer after the first; no answer at all."""


class Aggregators:
    """The state of the aggregators, brought forward window by window after the cells; nothing waits for them."""

    def __init__(self, world: World, rule: FusionRule) -> None:
        events, servers = world.scenario.events, world.scenario.edge_servers
        assert events is not None
        self._world, self._fusers, self._t0 = world, Fusers(rule), 0
        self._rules = rules_of(world)
        key = world.keys[world.cells, Purpose.FAILURE_2]
        self._down = from_config(servers.failures, servers.count, world.duration, key)
        self._pool = np.empty((0, SEEN + 1), np.int64)

    @property
    def pending(self) -> int:
        """Views whose events are not over."""
        return len(self._pool)

    def unhealthy(self) -> dict[str, int]:
        """Return how many nodes are unwell now, by what is the matter with them."""
        return self._fusers.unhealthy()

    def advance(self, seen: Sequence[Rows], t1: int, stats: Stats) -> None:
        """Do everything that happens before `t1`; raises PolicyRaisedError."""
        new = np.concatenate([np.empty((0, SEEN), np.int64), *seen])
        self._turn_away(new)
        stats.count[Count.VIEWS_LOST] += np.count_nonzero(new[:, Seen.AT] == FAR)
        pool = np.concatenate([self._pool, np.pad(new, ((0, 0), (0, 1)))])
        t0, self._t0 = self._t0, t1
        if not len(pool):
            return
        found = timeline(pool, self._rules, t0, t1)
        self._count_reports(found, t0, t1, stats)
        self._count_lost(found, stats)
        labels = self._answer(found, stats)
        reports = found.reports
        reports[:, LABEL] = labels[found.event]
        self._pool = reports[~found.over[found.event]]

    def _turn_away(self, new: Rows) -> None:
        """Let reports that come while their server is down be lost."""
        if len(self._down.first) == 1:
            return
        servers, nodes = self._world.scenario.edge_servers.count, self._world.scenario.edge_nodes.count
        unit = (new[:, Seen.GROUP] + new[:, Seen.VIEW]) * servers // nodes
        at = new[:, Seen.AT].copy()
        _lose(*self._down, unit, at)
        new[:, Seen.AT] = at

    def _said(self, rows: Rows, view: Rows) -> NDArray[np.float32]:
        cell, event, group, t = (rows[:, column] for column in (Seen.CELL, Seen.EVENT, Seen.GROUP, Seen.T))
        return said(self._world, cell, event, view, group, t)

    def _count_reports(self, found: Timeline, t0: int, t1: int, stats: Stats) -> None:
        at = found.reports[:, Seen.AT]
        now = (t0 <= at) & (at < min(t1, FAR))
        rows = found.reports[now]
        view = rows[:, Seen.VIEW]
        truth = self._truth(rows)
        right = self._said(rows, view).argmax(axis=1) == truth
        np.add.at(stats.by_view[:, ViewCount.CAME], view, 1)
        np.add.at(stats.by_view[:, ViewCount.CORRECT], view, right)
        row = self._interval(rows[:, Seen.AT], stats)
        np.add.at(stats.series[:, Series.VIEWS], row, 1)
        np.add.at(stats.series[:, Series.VIEWS_CORRECT], row, right)
        stats.count[Count.VIEWS_EXPIRED] += np.count_nonzero(found.expired & now)

    def _count_lost(self, found: Timeline, stats: Stats) -> None:
        rows = found.reports[found.first[found.lost]]
        stats.count[Count.EVENTS] += len(rows)
        self._hash(rows, np.full(len(rows), GONE), np.zeros(len(rows), np.int64), stats)

    def _answer(self, found: Timeline, stats: Stats) -> Rows:
        """Fuse, learn, count; return each event's last label."""
        steps, views = found.steps, self._rules.views
        heads = found.reports[found.first]
        labels = heads[:, LABEL].copy()
        if not len(steps.kind):
            return labels
        asked, which = np.unique(steps.event, return_inverse=True)
        rows = np.repeat(heads[asked], views, axis=0)
        p = self._said(rows, np.tile(np.arange(views), len(asked))).reshape(len(asked), views, -1)[which]
        group = heads[steps.event, Seen.GROUP]
        try:
            fused = self._fusers.labels(group, steps.kind == LEARN, p, steps.mask)
        except Exception as error:
            first_s = float(steps.when.min()) / 1e9
            raise PolicyRaisedError(failure_of(error, "fused events", -1, "fuse or observe", None, first_s)) from error
        fuses = np.flatnonzero(steps.kind != LEARN)
        event, label = steps.event[fuses], fused[fuses]
        order = np.argsort(event, kind="stable")  # each event's answers one after another
        ordered, again = label[order], np.diff(event[order], prepend=-1) == 0
        before = np.empty_like(label)
        before[order] = np.where(again, np.roll(ordered, 1), labels[event[order]])
        labels[event[order]] = ordered
        self._count_answers(heads[event], steps.take(fuses), label, before, stats)
        return labels

    def _count_answers(self, rows: Rows, steps: Steps, label: Rows, before: Rows, stats: Stats) -> None:
        """Count what was fused; `before` is what was answered before."""
        count, series = stats.count, stats.series
        truth, late = self._truth(rows), steps.kind == LATE
        right, used = label == truth, steps.mask.sum(axis=1)
        corrects = late & (label != before)
        early = Count.EVENTS_COMPLETE if self._rules.quorum == self._rules.views else Count.EVENTS_QUORUM
        for what, rows_of in (
            (Count.EVENTS, ~late),
            (Count.EVENTS_DEADLINE, steps.due),
            (early, ~late & ~steps.due),
            (Count.EVENTS_CORRECT, ~late & right),
            (Count.EVENTS_CORRECT_LAST, ~late & right),
            (Count.EVENTS_CORRECTIONS, corrects),
            (Count.VIEWS_LATE, late),
        ):
            count[what] += np.count_nonzero(rows_of)
        count[Count.EVENTS_CORRECT_LAST] += int(right[corrects].sum()) - int((before == truth)[corrects].sum())
        count[Count.EVENTS_VIEWS] += used[~late].sum()
        took, at = (steps.when - rows[:, Seen.T])[~late], self._interval(steps.when[~late], stats)
        np.add.at(stats.hist[Hist.FUSED], bin_of(took), 1)
        np.add.at(series[:, Series.EVENTS], at, 1)
        np.add.at(series[:, Series.EVENTS_CORRECT], at, right[~late])
        np.add.at(series[:, Series.EVENTS_NS], at, took)
        code = (label + 1) | (used << 20) | (steps.due.astype(np.int64) << 30) | np.where(late, CORRECTION, 0)
        told = ~late | corrects
        self._hash(rows[told], code[told], steps.when[told], stats)

    def _truth(self, rows: Rows) -> Rows:
        assert self._world.sights is not None
        truth: Rows = self._world.sights.truth[samples(self._world, rows[:, Seen.CELL], rows[:, Seen.EVENT])]
        return truth

    def _interval(self, t: Rows, stats: Stats) -> Rows:
        row: Rows = np.minimum(t // self._world.interval, len(stats.series) - 1)
        return row

    def _hash(self, rows: Rows, code: Rows, at: Rows, stats: Stats) -> None:
        key = self._world.keys[rows[:, Seen.CELL], Purpose.EVENT_HASH]
        stats.digest += digest_of(key, rows[:, Seen.EVENT], code, at)


def rules_of(world: World) -> Rules:
    """Return how a scenario's events close."""
    events = world.scenario.events
    assert events is not None
    quorum = events.quorum or events.views
    return Rules(events.views, quorum, round(events.deadline_ms * 1e6), round(events.late_ms * 1e6))


@kernel
def digest_of(key: Any, event: Any, code: Any, at: Any) -> Any:
    """Return the sum of the hashes of answers, a uint64."""
    total = np.uint64(0)
    for i in range(event.shape[0]):
        one = key[i] + np.uint64(event[i]) * GOLDEN
        total += mix(mix(one + np.uint64(code[i])) ^ np.uint64(at[i]))
    return total


@kernel
def _lose(first: Any, start: Any, end: Any, unit: Any, at: Any) -> None:
    for i in range(at.shape[0]):
        if at[i] < FAR and up_again(first, start, end, unit[i], at[i]) != at[i]:
            at[i] = FAR
