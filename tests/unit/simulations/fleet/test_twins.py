"""The arrays that stand for the tiers' own classes do what those do."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from escalade.simulations.fleet import parse_scenario
from escalade.simulations.fleet.circuit import CLOSED, HALF_OPEN, OPEN, Circuits, allows, ended
from escalade.simulations.fleet.compiled import World
from escalade.simulations.fleet.draws import Purpose, keys, uniform
from escalade.simulations.fleet.intervals import Intervals
from escalade.simulations.fleet.local import budget
from escalade.simulations.fleet.result import Stats
from escalade.simulations.fleet.rows import UP, Status, Up
from escalade.simulations.fleet.travel import Links, paid, queue_up
from escalade.tiers.breaker import Breaker, Circuit
from escalade.tiers.deadline import upstream_budget_s
from escalade.tiers.outbox.errors import OutboxFullError
from escalade.tiers.outbox.order import Entry, Order, OutboxLimits
from escalade.tiers.retry import RetryBudget

STATES = {Circuit.CLOSED: CLOSED, Circuit.OPEN: OPEN, Circuit.HALF_OPEN: HALF_OPEN}


@given(st.integers(-(10**9), 10**13), st.integers(0, 10**9), st.integers(1, 10**12))
def test_the_deadline_is_split_as_in_the_tiers(left: int, reserve: int, timeout: int) -> None:
    """To the nanosecond, rounded down."""
    assert budget(left, reserve, timeout) == math.floor(upstream_budget_s(left, reserve, timeout))


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=60), st.integers(1, 4))
def test_the_breaker_opens_and_closes_as_in_the_tiers(calls: list[tuple[int, bool]], failures: int) -> None:
    """The same calls pass, and the same states follow, call by call."""
    key, opened = keys(3, 1)[0, Purpose.BREAKER_1], iter(range(1000))
    real = Breaker(failures=failures, wait_s=100.0, max_wait_s=350.0, uniform=lambda: float(uniform(key, next(opened))))
    twin, now = Circuits.closed(1, 100.0), 0
    for after, good in calls:
        now += after
        passes = real.allows(now)
        assert allows(twin, 0, now) == passes
        if passes:
            if good:
                real.succeeded(now)
            else:
                real.failed(now)
            ended(twin, 0, now, good, failures, 100.0, 350.0, key)
        assert twin.state[0] == STATES[real.state]


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1), st.integers(0, 5))
def test_repeats_are_paid_for_as_in_the_tiers(lost: list[int], ratio: float, burst: int) -> None:
    """Message by message as many repeats are made as the budget grants."""
    real, tokens = RetryBudget(ratio=ratio, burst=burst), np.full(1, float(burst))
    for repeats in lost:
        real.earn()
        granted = 0
        while granted < repeats and real.spend():
            granted += 1
        assert paid(tokens, 0, ratio, burst, repeats) == granted
        assert tokens[0] == real.tokens


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5), st.sampled_from([0, 1000, 2500]))
def test_a_waiting_link_keeps_and_evicts_what_the_outbox_would(gaps: list[int], kept: int, byte_ns: int) -> None:
    """One device, one priority: the same messages leave, in the same order, and the same are given up."""
    down = Intervals(np.array([0, 1]), np.array([2000]), np.array([9000]))
    scenario = {
        "endpoints": [{"name": "a", "count": 1, "arrivals": {"kind": "poisson", "rate_hz": 1}}],
        "links": {
            "uplink": {
                "latency": {"kind": "constant", "ms": 0},
                "bandwidth_kbit_s": 8e6 / byte_ns if byte_ns else None,
                "outages": {"up_s": 1, "down_s": 1},
                "max_waiting": kept,
            }
        },
    }
    world = World.of(parse_scenario(scenario))
    sent = np.cumsum(np.array(gaps) * 1000)
    rows = np.zeros((len(sent), UP), np.int64)
    rows[:, Up.RID], rows[:, Up.SENT_1], rows[:, Up.SIZE] = np.arange(len(sent)), sent, 1
    links = Links(np.zeros(1, np.int64), down, Circuits.closed(1, 0.0), np.zeros(1))
    stats = Stats.empty(1, 1)
    order = np.arange(len(sent))
    queue_up(
        world.uplink, world.keys[0], links, stats.count, stats.hist, stats.series, world.interval, rows, order, 10**9, 1
    )
    left = rows[rows[:, Up.STATUS] == Status.DONE]

    outbox, gone, free, flying = Order(OutboxLimits(max_items=kept)), [], 0, list[tuple[int, Entry]]()

    def go_on(until: int) -> None:
        nonlocal free
        while True:
            for end, entry in [one for one in flying if one[0] <= until]:
                flying.remove((end, entry))
                outbox.done(entry.seq)
            waiting = _waiting(outbox)
            if not waiting:
                return
            begin = max(free, int(waiting[0].since))
            begin = 9000 if 2000 <= begin < 9000 else begin
            if begin > until:
                return
            for end, entry in [one for one in flying if one[0] <= begin]:
                flying.remove((end, entry))
                outbox.done(entry.seq)
            (entry,) = outbox.take(1)
            free = begin + byte_ns
            gone.append(entry.seq)
            flying.append((free, entry))

    lost = []
    for number, when in enumerate(sent.tolist()):
        go_on(when)
        try:
            lost += [one.seq for one in outbox.add(Entry(number, 0, "device", 1, when))]
        except OutboxFullError:
            lost.append(number)
    go_on(10**9)
    assert left[np.argsort(left[:, Up.AT], kind="stable"), Up.RID].tolist() == gone
    assert sorted(rows[rows[:, Up.STATUS] != Status.DONE, Up.RID].tolist()) == sorted(lost)


def _waiting(order: Order) -> list[Entry]:
    return [entry for entries in order._entries for entry in entries.values() if not entry.leased]
