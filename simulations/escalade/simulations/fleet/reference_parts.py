"""What the reference engine is made of: requests, links and desks as objects, one event at a time."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Action
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.draws import Purpose, drawn, uniform
from escalade.simulations.fleet.gauge import Gauge
from escalade.simulations.fleet.intervals import from_config
from escalade.simulations.fleet.result import Count, Reason, Series
from escalade.simulations.fleet.rows import FAR, OUTCOME, Ended, Fed, Outcome, State
from escalade.simulations.fleet.sources import source_of
from escalade.tiers.breaker import Breaker
from escalade.tiers.deadline import upstream_budget_s
from escalade.tiers.retry import RetryBudget

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Kinds, World
    from escalade.simulations.fleet.hardware import Thermal
    from escalade.simulations.fleet.intervals import Intervals
    from escalade.simulations.fleet.local import Devices
    from escalade.simulations.fleet.reference import EventFleet

(
    CONTROL, FREE, INFERRED_0, ARRIVAL_1, BATCH_1, INFERRED_1, DUE, FINAL, ARRIVAL_2, BATCH_2, ANSWER, LIMIT_1, LIMIT_0,
) = range(13)  # fmt: skip
AT_NODE = ARRIVAL_1


class Request:
    """One input and all that is known of it."""

    def __init__(self, cell: int, rid: int, t: int, device: int) -> None:
        self.cell, self.rid, self.t, self.device = cell, rid, t, device
        self.sent: list[int] = [-1, -1]
        self.limit: list[int] = [FAR, FAR]
        self.answered = [False, False]
        self.row, self.end, self.at = [0, 0, 0], 0, 0
        self.chance = [1.0, 1.0]
        self.node = 0


class EventLink:
    """One node's link: messages one after another, while it is up."""

    def __init__(self, fleet: EventFleet, cell: int, hop: int, node: int, down: Intervals) -> None:
        self.fleet, self.hop, self.node, self.cell = fleet, hop, node, cell
        self.wire = (fleet.world.access, fleet.world.uplink)[hop]
        links = fleet.scenario.links
        self.queues = (links.access, links.uplink)[hop].queues
        self.down, self.keys = periods_of(down, node), fleet.world.keys[cell]
        self.waiting: deque[tuple[Request, int]] = deque()
        self.busy_until, opened = 0, count()
        self.budget = RetryBudget(ratio=self.wire.ratio, burst=self.wire.burst) if self.wire.ratio >= 0 else None
        key = self.keys[Purpose.BREAKER_0 if hop == 0 else Purpose.BREAKER_1]
        self.breaker = Breaker(
            failures=self.wire.failures or 1,
            wait_s=self.wire.wait,
            max_wait_s=self.wire.max_wait,
            uniform=lambda: float(uniform(key, (node << 32) + next(opened))),
        )

    def send(self, one: Request, size: int) -> None:
        """Take a message, or have it answered below."""
        fleet, now, hop = self.fleet, self.fleet.now, self.hop
        if not self.queues:
            self._transmit(one, now)
            return
        up = up_from(self.down, now) == now
        if self.wire.failures and not one.answered[hop]:
            if self.breaker.allows(now):
                if up:
                    self.breaker.succeeded(now)
                else:
                    self.breaker.failed(now)
                    fleet.give_up(one, hop, Reason.UNAVAILABLE)
                    one.limit[hop] = FAR
            else:
                fleet.give_up(one, hop, Reason.CIRCUIT_OPEN)
                one.limit[hop] = FAR
        kept = len(self.waiting) + (self.busy_until > now)
        if self.wire.max_waiting and kept >= self.wire.max_waiting:
            fleet.stats.count[Count.LOST_0 + hop] += 1
            if not self.wire.evicts or not self.waiting:
                fleet.give_up(one, hop, Reason.BUFFER_FULL)
                return
            fleet.give_up(self.waiting.popleft()[0], hop, Reason.BUFFER_FULL)
        self.waiting.append((one, size))
        self.go_on()

    def go_on(self) -> None:
        """Transmit what can begin now."""
        now = self.fleet.now
        while self.waiting:
            begin = up_from(self.down, max(now, self.busy_until))
            if begin > now:
                self.fleet.at(begin, FREE, self.cell, self.node, self.go_on)
                return
            one, size = self.waiting.popleft()
            self.busy_until = now + int(size * self.wire.ns_per_byte)
            self._transmit(one, self.busy_until)

    def _transmit(self, one: Request, when: int) -> None:
        fleet, hop, wire = self.fleet, self.hop, self.wire
        delay = int(drawn(wire.latency, 0, self.keys[Purpose.ACCESS_UP if hop == 0 else Purpose.UPLINK_UP], one.rid))
        lost = 0
        if wire.loss > 0:
            chance = uniform(self.keys[Purpose.LOSS_0 if hop == 0 else Purpose.LOSS_1], one.rid)
            share = wire.loss
            while chance < share and lost <= wire.max_retries:
                lost, share = lost + 1, share * wire.loss
        if not self._repeats(lost):
            fleet.stats.count[Count.LOST_0 + hop] += 1
            return  # whoever waits does so until its limit
        arrive = fleet.taker_of(one, hop + 1)
        arrival = (ARRIVAL_1, ARRIVAL_2)[hop]
        fleet.at(when + delay + lost * wire.retry, arrival, one.cell, one.rid, arrive)

    def _repeats(self, lost: int) -> bool:
        """Whether a message is sent again as often as it is lost."""
        if self.budget is None:
            return lost <= self.wire.max_retries
        self.budget.earn()
        paid = all(self.budget.spend() for _ in range(min(lost, self.wire.max_retries)))
        return paid and lost <= self.wire.max_retries


