"""Policies of the reference engine: `Minds` lets them decide on one request, tells them later, and moves control on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Action, listens
from escalade.simulations.fleet.book import outcomes_0, outcomes_1
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.learning import Mailbox, mean_ms
from escalade.simulations.fleet.reference_parts import warm
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
        self._mail = Mailbox(fleet.world)

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
        now = self.fleet.now
        chance = int(np.array([one.chance[level]]).view(np.int64)[0])
        took = now - decided if upper >= 0 else -1
        upper_row = one.row[upper] if upper >= 0 else 0
        self._fed.append(
            [level, now, one.cell, one.rid, self.fleet.number(one), one.row[level], int(action), chance, decided, upper,
             upper_row, took]
        )  # fmt: skip

    def escalated(self, one: Request, level: int) -> None:
        """Note an escalation for telemetry."""
        self._outcomes.append([level, self.fleet.number(one), self.fleet.now, 0, 0, 1])

    def control(self) -> None:
        """Do what the engine does between windows."""
        fleet, world, now = self.fleet, self.fleet.world, self.fleet.now
        fed, ended = _matrix(self._fed, FED), fleet.count_ended()
        self._mail.put([fed], [_matrix(self._outcomes, OUTCOME), *self._told(ended, fed)])
        self._fed, self._outcomes = [], []
        if now % world.feedback == 0 and self._observes:
            for policy, feedback in zip(self.policies, self._mail.feedback(now), strict=True):
                if feedback is not None and listens(policy, "observe"):
                    policy.observe(feedback)
        if now % world.interval:
            return
        row = fleet.stats.series[now // world.interval - 1]
        edge, server = fleet.scenario.edge_nodes, fleet.scenario.edge_servers
        load = (
            int(row[Series.BUSY_NS_1]) / (edge.count * edge.workers * world.interval),
            int(row[Series.BUSY_NS_2]) / (server.count * server.workers * world.interval),
        )
        wanted = [listens(policy, "retune") for policy in self.policies]
        told = self._mail.telemetry(now, world.interval, load, wanted)
        for policy, telemetry in zip(self.policies, told, strict=True):
            if telemetry is not None:
                policy.retune(telemetry)
        self.upstream_ms = (
            mean_ms(int(row[Series.ABOVE_NS_0]), int(row[Series.ABOVE_0]), self.upstream_ms[0]),
            mean_ms(int(row[Series.ABOVE_NS_1]), int(row[Series.ABOVE_1]), self.upstream_ms[1]),
        )
        self.loads = tuple([one.load() for one in desks] for desks in fleet.desks)
        self._warm()

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
