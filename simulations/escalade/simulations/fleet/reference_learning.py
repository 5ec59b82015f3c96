"""Policies of the reference engine: `Minds` lets them decide on one request, tells them later, and moves control on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Action, listens
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.deciding import part_of
from escalade.simulations.fleet.learning import Mailbox, mean_ms
from escalade.simulations.fleet.reference_parts import outcomes_0, outcomes_1, warm
from escalade.simulations.fleet.result import Series
from escalade.simulations.fleet.rows import CORRECTED, FED, OUTCOME, Ended, Fed

if TYPE_CHECKING:
    from escalade.policies import Batch, Policy
    from escalade.simulations.fleet.reference import EventFleet
    from escalade.simulations.fleet.reference_parts import Request


class Minds:
    """The policies of one run: of each class of endpoints, then of the edge nodes."""

    def __init__(self, fleet: EventFleet, policies: list[Policy]) -> None:
        self.fleet, self.policies = fleet, policies
        self.upstream_ms = (float("nan"), float("nan"))
        self.loads = tuple([0.0] * len(desks) for desks in fleet.desks)
        """Of each edge node and of each server, at the end of the last control interval."""
        self._fed: list[list[int]] = []
        self._outcomes: list[list[int]] = []
        self._observes = any(listens(one, "observe") for one in policies)
        self._memories: dict[tuple[int, int, int], Policy] = {}
        edge = policies[-1]
        self._mail = Mailbox(fleet.world, by_node=edge.sequential and listens(edge, "retune"))

    def decide(self, one: Request, level: int, which: int, unit: int, batch: Batch, feasible: bool) -> int:
        """Return what a policy does; one that remembers is asked for the unit, and told what is done."""
        policy = self.policies[which]
        if policy.sequential:
            policy = self._memories.setdefault((level, one.cell, unit), copy.deepcopy(policy))
        decided = policy.decide(batch)
        action = int(decided.action[0])
        one.chance[level] = float(decided.propensity[0])
        if policy.sequential:
            done = action if feasible or action == Action.ABSTAIN else Action.ACCEPT
            policy.commit(batch, np.array([done], np.int8))
        return action

    def learn(self, one: Request, level: int, action: int, decided: int, upper: int) -> None:
        """Note what came of a decision."""
        fleet, now = self.fleet, self.fleet.now
        chance = int(np.array([one.chance[level]]).view(np.int64)[0])
        took = now - decided if upper >= 0 else -1
        upper_row = one.row[upper] if upper >= 0 else 0
        node = fleet.world.nodes(one.cell).start + one.node if level else -1
        self._fed.append(
            [level, now, one.cell, one.rid, fleet.number(one), one.row[level], int(action), chance, decided, upper,
             upper_row, took, node]
        )  # fmt: skip

    def escalated(self, one: Request, level: int) -> None:
        """Note an escalation for telemetry."""
        node = self.fleet.world.nodes(one.cell).start + one.node
        self._outcomes.append([level, self.fleet.number(one), self.fleet.now, 0, 0, 1, node])

    def control(self) -> None:
        """Do what the engine does between windows."""
        fleet, world, now = self.fleet, self.fleet.world, self.fleet.now
        fed, ended = _matrix(self._fed, FED), fleet.count_ended()
        self._mail.put([fed], [_matrix(self._outcomes, OUTCOME), *self._told(ended, fed)])
        self._fed, self._outcomes = [], []
        if now % world.feedback == 0 and self._observes:
            for which, told in enumerate(self._mail.feedback(now)):
                if told is not None and listens(self.policies[which], "observe"):
                    for mine, rows in self._pupils(which, told[1]):
                        if len(rows):
                            mine.observe(told[0].take(rows))
        if now % world.interval:
            return
        row = fleet.stats.series[now // world.interval - 1]
        edge, server = fleet.scenario.edge_nodes, fleet.scenario.edge_servers
        load = (
            int(row[Series.BUSY_NS_1]) / (edge.count * edge.workers * world.interval),
            int(row[Series.BUSY_NS_2]) / (server.count * server.workers * world.interval),
        )
        wanted = [listens(policy, "retune") for policy in self.policies]
        for which, heard in enumerate(self._mail.telemetry(now, world.interval, load, wanted)):
            if heard is not None:
                for mine, rows in self._pupils(which, heard[1]):
                    mine.retune(part_of(heard[0], rows))
        self.upstream_ms = (
            mean_ms(int(row[Series.ABOVE_NS_0]), int(row[Series.ABOVE_0]), self.upstream_ms[0]),
            mean_ms(int(row[Series.ABOVE_NS_1]), int(row[Series.ABOVE_1]), self.upstream_ms[1]),
        )
        self.loads = tuple([one.load() for one in desks] for desks in fleet.desks)
        self._warm()

    def _pupils(self, which: int, unit: Any) -> list[tuple[Policy, Any]]:
        """Return who is to be told of which rows: the policy of all, or each unit's own that has decided before."""
        if not self.policies[which].sequential:
            return [(self.policies[which], np.arange(len(unit)))]
        fleet, level = self.fleet, int(which == len(self.policies) - 1)
        found = []
        for (at, cell, place), mine in self._memories.items():
            devices = fleet.people[cell][0]
            if at == level == 1:
                found.append((mine, np.flatnonzero(unit == fleet.world.nodes(cell).start + place)))
            elif at == level == 0 and devices.kind[place] == which:
                found.append((mine, np.flatnonzero(unit == devices.number[place])))
        return found

    def _warm(self) -> None:
        fleet = self.fleet
        for cell, (devices, _) in enumerate(fleet.people):
            for d in range(len(devices.busy)):
                thermal = profile_of(fleet.scenario.endpoints[int(devices.kind[d])]).thermal
                if thermal is not None:
                    before = int(fleet.heat[cell][d]), int(devices.busy[d]), int(devices.throttled[d])
                    fleet.heat[cell][d], devices.throttled[d] = warm(thermal, fleet.world.interval, *before)
            devices.busy[:] = 0

    def _told(self, ended: Any, fed: Any) -> list[Any]:
        answers = ended[(ended[:, Ended.TIER] >= 0) & (ended[:, Ended.REASON] != CORRECTED)]
        return [outcomes_0(answers, self.fleet.world.kinds.slo), outcomes_1(fed[fed[:, Fed.LEVEL] == 1])]


def _matrix(rows: list[list[int]], width: int) -> Any:
    return np.array(rows, np.int64).reshape(len(rows), width)
