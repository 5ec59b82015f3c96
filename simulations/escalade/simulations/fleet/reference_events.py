"""Fused events in the reference engine: views as messages, an aggregator that takes one report after the other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.aggregators import CORRECTION, GONE, digest_of, rules_of
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.fusing import NO_LABEL, rule_of
from escalade.simulations.fleet.histogram import bin_of
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.reference_parts import AT_NODE, DUE, FINAL, Request, periods_of, up_from
from escalade.simulations.fleet.result import Count, Hist, Series, ViewCount
from escalade.simulations.fleet.sources import event_source
from escalade.simulations.fleet.views import DEAD, VIEW_RID, broken, said, samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.fusion import FusionRule
    from escalade.simulations.fleet.reference import EventFleet


@dataclass(eq=False)
class Event:
    """What the aggregator knows of an event."""

    cell: int
    number: int
    group: int
    """The fleet's number of the group's first node."""
    first: int
    """The same in the cell."""
    t: int
    said: NDArray[np.float32]
    truth: int
    present: NDArray[np.bool_]
    open: bool = True
    final: bool = False
    label: int = NO_LABEL


class View(Request):
    """One node's message about an event."""

    def __init__(self, event: Event, place: int) -> None:
        super().__init__(event.cell, VIEW_RID + event.number * 16 + place, event.t, -1)
        self.event, self.place, self.node = event, place, event.first + place
        self.answered = [True, True]


class Gathering:
    """The events of a run and their aggregators."""

    def __init__(self, fleet: EventFleet) -> None:
        world = fleet.world
        assert fleet.scenario.events is not None
        self.fleet, self._events, self._rules = fleet, fleet.scenario.events, rules_of(world)
        self._rule = rule_of(world)
        self._of: dict[int, FusionRule] = {}
        servers = fleet.scenario.edge_servers
        key = world.keys[world.cells, Purpose.FAILURE_2]
        down = from_config(servers.failures, servers.count, world.duration, key)
        self._down = [periods_of(down, unit) for unit in range(servers.count)]
        self._all: list[Event] = []

    def begin(self) -> None:
        """Let all events happen."""
        for cell in range(self.fleet.world.cells):
            times, groups = event_source(self.fleet.world, cell).until(self.fleet.world.duration)
            for number, (t, group) in enumerate(zip(times.tolist(), groups.tolist(), strict=True)):
                self._happen(cell, number, t, group * self._rules.views)

    def inferred(self, one: View) -> None:
        """Let a node send what it says."""
        fleet, size = self.fleet, self._events.bytes_up
        fleet.stats.count[Count.BYTES_VIEWS] += size
        one.sent[1] = fleet.now
        fleet.link_of(one).send(one, size)

    def arrive(self, one: View) -> None:
        """Take a report."""
        fleet, event, count = self.fleet, one.event, self.fleet.stats.count
        scenario = fleet.scenario
        server = (event.group + one.place) * scenario.edge_servers.count // scenario.edge_nodes.count
        if up_from(self._down[server], fleet.now) != fleet.now:
            return
        right = int(event.said[one.place].argmax()) == event.truth
        fleet.stats.by_view[one.place, ViewCount.CAME] += 1
        fleet.stats.by_view[one.place, ViewCount.CORRECT] += right
        row = fleet.stats.series[fleet.interval_of(fleet.now)]
        row[Series.VIEWS] += 1
        row[Series.VIEWS_CORRECT] += right
        rules = self._rules
        if event.final or (not event.present.any() and fleet.now - event.t > rules.deadline + rules.late):
            count[Count.VIEWS_EXPIRED] += 1
            return
        if not event.present.any():
            when = fleet.now + rules.deadline
            fleet.at(when, DUE, event.cell, event.number, partial(self._close, event, due=True))
        event.present[one.place] = True
        if not event.open:
            count[Count.VIEWS_LATE] += 1
            self._correct(event)
        elif event.present.sum() == rules.quorum:
            self._close(event, due=False)
        if event.present.all():
            self._learn(event)

    def finish(self) -> None:
        """Count events that nobody reported, and views that never came."""
        stats = self.fleet.stats
        came = int(stats.by_view[:, ViewCount.CAME].sum())
        stats.count[Count.VIEWS_LOST] = len(self._all) * self._rules.views - came
        for event in self._all:
            if not event.present.any():
                stats.count[Count.EVENTS] += 1
                self._hash(event, GONE, 0)

    def _happen(self, cell: int, number: int, t: int, first: int) -> None:
        fleet, world = self.fleet, self.fleet.world
        assert world.sights is not None
        group, views = world.nodes(cell).start + first, self._rules.views
        place = np.arange(views)
        cells, numbers, groups, times = (np.full(views, value) for value in (cell, number, group, t))
        truth = int(world.sights.truth[samples(world, cells, numbers)[0]])
        p = said(world, cells, numbers, place, groups, times)
        event = Event(cell, number, group, first, t, p, truth, np.zeros(views, np.bool_))
        self._all.append(event)
        for view in np.flatnonzero(broken(world, place, groups, times) != DEAD).tolist():
            one = View(event, view)
            fleet.at(t, AT_NODE, cell, one.rid, fleet.taker_of(one, 1))

    def _of_group(self, event: Event) -> FusionRule:
        return self._of.setdefault(event.group, copy.deepcopy(self._rule))

    def _fused(self, event: Event) -> int:
        answer = self._of_group(event).fuse(event.said[None], event.present[None])
        return int(answer.posterior[0].argmax()) if answer.used[0].any() else NO_LABEL

    def _close(self, event: Event, *, due: bool) -> None:
        if not event.open:
            return
        fleet, stats, rules = self.fleet, self.fleet.stats, self._rules
        event.open, event.label = False, self._fused(event)
        right, now, used = event.label == event.truth, fleet.now, int(event.present.sum())
        early = Count.EVENTS_COMPLETE if rules.quorum == rules.views else Count.EVENTS_QUORUM
        stats.count[Count.EVENTS] += 1
        stats.count[Count.EVENTS_DEADLINE if due else early] += 1
        stats.count[[Count.EVENTS_CORRECT, Count.EVENTS_CORRECT_LAST]] += right
        stats.count[Count.EVENTS_VIEWS] += used
        stats.hist[Hist.FUSED, bin_of(now - event.t)] += 1
        row = stats.series[fleet.interval_of(now)]
        row[Series.EVENTS] += 1
        row[Series.EVENTS_CORRECT] += right
        row[Series.EVENTS_NS] += now - event.t
        self._hash(event, (event.label + 1) | used << 20 | int(due) << 30, now)
        fleet.at(now + rules.late, FINAL, event.cell, event.number, partial(self._finish, event))

    def _correct(self, event: Event) -> None:
        label, count = self._fused(event), self.fleet.stats.count
        if label != event.label:
            count[Count.EVENTS_CORRECTIONS] += 1
            count[Count.EVENTS_CORRECT_LAST] += int(label == event.truth) - int(event.label == event.truth)
            event.label = label
            self._hash(event, (label + 1) | int(event.present.sum()) << 20 | CORRECTION, self.fleet.now)

    def _finish(self, event: Event) -> None:
        event.final = True
        if not event.present.all():
            self._learn(event)

    def _learn(self, event: Event) -> None:
        self._of_group(event).observe(event.said[None], event.present[None], np.array([-1]))

    def _hash(self, event: Event, code: int, at: int) -> None:
        key = self.fleet.world.keys[[event.cell], Purpose.EVENT_HASH]
        self.fleet.stats.digest += digest_of(key, np.array([event.number]), np.array([code]), np.array([at]))
