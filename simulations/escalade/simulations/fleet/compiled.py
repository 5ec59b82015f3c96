"""A scenario as arrays: `World`, what shards and servers compute with. It pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import keys
from escalade.simulations.fleet.limits import too_much
from escalade.simulations.fleet.quantiles import time_table
from escalade.simulations.fleet.rows import FAR
from escalade.simulations.fleet.tables import ScoreTable, score_tables
from escalade.simulations.fleet.views import Sights
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.hardware import HardwareProfile
    from escalade.simulations.fleet.network import Link
    from escalade.simulations.fleet.scenario import EndpointClass, Scenario, Station


ASSUMED_EACH_MORE = 0.3
"""Of a batch, where neither scenario nor profile says."""


class Kinds(NamedTuple):
    """What the kernels know of each class of endpoints; int64 ``[classes]`` but `service`; times in ns."""

    service: NDArray[np.int64]
    """``[classes, WIDTH]``"""
    deadline: NDArray[np.int64]
    reserve: NDArray[np.int64]
    timeout: NDArray[np.int64]
    size: NDArray[np.int64]
    """Bytes sent up."""
    slo: NDArray[np.int64]
    pass_share: NDArray[np.float64]
    """Of the trigger sensor; 2 where there is none."""
    wake: NDArray[np.int64]
    awake: NDArray[np.int64]
    slowdown: NDArray[np.float64]
    """When throttled."""
    idle_uw: NDArray[np.int64]
    """Trigger sensor and idle board together."""
    active_uw: NDArray[np.int64]
    """Above idle."""
    byte_pj: NDArray[np.int64]
    message_pj: NDArray[np.int64]
    dwell: NDArray[np.int64]
    """Between moves; `FAR` for one that stays."""


class Wire(NamedTuple):
    """What the kernels know of a hop."""

    latency: NDArray[np.int64]
    latency_down: NDArray[np.int64]
    """Of the answers."""
    ns_per_byte: float
    loss: float
    """Share of transmissions; 0 for none."""
    retry: int
    max_retries: int
    ratio: float
    """Repeats that a message earns; negative where they cost nothing."""
    burst: int
    max_waiting: int
    evicts: bool
    failures: int
    """That open the breaker; 0 for no breaker."""
    wait: float
    max_wait: float


class Desk(NamedTuple):
    """What the kernels know of a tier that many ask."""

    service: NDArray[np.int64]
    workers: int
    max_batch: int
    each_more: float
    max_queue: int
    """0 for no bound."""
    slow_from: NDArray[np.int64]
    """Brown-outs."""
    slow_to: NDArray[np.int64]
    slowdown: NDArray[np.float64]
    reserve: int
    timeout: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A scenario with a seed, ready to run.

    Attributes
    ----------
    scenario, seed
        What it was made of.
    duration, interval, feedback
        ns.
    cells
        How many.
    keys
        uint64 ``[cells + 1, PURPOSES]``; the last row is that of the servers.
    tables
        Of the three tiers, lowest first.
    kinds, access, uplink, edge, server
        What kernels take.
    """

    scenario: Scenario
    seed: int
    duration: int
    interval: int
    feedback: int
    cells: int
    keys: NDArray[np.uint64]
    tables: tuple[ScoreTable, ...]
    kinds: Kinds
    access: Wire
    uplink: Wire
    edge: Desk
    server: Desk
    class_first: NDArray[np.int64]
    """Fleet's number of each class's first device; and the number of devices."""
    sights: Sights | None
    """What the views of fused events say, if there are any."""

    @classmethod
    def of(cls, scenario: Scenario, seed: int | None = None) -> World:
        """Compile.

        Raises
        ------
        ConfigError
            If a file cannot be read, a combination is not simulated, or it is too big.
        """
        big = too_much(scenario)
        if big is not None:
            raise ConfigError(big[1], key=".".join(map(str, big[0])))
        real_seed = scenario.seed if seed is None else seed
        nodes = scenario.edge_nodes.count
        cells = int(min(max(1, round(scenario.device_count / scenario.engine.cell_endpoints)), nodes))
        interval = _ns(scenario.control.interval_s * 1e3)
        return cls(
            scenario,
            real_seed,
            _ns(scenario.duration_s * 1e3),
            interval,
            _ns(scenario.control.feedback_s * 1e3) if scenario.control.feedback_s else interval,
            cells,
            keys(real_seed, cells + 1),
            score_tables(scenario),
            _kinds(scenario),
            _wire(scenario.links.access),
            _wire(scenario.links.uplink),
            _desk(scenario.edge_nodes),
            _desk(scenario.edge_servers),
            np.cumsum([0, *(one.count for one in scenario.endpoints)]).astype(np.int64),
            Sights.of(scenario, [(cell + 1) * nodes // cells - cell * nodes // cells for cell in range(cells)]),
        )

    @property
    def intervals(self) -> int:
        """Control intervals of the run, the last perhaps cut short."""
        return -(-self.duration // self.interval)

    def nodes(self, cell: int) -> range:
        """Return the edge nodes of a cell."""
        count = self.scenario.edge_nodes.count
        return range(cell * count // self.cells, (cell + 1) * count // self.cells)

    def devices(self, cell: int, kind: int) -> range:
        """Return the devices of a class that are a cell's, by their number in the class: those of its nodes."""
        nodes, mine = self.scenario.edge_nodes.count, self.nodes(cell)
        count = self.scenario.endpoints[kind].count
        return range(-(-mine.start * count // nodes), -(-mine.stop * count // nodes))

    def upgrades(self, level: int, units: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return when a rollout reaches each unit of a tier, ns; `FAR` for never. `uniform` is drawn for each."""
        name = ("endpoint", "edge_node", "edge_server")[level]
        when = np.full(len(units), FAR, np.int64)
        for rollout in self.scenario.rollouts:
            if rollout.tier == name:
                for wave in reversed(rollout.waves):
                    when[uniform < wave.share] = _ns(wave.at_s * 1e3)
        return when


def profile_of(section: EndpointClass | Station) -> HardwareProfile:
    """Return a section's profile, its own service time in the place of the profile's."""
    from escalade.simulations.fleet.hardware import PROFILES

    profile = PROFILES[section.profile] if isinstance(section.profile, str) else section.profile
    return profile if section.service is None else profile.model_copy(update={"service": section.service})


def _ns(ms: float | None) -> int:
    return FAR if ms is None else round(ms * 1e6)


def _kinds(scenario: Scenario) -> Kinds:
    endpoints = scenario.endpoints
    profiles = [profile_of(one) for one in endpoints]

    def whole(values: list[Any]) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    triggers = [profile.trigger for profile in profiles]
    return Kinds(
        np.concatenate([time_table(profile.service) for profile in profiles]),
        whole([_ns(one.deadline_ms) for one in endpoints]),
        whole([_ns(one.escalation.reserve_ms) for one in endpoints]),
        whole([_ns(one.escalation.timeout_ms) for one in endpoints]),
        whole([one.bytes_up for one in endpoints]),
        whole([_ns(scenario.slo_ms or one.deadline_ms) for one in endpoints]),
        np.array([2.0 if one is None else one.pass_share for one in triggers]),
        whole([0 if one is None else _ns(one.wake_ms) for one in triggers]),
        whole([0 if one is None else _ns(one.awake_ms) for one in triggers]),
        np.array([1.0 if one.thermal is None else one.thermal.slowdown for one in profiles]),
        whole(
            [
                round((profile.idle_mw + (0.0 if trigger is None else trigger.power_mw)) * 1e3)
                for profile, trigger in zip(profiles, triggers, strict=True)
            ]
        ),
        whole([max(0, round((one.active_mw - one.idle_mw) * 1e3)) for one in profiles]),
        whole([round(one.radio_nj_per_byte * 1e3) for one in profiles]),
        whole([round(one.radio_uj_per_message * 1e6) for one in profiles]),
        whole([_ns(None if one.mobility is None else one.mobility.dwell_s * 1e3) for one in endpoints]),
    )


def _wire(link: Link) -> Wire:
    loss, breaker = link.loss, link.breaker
    budget = None if loss is None else loss.budget
    return Wire(
        time_table(link.latency),
        time_table(link.latency_down or link.latency),
        0.0 if link.bandwidth_kbit_s is None else 8e6 / link.bandwidth_kbit_s,
        0.0 if loss is None else loss.share,
        0 if loss is None else _ns(loss.retry_ms),
        0 if loss is None else loss.max_retries,
        -1.0 if budget is None else budget.ratio,
        0 if budget is None else budget.burst,
        0 if link.max_waiting is None else link.max_waiting,
        link.when_full == "evict_oldest",
        0 if breaker is None else breaker.failures,
        0.0 if breaker is None else breaker.wait_ms * 1e6,
        0.0 if breaker is None else breaker.max_wait_ms * 1e6,
    )


def _each_more(station: Any) -> float:
    known = (station.batching.each_more, profile_of(station).each_more, ASSUMED_EACH_MORE)
    return float(next(one for one in known if one is not None))


def _desk(station: Any) -> Desk:
    brownouts = getattr(station, "brownouts", ())
    escalation = getattr(station, "escalation", None)
    return Desk(
        time_table(profile_of(station).service),
        station.workers,
        station.batching.max_batch,
        _each_more(station),
        station.max_queue or 0,
        np.array([_ns(one.from_s * 1e3) for one in brownouts], np.int64),
        np.array([_ns(one.to_s * 1e3) for one in brownouts], np.int64),
        np.array([one.slowdown for one in brownouts], np.float64),
        0 if escalation is None else _ns(escalation.reserve_ms),
        0 if escalation is None else _ns(escalation.timeout_ms),
        getattr(station, "bytes_up", 0),
    )
