"""Who lives in a cell at the beginning: its endpoints and its links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.circuit import Circuits
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.draws import Purpose
from escalade.simulations.fleet.intervals import NEVER, Intervals, alternating, from_config
from escalade.simulations.fleet.local import Devices
from escalade.simulations.fleet.rows import BATTERIES_AND_CHURN, NO_BATTERY, STATE, State
from escalade.simulations.fleet.travel import Links

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World

PJ_PER_MWH = 3_600_000_000_000


def population(world: World, cell: int, *, told: bool = False) -> tuple[Devices, NDArray[np.int64]]:
    """Return a cell's endpoints and their batteries' capacities, pJ; by class, then by number.

    `told`: count for telemetry.
    """
    endpoints = world.scenario.endpoints
    keys = world.keys[cell]
    ranges = [world.devices(cell, kind) for kind in range(len(endpoints))]
    total = sum(map(len, ranges))
    kind = np.repeat(np.arange(len(endpoints), dtype=np.int64), [len(one) for one in ranges])
    index = np.concatenate([np.arange(one.start, one.stop, dtype=np.int64) for one in ranges])
    number = index + world.class_first[kind]
    profiles = [profile_of(one) for one in endpoints]
    none = np.zeros(0, np.int64)
    heats = any(one.thermal is not None for one in profiles)
    batteries = [one.battery for one in profiles]
    capacity = none
    if any(one is not None for one in batteries):
        full = np.array([0 if one is None else round(one.capacity_mwh * PJ_PER_MWH) for one in batteries], np.int64)
        spread = np.array([0.0 if one is None else one.spread for one in batteries])
        part = uniforms(keys[Purpose.BATTERY], np.arange(total, dtype=np.int64))
        capacity = (full[kind] * (1.0 - spread[kind] * part)).astype(np.int64)
    fleet_keys = world.keys[world.cells]
    upgrade = none
    if any(one.tier == "endpoint" for one in world.scenario.rollouts):
        upgrade = world.upgrades(0, number, uniforms(fleet_keys[Purpose.ROLLOUT_0], number))
    phase = none
    if any(one.mobility is not None for one in endpoints):
        chance = uniforms(keys[Purpose.MOBILITY], np.arange(total, dtype=np.int64) << 32)
        dwell = np.minimum(world.kinds.dwell[kind], 1 << 50)
        phase = (chance * dwell).astype(np.int64)
    away = _away(world, cell, ranges)
    churns = len(away.first) > 1
    state = _in_lines(total, STATE if told else BATTERIES_AND_CHURN if churns or len(capacity) else 1)
    if len(capacity):
        state[:, State.CHARGE] = capacity
        state[capacity == 0, State.SINCE] = NO_BATTERY
    devices = Devices(
        kind.astype(np.int32),
        number,
        state,
        upgrade,
        phase,
        away,
        np.zeros(total if heats else 0, np.uint8),
        np.zeros(total if heats else 0, np.int64),
        np.full(len(capacity), -1, np.int64),
    )
    return devices, capacity


def _in_lines(rows: int, columns: int) -> NDArray[np.int64]:
    """Return zeros int64 ``[rows, columns]`` that begin with a line of the processor's cache, of 64 bytes."""
    flat = np.zeros(rows * columns + 8, np.int64)
    begin = -flat.ctypes.data % 64 // 8
    return flat[begin : begin + rows * columns].reshape(rows, columns)


def _away(world: World, cell: int, ranges: list[range]) -> Intervals:
    """Return when each device has left."""
    endpoints = world.scenario.endpoints
    if all(one.churn is None for one in endpoints):
        return NEVER
    parts = []
    for kind, (one, mine) in enumerate(zip(endpoints, ranges, strict=True)):
        if one.churn is None:
            parts.append(Intervals(np.zeros(len(mine) + 1, np.int64), NEVER.start, NEVER.end))
        else:
            with np.errstate(over="ignore"):
                key = world.keys[cell, Purpose.CHURN] + np.uint64(kind)
            parts.append(alternating(one.churn.online_s, one.churn.offline_s, len(mine), world.duration, key))
    firsts, before = [np.zeros(1, np.int64)], 0
    for part in parts:
        firsts.append(part.first[1:] + before)
        before += len(part.start)
    return Intervals(
        np.concatenate(firsts),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
    )


def links_of(world: World, cell: int, hop: int) -> Links:
    """Return one hop's links of a cell, idle: one for each of its edge nodes."""
    links = world.scenario.links
    config, wire = ((links.access, world.access), (links.uplink, world.uplink))[hop]
    count = len(world.nodes(cell))
    key = world.keys[cell, Purpose.OUTAGE_0 if hop == 0 else Purpose.OUTAGE_1]
    return Links(
        np.zeros(count, np.int64),
        from_config(config.outages, count, world.duration, key),
        Circuits.closed(count, wire.wait),
        np.full(count, float(wire.burst)),
    )
