"""A cell: consecutive edge nodes with their endpoints, and everything that happens to them in a window."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, batches, battery, desk, local, picking, travel, views
from escalade.simulations.fleet.book import Book
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.deciding import Decider
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.loads import Occupancy
from escalade.simulations.fleet.order import by_sending
from escalade.simulations.fleet.population import links_of, population
from escalade.simulations.fleet.protocol import Told
from escalade.simulations.fleet.rows import FAR, LOCAL, UP, Local, State, Status, Up
from escalade.simulations.fleet.sink import AT_UP
from escalade.simulations.fleet.sources import source_of
from escalade.simulations.fleet.telling import Counts, taken, tell_escalated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.book import Asked, CellOutput
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.protocol import Control, Lesson
    from escalade.simulations.fleet.result import Stats
    from escalade.simulations.fleet.sink import Scratch

    Rows = NDArray[np.int64]


class Cell:
    """The state of one cell, brought forward window by window.

    It holds arrays and policies only, so it pickles; the world is given with every call.
    """

    def __init__(self, world: World, number: int, asked: Asked) -> None:
        self.number = number
        nodes = world.nodes(number)
        keys = world.keys[number]
        self.devices, self._capacity = population(world, number, told=asked.outcomes[0])
        self._heat = np.zeros_like(self.devices.busy)
        kinds = range(len(world.scenario.endpoints))
        self._firsts = firsts = np.cumsum([0, *(len(world.devices(number, kind)) for kind in kinds)]).tolist()
        self._sources = [
            source_of(world, number, kind, firsts[kind], firsts[kind + 1] - firsts[kind])
            for kind in kinds
            if firsts[kind + 1] > firsts[kind]
        ]
        self._class_first = world.class_first
        places_from = np.array([world.devices(number, kind).start - firsts[kind] for kind in kinds])
        self.place = local.Place(
            number,
            keys,
            len(nodes),
            nodes.start,
            world.scenario.edge_nodes.count,
            world.tables[0].samples,
            world.class_first[:-1] + places_from,
            places_from,
            np.diff(world.class_first),
        )
        by_device = asked.outcomes[1] and not asked.by_node
        self._edge_counts = np.zeros((firsts[-1] if by_device else 0, 3), np.int32)
        self._deciders = [Decider(f"endpoints {one.name!r}", number) for one in world.scenario.endpoints]
        self._edge_decider = Decider("edge_node", number)
        self._access = links_of(world, number, 0)
        self._uplink = links_of(world, number, 1)
        unit = np.arange(nodes.start, nodes.stop, dtype=np.int64)
        self._nodes = desk.Units.idle(
            world.edge,
            len(nodes),
            world.upgrades(1, unit, uniforms(world.keys[world.cells, Purpose.ROLLOUT_1], unit)),
            from_config(world.scenario.edge_nodes.failures, len(nodes), world.duration, keys[Purpose.FAILURE_1]),
        )
        self._itself = np.arange(len(nodes), dtype=np.int64)
        self._rid = 0
        self._inferring = np.empty((LOCAL, 0), np.int64)
        """At the endpoints, until after the window."""
        self._on_access = np.empty((0, UP), np.int64)
        """Waiting for the access link."""
        self._to_edge = np.empty((0, UP), np.int64)
        """On the air, waiting for a worker, or inferred after the window."""
        self._on_uplink = np.empty((0, UP), np.int64)
        self._views = None if world.sights is None else views.Views(world, number)
        self._occupancy = Occupancy(world.edge, len(nodes), 1) if asked.loads[0] else None
        self._loads = np.zeros(len(nodes))

    @property
    def pending(self) -> int:
        """Requests under way below the servers."""
        return self._inferring.shape[1] + sum(map(len, (self._on_access, self._to_edge, self._on_uplink)))

    def advance(
        self, world: World, control: Control, t1: int, stats: Stats, asked: Asked, scratch: Scratch
    ) -> CellOutput:
        """Do everything that happens before `t1`; raises PolicyRaisedError."""
        if control.policies is not None:
            for decider, policy in zip([*self._deciders, self._edge_decider], control.policies, strict=True):
                decider.use(policy)
        for lesson in control.lessons:
            self._teach(lesson)
        book = Book(world, stats, asked, scratch, self._counts, t1)
        sent, carried = self._endpoints(world, control, t1, book)
        arriving = self._over(world, sent[carried:], t1, book, hop=0)
        if carried:  # the same rows, at their place
            arriving = sent
        elif len(self._to_edge):
            arriving = np.concatenate([self._to_edge, arriving])
        rising = self._edge(world, control, arriving, t1, book)
        risen = self._over(world, rising, t1, book, hop=1)
        book.out.up = risen if self._views is None else views.taken_out(risen, book)
        for rows, edge in ((self._on_access, False), (self._to_edge, False), (self._on_uplink, True)):
            book.time_out(rows, t1, edge)
        book.out.pending = self.pending
        return book.out

    @property
    def _counts(self) -> Counts:
        devices = self.devices.state[:, State.ANSWERED : State.ESCALATED + 1]
        return Counts(
            devices if devices.shape[1] else devices[:0], self._edge_counts, self.place.numbers_from, self._class_first
        )

    def told(self) -> list[Told]:
        """Return what telemetry was not told of yet, and forget it."""
        found = []
        for level, counts in enumerate((self._counts.endpoints, self._counts.edge)):
            for low, high in itertools.pairwise(self._firsts if len(counts) else ()):
                first = int(self.devices.number[low]) if high > low else 0
                found.append(Told(level, first, taken(counts[low:high])))
        return found

    def _teach(self, lesson: Lesson) -> None:
        """Tell the policies of single units what they are due."""
        decider = [*self._deciders, self._edge_decider][lesson.which]
        if not decider.memories:
            return
        if decider is self._edge_decider:
            unit = lesson.unit - self.place.first_node
        else:
            number = self.devices.number
            place = np.minimum(np.searchsorted(number, lesson.unit), len(number) - 1)
            unit = np.where(number[place] == lesson.unit, place, -1)
        decider.teach(lesson.what, unit, lesson.at_s)

    def control(self, world: World, now: int) -> None:
        """Do what happens at the end of a control interval, `now` ns: thermal states move on, loads are told."""
        devices = self.devices
        if self._occupancy is not None and now < world.duration:
            self._loads = self._occupancy.loads(self._to_edge[:, Up.NODE], self._to_edge, now)
        if not len(devices.busy):
            return
        for kind, one in enumerate(world.scenario.endpoints):
            thermal = profile_of(one).thermal
            if thermal is None:
                continue
            mine = devices.kind == kind
            # In whole numbers: heat in ns of busy time, kept as parts of 2 ** 16.
            heat = (self._heat[mine] * round(thermal.keep * 65536) >> 16) + devices.busy[mine]
            self._heat[mine] = heat
            hot, cool = round(thermal.hot * world.interval), round(thermal.cool * world.interval)
            was = devices.throttled[mine]
            devices.throttled[mine] = np.where(heat >= hot, 1, np.where(heat <= cool, 0, was))
        devices.busy[:] = 0

    def finish(self, world: World, stats: Stats, until: int) -> Rows:
        """Drain batteries until the end; return what is left, int64 ``[4, n]``: see `ShardEnd`."""
        devices = self.devices
        if not len(devices.died):
            return np.empty((4, 0), np.int64)
        battery.last_drain(world.kinds, devices, stats, world.interval, until)
        mine = self._capacity > 0
        left = devices.state[mine, State.CHARGE]
        return np.stack([devices.number[mine], self._capacity[mine], left, devices.died[mine]])

    # The stages, in the order of a request's way.

    def _endpoints(self, world: World, control: Control, t1: int, book: Book) -> tuple[Rows, int]:
        """Return messages sent, behind those on their way to a worker where no link keeps any, and how many."""
        t, device = self._arrivals(t1)
        book.arrived(t)
        before = self._inferring
        room = before.shape[1] + len(t)
        ready, later = book.scratch.take("ready", LOCAL, room), book.scratch.take("later", LOCAL, room)
        n_ready = n_later = 0
        if before.shape[1]:
            over = before[Local.END] < t1
            n_ready = int(over.sum())
            n_later = before.shape[1] - n_ready
            ready[:, :n_ready], later[:, :n_later] = before[:, over], before[:, ~over]
        stats, interval = book.stats, world.interval
        sink = book.sink(room, 1)
        n_ready, n_later = local.infer(
            self.place, world.kinds, self.devices, sink, stats.by_class, t, device, self._rid, t1, ready, n_ready,
            later, n_later,
        )  # fmt: skip
        self._rid += len(t)
        self._inferring = later[:, :n_later].copy()
        rows = ready[:, :n_ready]
        action, propensity = self._decide_0(world, control, rows)
        access = world.scenario.links.access
        carried = 0 if access.queues or access.loss is not None else len(self._to_edge)
        going = int(np.count_nonzero((action == local.ESCALATE) | (action == local.DEFER)))
        up = book.scratch.take("up", carried + going, UP)
        up[:carried] = self._to_edge[:carried]
        sink.size[AT_UP] = carried
        chances = propensity.view(np.int64) if book.asked.fed else np.empty(0, np.int64)
        local.settle(
            self.place,
            world.kinds,
            self.devices,
            sink,
            stats,
            interval,
            ready,
            action,
            chances,
            up,
            world.tables[0].right,
            each=book.each,
        )
        book.close(sink)
        return up[: sink.size[AT_UP]], carried

    def _arrivals(self, t1: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        parts = [source.until(t1) for source in self._sources]
        if len(parts) == 1:
            return parts[0]
        t = np.concatenate([np.empty(0, np.int64), *(one[0] for one in parts)])
        device = np.concatenate([np.empty(0, np.int64), *(one[1] for one in parts)])
        order = np.argsort(t, kind="stable")
        return t[order], device[order]

    def _decide_0(self, world: World, control: Control, rows: Rows) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        if len(self._deciders) == 1:
            return self._decide_kind(world, control, rows, 0)
        action, propensity = np.empty(rows.shape[1], np.int8), np.empty(rows.shape[1])
        kind = self.devices.kind[rows[Local.DEVICE]]
        for number in range(len(self._deciders)):
            mine = np.flatnonzero(kind == number)
            action[mine], propensity[mine] = self._decide_kind(world, control, rows[:, mine], number)
        return action, propensity

    def _decide_kind(
        self, world: World, control: Control, rows: Rows, kind: int
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        if not rows.shape[1]:
            return np.empty(0, np.int8), np.empty(0)
        loads = None if self._occupancy is None else self._loads
        batch = batches.of_endpoints(world, self.place, self.devices, kind, rows, control.upstream_ms[0], loads)
        decider = self._deciders[kind]
        if not decider.remembers:
            return decider.decide(batch)
        late = rows[Local.T] + min(int(world.kinds.deadline[kind]), FAR >> 1) <= rows[Local.END]
        return decider.decide_in_order(batch, rows[Local.DEVICE], rows[Local.END], rows[Local.RID], late)

    def _over(self, world: World, rows: Rows, t1: int, book: Book, *, hop: int) -> Rows:
        """Send rows over a hop; return those that arrive, sooner or later, and keep those that wait.

        Of the upper hop all are returned, with their `STATUS`: the servers take those that arrive.
        """
        wire, keys, stats = (world.access, world.uplink)[hop], self.place.keys, book.stats
        config = (world.scenario.links.access, world.scenario.links.uplink)[hop]
        if not config.queues:
            travel.pass_on(wire, keys, stats.count, stats.hist, stats.series, world.interval, rows, hop)
            if wire.loss > 0:
                book.below(rows, hop)
            return _done(rows) if hop == 0 and wire.loss > 0 else rows
        waiting = self._on_access if hop == 0 else self._on_uplink
        rows = np.concatenate([waiting, rows]) if len(waiting) else rows
        order = by_sending(rows, Up.SENT_0 if hop == 0 else Up.SENT_1)
        links = self._access if hop == 0 else self._uplink
        travel.queue_up(wire, keys, links, stats.count, stats.hist, stats.series, world.interval, rows, order, t1, hop)
        book.below(rows, hop)
        stay = rows[rows[:, Up.STATUS] == Status.WAITING]
        if hop == 0:
            self._on_access = stay
            return _done(rows)
        self._on_uplink = stay
        return rows

    def _edge(self, world: World, control: Control, rows: Rows, t1: int, book: Book) -> Rows:
        if self._views is not None:
            rows = np.concatenate([rows, self._views.arriving(world, t1, book)])
        book.serve(world.edge, self._nodes, rows, self._itself, 1, t1)
        which = np.empty(len(rows), np.intp)
        n, turned_away = picking.inferred(rows, t1, which)
        which, seen = which[:n], None
        if self._views is not None:
            which, seen = self._views.sent(rows, which, world.interval, book)
        action, propensity = self._decide_1(world, control, rows, which)
        if len(self._edge_counts):
            tell_escalated(self._edge_counts, rows, which, action)
        elif book.asked.by_node:
            book.escalated(rows[which[action == local.ESCALATE]])
        going = int(np.count_nonzero((action == local.ESCALATE) | (action == local.DEFER)))
        up = np.empty((going, UP), np.int64)
        chances = propensity.view(np.int64) if book.asked.fed else np.empty(0, np.int64)
        sink = book.sink(len(rows))
        if turned_away:
            away = rows[(rows[:, Up.END] >= 0) & (rows[:, Up.STATUS] != Status.DONE)]
            answers.turned_away(world, sink, away)
            self._count_out(away, t1, book)
        answers.settle_edge(
            world.edge,
            world.access.latency_down,
            world.keys,
            sink,
            book.stats.count,
            book.stats.series,
            world.interval,
            rows,
            which,
            action,
            chances,
            up,
        )
        book.close(sink)
        self._to_edge = picking.under_way(rows, len(rows) - n - turned_away, t1)
        up = up[: sink.size[AT_UP]]
        return up if seen is None else np.concatenate([up, seen])

    def _count_out(self, away: Rows, t1: int, book: Book) -> None:
        """Note what the nodes turned away where views or loads depend on it."""
        if self._views is not None:
            book.out.seen.append(views.lost(away[views.is_view(away)]))
        if self._occupancy is not None:
            self._occupancy.leave(away[:, Up.NODE], away, t1)

    def _decide_1(
        self, world: World, control: Control, rows: Rows, which: NDArray[np.intp]
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        if not len(which):
            return np.empty(0, np.int8), np.empty(0)
        batch = batches.of_edge_nodes(world, self.place, rows, which, control.upstream_ms[1], control.server_load)
        if not self._edge_decider.remembers:
            return self._edge_decider.decide(batch)
        limit, end, at = rows[which, Up.LIMIT_0], rows[which, Up.END], rows[which, Up.AT]
        late = (limit <= end) & (at <= limit)
        return self._edge_decider.decide_in_order(batch, rows[which, Up.NODE], end, rows[which, Up.RID], late)


def _done(rows: Rows) -> Rows:
    done: Rows = rows[rows[:, Up.STATUS] == Status.DONE]
    return done