class EventDesk:
    """One edge node, or one server: workers and a queue."""

    def __init__(self, fleet: EventFleet, level: int, unit: int, down: Intervals, upgrade: int, place: int) -> None:
        self.fleet, self.level, self.upgrade = fleet, level, upgrade
        self.desk = (fleet.world.edge, fleet.world.server)[level - 1]
        self.down, self.place = periods_of(down, unit), place
        self.idle = self.desk.workers
        self.queue: deque[Request] = deque()
        self.inside: set[Request] = set()
        """Those that wait or are served."""
        self.batches = self.desk.max_batch > 1

    def arrive(self, one: Request) -> None:
        """Serve a request, let it wait, or refuse it."""
        fleet = self.fleet
        one.at = fleet.now
        samples = fleet.world.tables[0].samples
        one.row[self.level] = one.row[0] % samples + (samples if fleet.now >= self.upgrade else 0)
        if up_from(self.down, fleet.now) != fleet.now:
            self._refuse(one, Reason.UNAVAILABLE)
        elif not self.batches and self.idle:
            self.inside.add(one)
            self._begin([one])
        elif self.desk.max_queue and len(self.queue) >= self.desk.max_queue:
            self._refuse(one, Reason.REFUSED)
        else:
            self.inside.add(one)
            self.queue.append(one)
            if self.batches and self.idle:
                self._later()

    def _later(self) -> None:
        self.fleet.at(self.fleet.now, (BATCH_1, BATCH_2)[self.level - 1], self.place, 0, self.go_on)

    def go_on(self) -> None:
        """Give idle workers what waits."""
        now = self.fleet.now
        while self.idle and self.queue:
            batch: list[Request] = []
            while self.queue and len(batch) < self.desk.max_batch:
                one = self.queue.popleft()
                if not one.at < one.limit[self.level - 1] <= now:  # else it is late, and nobody waits for it
                    batch.append(one)
                else:
                    self.inside.remove(one)
            if batch:
                self._begin(batch)

    def _begin(self, batch: list[Request]) -> None:
        fleet, level, now = self.fleet, self.level, self.fleet.now
        first = batch[0]
        key = fleet.world.keys[first.cell, (Purpose.SERVICE_1, Purpose.SERVICE_2)[level - 1]]
        service = int(drawn(self.desk.service, 0, key, first.rid))
        if self.batches:
            service = int(service * (1.0 + self.desk.each_more * (len(batch) - 1)))
        for low, high, slowdown in zip(self.desk.slow_from, self.desk.slow_to, self.desk.slowdown, strict=True):
            if low <= now < high:
                service = int(service * slowdown)
                break
        self.idle -= 1
        fleet.stats.count[Count.BUSY_NS_0 + level] += service
        fleet.stats.series[fleet.interval_of(now), Series.BUSY_NS_0 + level] += service
        for one in batch:
            fleet.stats.count[Count.SERVED_0 + level] += 1
            fleet.stats.count[Count.WAIT_NS_0 + level] += now - one.at
            done = fleet.inferred_1 if level == 1 else fleet.inferred_2
            kind = INFERRED_1 if level == 1 else ANSWER
            fleet.at(now + service, kind, one.cell, one.rid, partial(done, one))
        fleet.at(now + service, FREE, self.place, first.rid, partial(self._freed, batch))

    def load(self) -> float:
        """Return how full it is, as its answers would say."""
        limits = [(one.at, one.limit[self.level - 1]) for one in self.inside]
        given = [limit - at for at, limit in limits if at < limit < FAR]
        return Gauge(self.desk).load(len(self.inside), len(self.queue), sum(given), len(given))

    def _freed(self, batch: list[Request]) -> None:
        self.idle += 1
        self.inside.difference_update(batch)
        if self.batches:
            if self.queue:
                self._later()
        else:
            self.go_on()

    def _refuse(self, one: Request, why: Reason) -> None:
        fleet, now = self.fleet, self.fleet.now
        if self.level == 1:
            back = now + fleet.back(one)
        else:
            keys = fleet.world.keys[one.cell]
            back = now + int(drawn(fleet.world.uplink.latency_down, 0, keys[Purpose.UPLINK_DOWN], one.rid))
        fleet.at(back, ANSWER, one.cell, one.rid, lambda: fleet.give_up(one, self.level - 1, why))


