"""Arrivals of one class in one cell: `Source`, which gives those before a time, in order, whatever the windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import TraceError
from escalade.simulations.fleet.arrivals import Bursts, Daily, Periodic, Poisson, Replay
from escalade.simulations.fleet.draws import Purpose, below, drawn, uniform
from escalade.simulations.fleet.intervals import alternating
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.quantiles import UNIT_MEAN, exponential_table
from escalade.simulations.trace_file import TraceFile
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import World

    Arrived = tuple[NDArray[np.int64], NDArray[np.int64]]

_CLASS_SHIFT = 44
"""A class's numbers begin at its own place times 2 ** 44."""


class Source(ABC):
    """The arrivals of a class's devices in a cell."""

    @abstractmethod
    def until(self, t1: int) -> Arrived:
        """Return times, ns, ascending, and devices of the cell of the arrivals not yet given that are before `t1`."""


def source_of(world: World, cell: int, kind: int, first: int, count: int) -> Source:
    """Return the source of a class's devices ``first .. first + count`` of a cell."""
    arrivals, keys = world.scenario.endpoints[kind].arrivals, world.keys[cell]
    match arrivals:
        case Periodic():
            return _PeriodicSource(world, arrivals, keys, kind, first, count)
        case Replay():
            return _ReplaySource(world, arrivals, cell, kind, first)
        case Poisson():
            edges, rates = np.array([0, world.duration], np.int64), np.array([arrivals.rate_hz])
        case Daily():
            edges, rates = _daily(arrivals, world.duration)
        case Bursts():
            edges, rates = _bursts(arrivals, world.duration, keys, kind)
    return _PoissonSource(edges, rates * count / 1e9, keys, kind, first, count)


def event_source(world: World, cell: int) -> Source:
    """Return the source of a cell's share of the fused events; in the place of devices it gives groups of nodes."""
    assert world.sights is not None
    assert world.scenario.events is not None
    groups = len(world.nodes(cell)) // world.scenario.events.views
    rate = np.array([world.scenario.events.rate_hz * groups / world.sights.groups / 1e9])
    edges = np.array([0, world.duration], np.int64)
    return _PoissonSource(edges, rate, world.keys[cell], len(world.scenario.endpoints), 0, groups)


class _PoissonSource(Source):
    """A Poisson process whose rate is constant by pieces: one of rate 1, with its time stretched."""

    def __init__(
        self,
        edges: NDArray[np.int64],
        rates: NDArray[np.float64],
        keys: NDArray[np.uint64],
        kind: int,
        first: int,
        count: int,
    ) -> None:
        speed = rates * UNIT_MEAN  # of the stretched time
        self._edges = edges
        self._marks = np.append(0, np.cumsum(np.floor(np.diff(edges) * speed).astype(np.int64)))
        with np.errstate(divide="ignore"):
            self._stretch = np.where(speed > 0, 1.0 / speed, 0.0)
        self._most = float(rates.max())
        self._table = exponential_table()
        self._keys, self._first, self._count = keys, first, count
        self._state = np.array([kind << _CLASS_SHIFT, 0, 0], np.int64)
        self._at = 0

    def until(self, t1: int) -> Arrived:
        t1 = min(t1, int(self._edges[-1]))
        expected = max(0.0, (t1 - self._at) * self._most)
        room = int(expected + 6 * expected**0.5) + 16
        parts = []
        while True:
            t, device = np.empty(room, np.int64), np.empty(room, np.int64)
            n = _poisson(
                self._state, self._keys, self._table, self._edges, self._marks, self._stretch, t1, self._first,
                self._count, t, device,
            )  # fmt: skip
            parts.append((t[:n], device[:n]))
            if n < room:
                break
        self._at = t1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])


@kernel
def _poisson(
    state: Any, keys: Any, table: Any, edges: Any, marks: Any, stretch: Any, t1: Any, first: Any, count: Any, t: Any,
    device: Any,
) -> Any:  # fmt: skip
    number, mark, piece = state[0], state[1], state[2]
    gap_key, device_key = keys[Purpose.GAP], keys[Purpose.DEVICE]
    n = 0
    while n < t.shape[0]:
        reached = mark + drawn(table, 0, gap_key, number)
        while piece < stretch.shape[0] and reached >= marks[piece + 1]:
            piece += 1
        if piece >= stretch.shape[0]:
            break
        when = min(edges[piece] + np.int64((reached - marks[piece]) * stretch[piece]), edges[piece + 1] - 1)
        if when >= t1:
            break
        t[n] = when
        device[n] = first + below(device_key, number, count)
        mark = reached
        number += 1
        n += 1
    state[0], state[1] = number, mark
    return n


