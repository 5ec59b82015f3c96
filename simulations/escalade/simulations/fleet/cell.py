"""A cell: consecutive edge nodes with their endpoints, and everything that happens to them in a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet import answers, battery, desk, local, travel, views
from escalade.simulations.fleet.book import Book
from escalade.simulations.fleet.columns import LazyBatch, repeated, uniforms
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.deciding import Decider
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.loads import Occupancy, nodes_at
from escalade.simulations.fleet.order import by_time
from escalade.simulations.fleet.population import links_of, population
from escalade.simulations.fleet.rows import FAR, LOCAL, UP, Local, Status, Up
from escalade.simulations.fleet.sink import AT_UP
from escalade.simulations.fleet.sources import source_of

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
        self.place = local.Place(number, keys, len(nodes), nodes.start, world.tables[0].samples)
        kinds = range(len(world.scenario.endpoints))
        firsts = np.cumsum([0, *(len(world.devices(number, kind)) for kind in kinds)]).tolist()
        self._sources = [
            source_of(world, number, kind, firsts[kind], firsts[kind + 1] - firsts[kind])
            for kind in kinds
            if firsts[kind + 1] > firsts[kind]
        ]
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
        servers = world.scenario.edge_servers.count
        self._server_of = unit * servers // world.scenario.edge_nodes.count

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
        book = Book(world, stats, asked, scratch)
        sent = self._endpoints(world, control, t1, book)
        arriving = self._over(world, sent, t1, book, hop=0)
        rising = self._edge(world, control, arriving, t1, book)
        risen = self._over(world, rising, t1, book, hop=1)
        if self._views is not None:
            mine = views.is_view(risen)
            book.out.seen.append(views.arrived(risen[mine]))
            risen = risen[~mine]
        book.out.up = risen
        for rows, edge in ((self._on_access, False), (self._to_edge, False), (self._on_uplink, True)):
            book.time_out(rows, t1, edge)
        book.out.pending = self.pending
        return book.out

    def _teach(self, lesson: Lesson) -> None:
        """Tell the policies of single units what they are due."""
        decider = [*self._deciders, self._edge_decider][lesson.which]
        if decider is self._edge_decider:
            unit = lesson.unit - self.place.first_node
        else:
            number = self.devices.number
            place = np.minimum(np.searchsorted(number, lesson.unit), len(number) - 1)
            unit = np.where(number[place] == lesson.unit, place, -1)
        decider.teach(lesson.what, unit, lesson.at_s)

    def told(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return numbers of devices and what telemetry was not told of yet, int32 ``[devices, 3]``; and forget it."""
        devices = self.devices
        counts = devices.told.copy()
        devices.told[:] = 0
        return devices.number[: len(counts)], counts

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
        if not len(devices.battery):
            return np.empty((4, 0), np.int64)
        battery.last_drain(world.kinds, devices, stats, world.interval, until)
        left, died = devices.battery[:, local.CHARGE], devices.battery[:, local.DEATH]
        mine = died != local.NO_BATTERY
        return np.stack([devices.number[mine], self._capacity[mine], left[mine], died[mine]])

    # The stages, in the order of a request's way.

    def _endpoints(self, world: World, control: Control, t1: int, book: Book) -> Rows:
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
        if len(self.devices.battery):
            action = action.copy()
            battery.spend(world.kinds, self.devices, stats, interval, ready, action)
        going = action == local.ESCALATE
        up = np.empty((int(np.count_nonzero(going) + np.count_nonzero(action == local.DEFER)), UP), np.int64)
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
        return up[: sink.size[AT_UP]]

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
        table, n = world.tables[0], rows.shape[1]
        deadline = int(world.kinds.deadline[kind])
        if not n:
            return np.empty(0, np.int8), np.empty(0)

        def remaining() -> NDArray[np.float64]:
            if deadline >= FAR:
                return repeated(float("inf"), n)
            left: NDArray[np.float64] = (rows[Local.T] + deadline - rows[Local.END]) / 1e6
            return left

        batch = LazyBatch(
            n,
            {
                "score": lambda: table.score[rows[Local.ROW]],
                "posterior": lambda: table.posterior[rows[Local.ROW]],
                "time_s": lambda: rows[Local.END] / 1e9,
                "uniform": lambda: uniforms(self.place.keys[Purpose.UNIFORM_0], rows[Local.RID]),
                "remaining_ms": remaining,
                "bytes_up": lambda: repeated(int(world.kinds.size[kind]), n, whole=True),
                "upstream_ms": lambda: repeated(control.upstream_ms[0], n),
                "device": lambda: self.devices.number[rows[Local.DEVICE]],
                "upstream_load": lambda: self._loads[self._nodes_of(world, kind, rows)],
            },
        )
        decider = self._deciders[kind]
        if not decider.remembers:
            return decider.decide(batch)
        late = rows[Local.T] + min(deadline, FAR >> 1) <= rows[Local.END]
        return decider.decide_in_order(batch, rows[Local.DEVICE], rows[Local.END], rows[Local.RID], late)

    def _nodes_of(self, world: World, kind: int, rows: Rows) -> NDArray[np.int64]:
        """Return the node that each endpoint of a class would ask now."""
        out, devices = np.empty(rows.shape[1], np.int64), self.devices
        nodes_at(
            devices.node, devices.phase, int(world.kinds.dwell[kind]), self.place.keys[Purpose.MOBILITY],
            self.place.nodes, rows[Local.DEVICE], rows[Local.END], out,
        )  # fmt: skip
        return out

    def _over(self, world: World, rows: Rows, t1: int, book: Book, *, hop: int) -> Rows:
        """Send rows over a hop; return those that arrive, sooner or later, and keep those that wait."""
        wire, keys, stats = (world.access, world.uplink)[hop], self.place.keys, book.stats
        config = (world.scenario.links.access, world.scenario.links.uplink)[hop]
        if not config.queues:
            travel.pass_on(wire, keys, stats.count, stats.hist, stats.series, world.interval, rows, hop)
            if wire.loss > 0:
                book.below(rows, hop)
                rows = rows[rows[:, Up.STATUS] == Status.DONE]
            return rows
        waiting = self._on_access if hop == 0 else self._on_uplink
        rows = np.concatenate([waiting, rows]) if len(waiting) else rows
        order = by_time(rows[:, Up.SENT_0 if hop == 0 else Up.SENT_1], rows[:, Up.RID])
        links = self._access if hop == 0 else self._uplink
        travel.queue_up(wire, keys, links, stats.count, stats.hist, stats.series, world.interval, rows, order, t1, hop)
        book.below(rows, hop)
        status = rows[:, Up.STATUS]
        stay = rows[status == Status.WAITING]
        if hop == 0:
            self._on_access = stay
        else:
            self._on_uplink = stay
        done: Rows = rows[status == Status.DONE]
        return done

    def _edge(self, world: World, control: Control, arriving: Rows, t1: int, book: Book) -> Rows:
        rows = np.concatenate([self._to_edge, arriving]) if len(self._to_edge) else arriving
        if self._views is not None:
            rows = np.concatenate([rows, self._views.arriving(world, t1, book)])
        book.serve(world.edge, self._nodes, rows, self._itself, 1, t1)
        status, end = rows[:, Up.STATUS], rows[:, Up.END]
        served = (end >= 0) & (status == Status.DONE)
        gone = (end >= 0) & ~served
        over = served & (end < t1)
        which, seen = np.flatnonzero(over), None
        if self._views is not None:
            which, seen = self._views.sent(rows, which, world.interval, book)
            book.out.seen.append(views.lost(rows[gone & views.is_view(rows)]))
        action, propensity = self._decide_1(world, control, rows, which)
        going = action == local.ESCALATE
        if book.asked.outcomes[1]:
            book.escalated(rows[which[going]])
        up = np.empty((int(np.count_nonzero(going) + np.count_nonzero(action == local.DEFER)), UP), np.int64)
        chances = propensity.view(np.int64) if book.asked.fed else np.empty(0, np.int64)
        sink = book.sink(len(rows))
        if gone.any():
            away = rows[gone]
            answers.turned_away(sink, away, answers.ways_back(world, away))
        answers.settle_edge(
            world.edge,
            world.access.latency,
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
        self._to_edge = rows[~(over | gone)]
        if self._occupancy is not None:
            self._occupancy.leave(rows[gone, Up.NODE], rows[gone], t1)
        up = up[: sink.size[AT_UP]]
        return up if seen is None else np.concatenate([up, seen])

    def _decide_1(
        self, world: World, control: Control, rows: Rows, which: NDArray[np.intp]
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        table, n = world.tables[1], len(which)
        if not n:
            return np.empty(0, np.int8), np.empty(0)

        def remaining() -> NDArray[np.float64]:
            limit = rows[which, Up.LIMIT_0]
            return np.where(limit >= FAR, np.inf, (limit - rows[which, Up.END]) / 1e6)

        batch = LazyBatch(
            n,
            {
                "score": lambda: table.score[rows[which, Up.ROW_1]],
                "posterior": lambda: table.posterior[rows[which, Up.ROW_1]],
                "time_s": lambda: rows[which, Up.END] / 1e9,
                "uniform": lambda: uniforms(self.place.keys[Purpose.UNIFORM_1], rows[which, Up.RID]),
                "remaining_ms": remaining,
                "bytes_up": lambda: repeated(world.edge.size, n, whole=True),
                "upstream_ms": lambda: repeated(control.upstream_ms[1], n),
                "device": lambda: rows[which, Up.NUMBER],
                "upstream_load": lambda: (
                    repeated(0.0, n)
                    if control.server_load is None
                    else control.server_load[self._server_of[rows[which, Up.NODE]]]
                ),
            },
        )
        if not self._edge_decider.remembers:
            return self._edge_decider.decide(batch)
        limit, end, at = rows[which, Up.LIMIT_0], rows[which, Up.END], rows[which, Up.AT]
        late = (limit <= end) & (at <= limit)
        return self._edge_decider.decide_in_order(batch, rows[which, Up.NODE], end, rows[which, Up.RID], late)
