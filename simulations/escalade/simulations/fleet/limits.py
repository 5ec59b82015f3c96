"""What is too big to be run: `too_much` estimates requests and memory before anything is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from escalade.simulations.fleet.arrivals import Bursts, Daily, Periodic, Poisson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from escalade.simulations.fleet.network import UpDown
    from escalade.simulations.fleet.scenario import Scenario, Station

    Keys = tuple[str | int, ...]

MOST_S = 1e9
"""Simulated seconds, 32 years: int64 holds nine times as many nanoseconds."""
MOST_REQUESTS = 1e11
"""A day of a million inputs a second; an hour of a million endpoints has 0.06 % of them."""

# Bytes, all below what is really taken, so that nothing is refused that could be run.
OF_ENDPOINT, OF_UNIT, OF_CLASS_OF_SAMPLE, OF_INTERVAL, OF_PERIOD = 64, 64, 12, 200, 16


def memory_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def too_much(scenario: Scenario) -> tuple[Keys, str] | None:
    """Return the key of the first thing that is too big, and what to do; None where nothing is."""
    duration_s = scenario.duration_s
    if duration_s > MOST_S:
        return ("duration_s",), f"{duration_s:g} s are more than can be simulated: give {MOST_S:g} or less"
    has = memory_bytes()
    for keys, needed in _needs(scenario):
        if needed > has:
            sizes = f"needs more than {_size(needed)} of memory, and this machine has {_size(has)}"
            return keys, f"{sizes}: make it smaller"
    for keys, count in _inputs(scenario):
        if count > MOST_REQUESTS:
            remedy = f"lower the rate, count or duration_s until they are {MOST_REQUESTS:.0e} or fewer"
            return keys, f"about {count:.1e} inputs are more than can be simulated: {remedy}"
    return None


def _inputs(scenario: Scenario) -> Iterator[tuple[Keys, float]]:
    """Yield keys with how many inputs they make; a recorded trace makes no more than it holds."""
    for number, one in enumerate(scenario.endpoints):
        found: tuple[str, float] | None = None
        match one.arrivals:
            case Poisson(rate_hz=hz):
                found = "rate_hz", hz
            case Periodic(period_ms=period_ms):
                found = "period_ms", 1e3 / period_ms
            case Daily(rate_hz=rates):
                found = "rate_hz", sum(rates) / len(rates)
            case Bursts(rate_hz=low, burst_rate_hz=high, quiet_s=quiet_s, burst_s=burst_s):
                found = "burst_rate_hz", (low * quiet_s + high * burst_s) / (quiet_s + burst_s)
        if found is not None:
            yield ("endpoints", number, "arrivals", found[0]), one.count * found[1] * scenario.duration_s
    if scenario.events is not None:
        yield ("events", "rate_hz"), scenario.events.rate_hz * scenario.events.views * scenario.duration_s


def _needs(scenario: Scenario) -> Iterator[tuple[Keys, float]]:
    """Yield keys with the bytes that they take at least."""
    duration_s, scores = scenario.duration_s, scenario.scores
    if scores.table == "parametric":
        yield ("scores", "samples"), scores.samples * scores.classes * OF_CLASS_OF_SAMPLE
    yield ("control", "interval_s"), duration_s / scenario.control.interval_s * OF_INTERVAL
    for number, one in enumerate(scenario.endpoints):
        yield ("endpoints", number, "count"), one.count * OF_ENDPOINT
        if one.churn is not None:
            periods = one.count * duration_s / (one.churn.online_s + one.churn.offline_s)
            yield ("endpoints", number, "churn"), periods * OF_PERIOD
        match one.arrivals:
            case Daily(day_s=day_s, rate_hz=rates):
                yield ("endpoints", number, "arrivals", "day_s"), duration_s / day_s * len(rates) * OF_PERIOD
            case Bursts(quiet_s=quiet_s, burst_s=burst_s):
                yield ("endpoints", number, "arrivals"), duration_s / (quiet_s + burst_s) * OF_PERIOD
    yield ("endpoints",), scenario.device_count * OF_ENDPOINT
    for name, station in (("edge_nodes", scenario.edge_nodes), ("edge_servers", scenario.edge_servers)):
        yield from _of_station(name, station, duration_s)
    for hop, link in (("access", scenario.links.access), ("uplink", scenario.links.uplink)):
        yield ("links", hop, "outages"), _periods(link.outages, scenario.edge_nodes.count, duration_s)


def _of_station(name: str, station: Station, duration_s: float) -> Iterator[tuple[Keys, float]]:
    yield (name, "count"), station.count * OF_UNIT
    yield (name, "workers"), station.count * station.workers * 8
    if station.max_queue is not None and station.batching.max_batch == 1:
        yield (name, "max_queue"), station.count * station.max_queue * 8
    yield (name, "failures"), _periods(station.failures, station.count, duration_s)


def _periods(config: UpDown | None, units: int, duration_s: float) -> float:
    """Return the bytes of what a Markov chain for each unit gives."""
    if config is None or config.up_s is None or config.down_s is None:
        return 0.0
    return units * duration_s / (config.up_s + config.down_s) * OF_PERIOD


def _size(count: float) -> str:
    return f"{count / 2**30:,.3g} GiB" if count < 2**40 else f"{count / 2**40:,.4g} TiB"
