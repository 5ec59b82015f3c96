"""The same fleet, one event at a time: `simulate_by_events`, the proof of the windowed engine.

One heap, one request at a time, workers and queues as objects, the tiers' own `Breaker` and `upstream_budget_s`, the
same policy objects deciding on batches of one. It shares with the engine the scenario, the arrivals and the random
numbers; how they meet is written anew. About a thousand times slower.

Events of one instant come in this order: control, what becomes free, an inference's end, arrivals and batches, tier by
tier, answers, and last the limits of those who wait for one.
"""

from __future__ import annotations

import math
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Action, Batch
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.compiled import World
from escalade.simulations.fleet.draws import Purpose, below, drawn, uniform
from escalade.simulations.fleet.policy_setup import Given, policies_of
from escalade.simulations.fleet.population import population
from escalade.simulations.fleet.reference_events import Gathering, View
from escalade.simulations.fleet.reference_learning import Minds
from escalade.simulations.fleet.reference_parts import (
    ANSWER,
    CONTROL,
    INFERRED_0,
    LIMIT_0,
    LIMIT_1,
    EventLink,
    Request,
    allowed_ns,
    arrivals_of,
    links_and_desks,
    lives,
    periods_of,
    up_from,
)
from escalade.simulations.fleet.result import Count, Reason, Series, Stats
from escalade.simulations.fleet.rows import CORRECTED, ENDED, FAR, NO_BATTERY, Ended, State
from escalade.simulations.fleet.sink import count_ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.policies import Policy
    from escalade.simulations.fleet.scenario import Scenario


def simulate_by_events(scenario: Scenario, *, seed: int | None = None, policy: Given = None) -> EventFleet:
    """Run a scenario; `stats` and `requests_table` of what is returned are to be compared with `simulate`'s.

    Of the counters it keeps those of requests, inferences and messages lost; of the time series the answers.
    """
    world = World.of(scenario, seed)
    return EventFleet(world, policies_of(world, policy)).run()