class _PeriodicSource(Source):
    def __init__(
        self, world: World, arrivals: Periodic, keys: NDArray[np.uint64], kind: int, first: int, count: int
    ) -> None:
        self._period, self._jitter = round(arrivals.period_ms * 1e6), round(arrivals.jitter_ms * 1e6)
        self._keys, self._first, self._count, self._kind = keys, first, count, kind
        self._phase = np.empty(count, np.int64)
        _phases(keys[Purpose.PHASE], kind << _CLASS_SHIFT, self._period, self._phase)
        self._at, self._end = 0, world.duration

    def until(self, t1: int) -> Arrived:
        t0, t1 = self._at, min(t1, self._end)
        room = self._count * ((t1 - t0) // self._period + 3)
        t, device = np.empty(room, np.int64), np.empty(room, np.int64)
        n = _periodic(
            self._phase, self._period, self._jitter, self._keys[Purpose.JITTER], self._kind, t0, t1, t, device
        )
        self._at = max(t0, t1)
        order = np.lexsort((device[:n], t[:n]))
        return t[order], device[order] + self._first


@kernel
def _phases(key: Any, number: Any, period: Any, phase: Any) -> None:
    for i in range(phase.shape[0]):
        phase[i] = np.int64(uniform(key, number + i) * period)


@kernel
def _periodic(
    phase: Any, period: Any, jitter: Any, key: Any, kind: Any, t0: Any, t1: Any, t: Any, device: Any
) -> Any:  # fmt: skip
    n = 0
    for i in range(phase.shape[0]):
        k = max((t0 - jitter - phase[i]) // period, 0)
        while phase[i] + k * period < t1:
            when = phase[i] + k * period
            if jitter > 0:
                when += np.int64(uniform(key, (np.int64(kind) << 58) + (np.int64(i) << 32) + k) * jitter)
            if t0 <= when < t1:
                t[n] = when
                device[n] = i
                n += 1
            k += 1
    return n


class _ReplaySource(Source):
    def __init__(self, world: World, arrivals: Replay, cell: int, kind: int, first: int) -> None:
        mine, count = world.devices(cell, kind), world.scenario.endpoints[kind].count
        when = recorded_times(world, arrivals, kind)
        device = np.arange(len(when), dtype=np.int64) % count
        inside = (device >= mine.start) & (device < mine.stop)
        self._t, self._device = when[inside], device[inside] - mine.start + first
        self._place = 0

    def until(self, t1: int) -> Arrived:
        low, high = self._place, int(np.searchsorted(self._t, t1))
        self._place = high
        return self._t[low:high], self._device[low:high]


def recorded_times(world: World, arrivals: Replay, kind: int) -> NDArray[np.int64]:
    """Return the times of a trace, ns from its first on, those before the end of the run; ConfigError for none."""
    key = f"endpoints.{kind}.arrivals.file"
    name = f"time_s_{arrivals.split}"
    try:
        file = TraceFile.open(world.scenario.folder / arrivals.file)
        times = file.times_s(arrivals.split, len(file.arrays[name])) if name in file.arrays else None
    except TraceError as error:
        raise ConfigError(str(error), key=key) from error
    if times is None or not len(times):
        raise ConfigError(f"holds no {name}: when the inputs arrived, seconds", key=key)
    if (np.diff(times) < 0).any():
        raise ConfigError(f"{name} does not ascend: sort the rows by time", key=key)
    when = np.rint((times - times[0]) / arrivals.speed * 1e9).astype(np.int64)
    inside: NDArray[np.int64] = when[when < world.duration]
    return inside


def _daily(arrivals: Daily, duration: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    piece = round(arrivals.day_s * 1e9 / len(arrivals.rate_hz))
    pieces = -(-duration // piece)
    edges = np.minimum(np.arange(pieces + 1, dtype=np.int64) * piece, duration)
    return edges, np.resize(np.array(arrivals.rate_hz), pieces)


def _bursts(
    arrivals: Bursts, duration: int, keys: NDArray[np.uint64], kind: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    periods = alternating(arrivals.quiet_s, arrivals.burst_s, kind + 1, duration, keys[Purpose.BURST])
    mine = slice(int(periods.first[kind]), int(periods.first[kind + 1]))
    inner = np.stack([periods.start[mine], periods.end[mine]], axis=1).reshape(-1)
    edges = np.unique(np.concatenate([[0], inner, [duration]])).astype(np.int64)
    bursting = np.isin(edges[:-1], periods.start[mine])
    return edges, np.where(bursting, arrivals.burst_rate_hz, arrivals.rate_hz)