def periods_of(intervals: Intervals, unit: int) -> list[tuple[int, int]]:
    """Return when one unit is down."""
    if len(intervals.first) == 1:
        return []
    mine = slice(int(intervals.first[unit]), int(intervals.first[unit + 1]))
    return list(zip(intervals.start[mine].tolist(), intervals.end[mine].tolist(), strict=True))


def up_from(periods: list[tuple[int, int]], t: int) -> int:
    """Return when it is up, at or after a time."""
    return next((end for start, end in periods if start <= t < end), t)


def lives(devices: Devices, kinds: Kinds, one: Request, now: int, kind: int, service: int, action: int) -> bool:
    """Charge the battery for one inference; whether the device lives to send what it decided."""
    state, died = devices.state[one.device], devices.died
    if died[one.device] >= 0:
        return False
    passed, charge, idle = now - int(state[State.SINCE]), int(state[State.CHARGE]), int(kinds.idle_uw[kind])
    spent = passed * idle // 1000 if passed > 0 else 0
    if spent >= charge and idle > 0 and passed > 0:
        us = charge // idle
        died[one.device] = int(state[State.SINCE]) + us * 1000 + -(-(charge - us * idle) * 1000 // idle)
        return False
    spent += service * int(kinds.active_uw[kind]) // 1000
    if action in (Action.ESCALATE, Action.DEFER):
        spent += int(kinds.message_pj[kind]) + int(kinds.byte_pj[kind]) * int(kinds.size[kind])
    if spent >= charge:
        died[one.device] = now
        return False
    state[State.CHARGE], state[State.SINCE] = charge - spent, now
    return True


def allowed_ns(left: float, reserve: int, timeout: int) -> int:
    """Return how long the tier above may take."""
    return timeout if left == math.inf else math.floor(upstream_budget_s(left, reserve, timeout))


def warm(thermal: Thermal, interval: int, heat: int, busy: int, throttled: int) -> tuple[int, int]:
    """Return a device's heat, and whether it throttles, at the end of a control interval."""
    heat = (heat * round(thermal.keep * 65536) >> 16) + busy
    if heat >= round(thermal.hot * interval):
        return heat, 1
    return heat, 0 if heat <= round(thermal.cool * interval) else throttled


def outcomes_0(ended: NDArray[np.int64], slo: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return answers as the endpoints' telemetry counts them: in time unless degraded or late."""
    rows = np.zeros((len(ended), OUTCOME), np.int64)
    rows[:, Outcome.UNIT], rows[:, Outcome.KNOWN] = ended[:, Ended.DEVICE], ended[:, Ended.AT]
    sound = np.isin(ended[:, Ended.REASON], (0, 7))
    in_time = ended[:, Ended.AT] - ended[:, Ended.T] <= slo[ended[:, Ended.KIND]]
    rows[:, Outcome.IN_TIME], rows[:, Outcome.ANSWERED] = sound & in_time, 1
    return rows


def outcomes_1(fed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return answers as the edge nodes' telemetry counts them: in time if the tier that was wanted gave them."""
    rows = np.zeros((len(fed), OUTCOME), np.int64)
    rows[:, Outcome.LEVEL], rows[:, Outcome.UNIT], rows[:, Outcome.KNOWN] = 1, fed[:, Fed.DEVICE], fed[:, Fed.KNOWN]
    rows[:, Outcome.IN_TIME] = (fed[:, Fed.ACTION] != 1) | (fed[:, Fed.UPPER] >= 0)
    rows[:, Outcome.ANSWERED], rows[:, Outcome.NODE] = 1, fed[:, Fed.NODE]
    return rows


def arrivals_of(world: World, cell: int) -> list[tuple[int, int]]:
    """Return times and devices of a cell's arrivals, in order of time, then of class."""
    found, first = list[tuple[int, int, int, int]](), 0
    for kind in range(len(world.scenario.endpoints)):
        mine = len(world.devices(cell, kind))
        if mine:
            t, device = source_of(world, cell, kind, first, mine).until(world.duration)
            pairs = zip(t.tolist(), device.tolist(), strict=True)
            found += [(when, kind, place, who) for place, (when, who) in enumerate(pairs)]
        first += mine
    return [(when, who) for when, _, _, who in sorted(found)]


def links_and_desks(fleet: EventFleet) -> tuple[list[list[EventLink]], list[list[EventDesk]]]:
    """Return the links of both hops, and the edge nodes and servers, in the fleet's order."""
    world, scenario = fleet.world, fleet.world.scenario
    links: list[list[EventLink]] = [[], []]
    desks: list[list[EventDesk]] = [[], []]

    def upgrade(level: int, unit: int) -> int:
        units = np.array([unit])
        purpose = (Purpose.ROLLOUT_0, Purpose.ROLLOUT_1, Purpose.ROLLOUT_2)[level]
        return int(world.upgrades(level, units, uniforms(world.keys[world.cells, purpose], units))[0])

    for cell in range(world.cells):
        nodes, keys = world.nodes(cell), world.keys[cell]
        for hop, config in enumerate((scenario.links.access, scenario.links.uplink)):
            down = from_config(
                config.outages, len(nodes), world.duration, keys[(Purpose.OUTAGE_0, Purpose.OUTAGE_1)[hop]]
            )
            links[hop] += [EventLink(fleet, cell, hop, node, down) for node in range(len(nodes))]
        down = from_config(scenario.edge_nodes.failures, len(nodes), world.duration, keys[Purpose.FAILURE_1])
        desks[0] += [EventDesk(fleet, 1, place, down, upgrade(1, node), node) for place, node in enumerate(nodes)]
    servers = scenario.edge_servers
    down = from_config(servers.failures, servers.count, world.duration, world.keys[world.cells, Purpose.FAILURE_2])
    desks[1] += [EventDesk(fleet, 2, unit, down, upgrade(2, unit), unit) for unit in range(servers.count)]
    return links, desks