class EventFleet:
    """One run."""

    def __init__(self, world: World, policies: list[Policy]) -> None:
        self.world, self.scenario = world, world.scenario
        self.stats = Stats.empty(world.intervals, len(world.scenario.endpoints))
        self.now, self._heap, self._tie = 0, list[Any](), count()
        self._all: list[Any] = []
        self._ended: list[list[int]] = []
        self.people = [population(world, cell) for cell in range(world.cells)]
        self.heat = [np.zeros_like(devices.busy) for devices, _ in self.people]
        self._links, self.desks = links_and_desks(self)
        self.minds = Minds(self, policies)
        self.gathering = None if world.sights is None else Gathering(self)

    def run(self) -> EventFleet:
        """Take events off the heap until there are none."""
        world = self.world
        for cell in range(world.cells):
            for rid, (t, device) in enumerate(arrivals_of(world, cell)):
                self.at(t, INFERRED_0, cell, -1, partial(self._arrive, cell, rid, t, device))
        steps = {*range(world.interval, world.duration, world.interval)}
        for step in sorted(steps | {*range(world.feedback, world.duration, world.feedback)}):
            self.at(step, CONTROL, 0, 0, self.minds.control)
        if self.gathering is not None:
            self.gathering.begin()
        while self._heap:
            self.now, _, _, _, _, what = heappop(self._heap)
            what()
        self._close()
        return self

    def at(self, when: int, kind: int, cell: int, number: int, what: Callable[[], object]) -> None:
        """Let something happen."""
        heappush(self._heap, (int(when), kind, cell, number, next(self._tie), what))

    def taker_of(self, one: Request, level: int) -> Callable[[], None]:
        """Return what takes a message at the tier that it goes to: a desk, or the aggregators."""
        node = one.node + self.world.nodes(one.cell).start
        if level == 1:
            return partial(self.desks[0][node].arrive, one)
        if isinstance(one, View):
            assert self.gathering is not None
            return partial(self.gathering.arrive, one)
        return partial(self.desks[1][self._server_of(one)].arrive, one)

    def _server_of(self, one: Request) -> int:
        node = one.node + self.world.nodes(one.cell).start
        return node * self.scenario.edge_servers.count // self.scenario.edge_nodes.count

    def link_of(self, one: Request) -> EventLink:
        """Return the link from a message's edge node to the servers."""
        return self._links[1][self.world.nodes(one.cell).start + one.node]

    def interval_of(self, t: int) -> int:
        """Return the row of the time series that a time falls in."""
        return min(t // self.world.interval, self.world.intervals)

    def back(self, one: Request) -> int:
        """Return the latency of the way from the edge node to the endpoint."""
        return int(drawn(self.world.access.latency_down, 0, self.world.keys[one.cell, Purpose.ACCESS_DOWN], one.rid))

    def give_up(self, one: Request, level: int, why: Reason) -> None:
        """Let a tier answer itself now, unless it has answered."""
        if one.answered[level]:
            return
        one.answered[level] = True
        if level == 0:
            self._end(one, 0, why)
            self.minds.learn(one, 0, Action.ESCALATE, one.sent[0], -1)
            return
        self.minds.learn(one, 1, Action.ESCALATE, one.sent[1], -1)
        self._go_home(one, 1, why)

    def inferred_1(self, one: Request) -> None:
        """An edge node is done."""
        if isinstance(one, View):
            assert self.gathering is not None
            self.gathering.inferred(one)
            return
        world, now = self.world, self.now
        one.end = now
        table, keys = world.tables[1], world.keys[one.cell]
        left = math.inf if one.limit[0] >= FAR else one.limit[0] - now
        late = one.at > one.limit[0]
        batch = Batch.of(
            table.score[one.row[1]][None],
            table.posterior[one.row[1]][None],
            time_s=now / 1e9,
            uniform=uniforms(keys[Purpose.UNIFORM_1], np.array([one.rid])),
            remaining_ms=left / 1e6,
            bytes_up=world.edge.size,
            upstream_ms=self.minds.upstream_ms[1],
            upstream_load=self.minds.loads[1][self._server_of(one)],
            device=self.number(one),
        )
        action = self.minds.decide(one, 1, len(self.minds.policies) - 1, one.node, batch, left > 0 or late)
        allowed = allowed_ns(left, world.edge.reserve, world.edge.timeout)
        if action == Action.ACCEPT:
            self.minds.learn(one, 1, Action.ACCEPT, now, -1)
            self._go_home(one, 1, Reason.OK)
        elif action == Action.ABSTAIN:
            self.minds.learn(one, 1, Action.ABSTAIN, now, -1)
            self._go_home(one, -1, Reason.ABSTAINED)
        elif action == Action.DEFER:
            self.minds.learn(one, 1, Action.ACCEPT, now, -1)
            self._go_home(one, 1, Reason.DEFERRED)
            one.answered[1] = True
            self._rise(one, FAR)
        else:
            self.stats.count[Count.ESCALATED_1] += 1
            self.minds.escalated(one, 1)
            if allowed <= 0 and not late:
                self.minds.learn(one, 1, Action.ACCEPT, now, -1)
                self._go_home(one, 1, Reason.DEADLINE)
            else:
                self._rise(one, now + (allowed if allowed > 0 else world.edge.timeout))

    def inferred_2(self, one: Request) -> None:
        """A server is done."""
        keys = self.world.keys[one.cell]
        back = self.now + int(drawn(self.world.uplink.latency_down, 0, keys[Purpose.UPLINK_DOWN], one.rid))
        self.at(back, ANSWER, one.cell, one.rid, lambda: self._from_server(one))

    def _arrive(self, cell: int, rid: int, t: int, device: int) -> None:
        world, (devices, _) = self.world, self.people[cell]
        one = Request(cell, rid, t, device)
        kind, keys = int(devices.kind[device]), world.keys[cell]
        self.stats.count[Count.ARRIVED] += 1
        if len(devices.away.first) > 1 and up_from(periods_of(devices.away, device), t) != t:
            self._end(one, -1, Reason.OFFLINE)
            return
        if uniform(keys[Purpose.TRIGGER], rid) >= world.kinds.pass_share[kind]:
            self._end(one, -1, Reason.FILTERED)
            return
        service = int(drawn(world.kinds.service, kind, keys[Purpose.SERVICE_0], rid))
        if len(devices.throttled) and devices.throttled[device]:
            service = int(service * world.kinds.slowdown[kind])
        free = int(devices.state[device, State.FREE])
        start = max(t, free)
        if t >= free + int(world.kinds.awake[kind]):
            start = t + int(world.kinds.wake[kind])
        end = start + service
        devices.state[device, State.FREE] = end
        if len(devices.busy):
            devices.busy[device] += service
        samples = world.tables[0].samples
        upgraded = len(devices.upgrade) and t >= devices.upgrade[device]
        one.row[0] = int(below(keys[Purpose.SAMPLE], rid, samples)) + (samples if upgraded else 0)
        self.at(end, INFERRED_0, cell, rid, lambda: self._inferred_0(one, kind, service))

    def _inferred_0(self, one: Request, kind: int, service: int) -> None:
        world, now, (devices, _) = self.world, self.now, self.people[one.cell]
        table, keys, kinds = world.tables[0], world.keys[one.cell], world.kinds
        deadline = int(kinds.deadline[kind])
        left = math.inf if deadline >= FAR else one.t + deadline - now
        batch = Batch.of(
            table.score[one.row[0]][None],
            table.posterior[one.row[0]][None],
            time_s=now / 1e9,
            uniform=uniforms(keys[Purpose.UNIFORM_0], np.array([one.rid])),
            remaining_ms=left / 1e6,
            bytes_up=int(kinds.size[kind]),
            upstream_ms=self.minds.upstream_ms[0],
            upstream_load=self.minds.loads[0][self._node(one, kind) + world.nodes(one.cell).start],
            device=self.number(one),
        )
        action = self.minds.decide(one, 0, kind, one.device, batch, left > 0)
        has_battery = len(devices.died) > 0 and devices.state[one.device, State.SINCE] != NO_BATTERY
        if has_battery and not lives(devices, kinds, one, self.now, kind, service, action):
            self._end(one, -1, Reason.DEAD)
            return
        self.stats.count[Count.SERVED_0] += 1
        self.stats.count[Count.BUSY_NS_0] += service
        self.stats.count[Count.WAIT_NS_0] += now - service - one.t
        if action == Action.ACCEPT:
            self._end(one, 0, Reason.OK)
            self.minds.learn(one, 0, Action.ACCEPT, now, -1)
            return
        if action == Action.ABSTAIN:
            self._end(one, -1, Reason.ABSTAINED)
            self.minds.learn(one, 0, Action.ABSTAIN, now, -1)
            return
        if action == Action.DEFER:
            self._end(one, 0, Reason.DEFERRED)
            self.minds.learn(one, 0, Action.ACCEPT, now, -1)
            one.answered[0] = True
        else:
            self.stats.count[Count.ESCALATED_0] += 1
            self.minds.escalated(one, 0)
            allowed = allowed_ns(left, int(kinds.reserve[kind]), int(kinds.timeout[kind]))
            if allowed <= 0:
                self._end(one, 0, Reason.DEADLINE)
                self.minds.learn(one, 0, Action.ACCEPT, now, -1)
                return
            one.limit[0] = now + allowed
            self._wait(one, 0)
        one.sent[0] = now
        one.node = self._node(one, kind)
        self._links[0][self.world.nodes(one.cell).start + one.node].send(one, int(kinds.size[kind]))

    def _node(self, one: Request, kind: int) -> int:
        devices, dwell = self.people[one.cell][0], int(self.world.kinds.dwell[kind])
        if dwell < FAR:
            move = (self.now + int(devices.phase[one.device])) // dwell
            if move:
                keys, nodes = self.world.keys[one.cell], len(self.world.nodes(one.cell))
                return int(below(keys[Purpose.MOBILITY], (one.device << 32) + move, nodes))
        nodes, first = self.scenario.edge_nodes.count, self.world.nodes(one.cell).start
        place = self.number(one) - int(self.world.class_first[kind])
        return place * nodes // self.scenario.endpoints[kind].count - first

    def _rise(self, one: Request, limit: int) -> None:
        one.sent[1], one.limit[1] = self.now, limit
        if limit < FAR:
            self._wait(one, 1)
        self.link_of(one).send(one, self.world.edge.size)

    def _wait(self, one: Request, level: int) -> None:
        limit = one.limit[level]

        def over() -> None:
            if one.limit[level] == limit:  # else it went into the outbox
                self.give_up(one, level, Reason.TIMEOUT)

        self.at(limit, (LIMIT_0, LIMIT_1)[level], one.cell, one.rid, over)

    def _from_server(self, one: Request) -> None:
        if one.answered[1]:
            back = self.back(one)
            self.at(self.now + back, ANSWER, one.cell, one.rid, lambda: self._end(one, 2, CORRECTED))
            return
        one.answered[1] = True
        row = self.stats.series[self.interval_of(self.now)]
        row[Series.ABOVE_1] += 1
        row[Series.ABOVE_NS_1] += self.now - one.sent[1]
        self.minds.learn(one, 1, Action.ESCALATE, one.sent[1], 2)
        self._go_home(one, 2, Reason.OK)

    def _go_home(self, one: Request, tier: int, why: int) -> None:
        self.at(self.now + self.back(one), ANSWER, one.cell, one.rid, lambda: self._deliver(one, tier, why))

    def _deliver(self, one: Request, tier: int, why: int) -> None:
        if one.answered[0]:
            if tier >= 0:
                self._end(one, tier, CORRECTED)
            return
        one.answered[0] = True
        self._end(one, tier, why)
        self.minds.learn(one, 0, Action.ESCALATE, one.sent[0], tier)

    def number(self, one: Request) -> int:
        """Return the fleet's number of a request's device."""
        return int(self.people[one.cell][0].number[one.device])

    def _end(self, one: Request, tier: int, why: int) -> None:
        kind = int(self.people[one.cell][0].kind[one.device])
        row = one.row[tier] if tier >= 0 else 0
        self._ended.append(
            [one.cell, one.rid, one.t, self.number(one), kind, tier, int(why), self.now, row, one.sent[0]]
        )

    def count_ended(self) -> Any:
        """Count the requests that ended since the last time; return them, int64 ``[n, ENDED]``."""
        world, ended = self.world, np.array(self._ended, np.int64).reshape(len(self._ended), ENDED)
        right = tuple(table.right for table in world.tables)
        count_ended(ended, self.stats, world.keys, world.kinds.slo, right, world.interval)
        self._all.append(ended)
        self._ended = []
        return ended

    def _close(self) -> None:
        self.count_ended()
        if self.gathering is not None:
            self.gathering.finish()
        ended = np.concatenate(self._all)
        ended = ended[ended[:, Ended.REASON] != CORRECTED]
        self.requests_table = ended[np.lexsort((ended[:, Ended.RID], ended[:, Ended.CELL]))]

    @property
    def hash(self) -> str:
        """As `FleetResult.hash`."""
        return f"{int(self.stats.digest[0]):016x}"
