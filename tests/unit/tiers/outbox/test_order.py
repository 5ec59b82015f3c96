"""The order and the eviction rule, against a list that is sorted and searched anew each time."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from escalade.tiers.outbox import OutboxFullError, OutboxLimits
from escalade.tiers.outbox.order import Entry, Order

MAX_BYTES, MAX_ITEMS, MAX_AGE_S = 60, 9, 10.0


class Orders(RuleBasedStateMachine):
    """`model` holds the entries in the order of their arrival, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.order = Order(OutboxLimits(MAX_BYTES, MAX_ITEMS, MAX_AGE_S))
        self.model: list[Entry] = []
        self.leased: set[int] = set()
        self.now, self.seq = 0.0, 0

    def add(self, rank: int, device: str, size: int) -> tuple[Entry, list[Entry] | None]:
        self.seq += 1
        entry = Entry(self.seq, rank, device, size, self.now)
        victims, room = [], self.model.copy()
        while len(room) + 1 > MAX_ITEMS or sum(e.size for e in room) + size > MAX_BYTES:
            candidates = [e for e in room if e.rank >= rank and e.seq not in self.leased]
            if not candidates:
                with pytest.raises(OutboxFullError):
                    self.order.add(entry)
                return entry, None
            victim = min(candidates, key=lambda e: (-e.rank, e.seq))
            room.remove(victim)
            victims.append(victim)
        assert self.order.add(entry) == victims
        self.model = [*room, entry]
        return entry, victims

    @rule(rank=st.integers(0, 2), device=st.sampled_from("abc"), size=st.integers(1, 30))
    def put(self, rank: int, device: str, size: int) -> None:
        self.add(rank, device, size)

    @rule(rank=st.integers(0, 2), device=st.sampled_from("abc"), size=st.integers(1, 30))
    def put_fails_on_the_disk(self, rank: int, device: str, size: int) -> None:
        before = self.model.copy()
        entry, victims = self.add(rank, device, size)
        if victims is not None:
            self.order.restore(victims)
            self.order.withdraw([entry])
            self.model = before

    @rule(count=st.integers(0, 5))
    def take(self, count: int) -> None:
        busy = {(e.rank, e.device) for e in self.model if e.seq in self.leased}
        free = [e for e in self.model if (e.rank, e.device) not in busy]
        expected = sorted(free, key=lambda e: (e.rank, e.seq))[:count]
        assert [e.seq for e in self.order.take(count)] == [e.seq for e in expected]
        self.leased |= {e.seq for e in expected}

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.leased) or [0]))
        assert (self.order.done(seq) is not None) == (seq in self.leased)
        self.leased.discard(seq)
        self.model = [e for e in self.model if e.seq != seq]

    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.leased) or [0]))
        assert (self.order.failed(seq) is not None) == (seq in self.leased)
        self.leased.discard(seq)

    @rule(seconds=st.floats(0, 6), written=st.booleans())
    def time_passes(self, seconds: float, written: bool) -> None:
        self.now += seconds
        old = [e for e in self.model if self.now - e.since > MAX_AGE_S and e.seq not in self.leased]
        victims = self.order.expire(self.now)
        assert sorted(e.seq for e in victims) == [e.seq for e in old]
        if written:
            self.model = [e for e in self.model if e not in old]
        else:
            self.order.restore(victims)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.order) == len(self.model) <= MAX_ITEMS
        assert self.order.bytes == sum(e.size for e in self.model) <= MAX_BYTES
        assert self.order.in_flight == len(self.leased)
        assert self.order.oldest_since() == min((e.since for e in self.model), default=None)
        assert self.order.depths() == tuple(sum(e.rank == rank for e in self.model) for rank in range(3))


TestOrders = Orders.TestCase


def filled(*ranks: int, max_items: int = 100) -> Order:
    order = Order(OutboxLimits(max_items=max_items))
    for seq, rank in enumerate(ranks, 1):
        order.add(Entry(seq, rank, "cam", 1, 0.0))
    return order


def test_critical_goes_first_and_is_evicted_last() -> None:
    """Normal, bulk, critical arrive; critical, normal, bulk leave; bulk, normal make room for critical."""
    assert [entry.rank for entry in filled(1, 2, 0).take(3)] == [0, 1, 2]
    order = filled(1, 2, 0, max_items=3)
    assert [order.add(Entry(seq, 0, "cam", 1, 0.0))[0].seq for seq in (4, 5, 6)] == [2, 1, 3]


def test_nothing_less_urgent_evicts_anything_more_urgent() -> None:
    """A bulk item is refused by an outbox full of critical ones, and nothing has changed."""
    order = filled(0, 0, max_items=2)
    with pytest.raises(OutboxFullError, match="max_items 2"):
        order.add(Entry(3, 2, "cam", 1, 0.0))
    assert len(order) == 2


def test_what_is_in_flight_is_not_evicted() -> None:
    """The oldest is in flight: the next one makes room."""
    order = filled(1, 1, max_items=2)
    order.take(1)
    assert [victim.seq for victim in order.add(Entry(3, 1, "cam", 1, 0.0))] == [2]


def test_a_device_waits_for_what_it_has_in_flight() -> None:
    """The second of a device is not taken while its first is away; another device's is."""
    order = filled(1, 1)
    order.add(Entry(3, 1, "other", 1, 0.0))
    assert [entry.seq for entry in order.take(1)] == [1]
    assert [entry.seq for entry in order.take(9)] == [3]
    order.failed(1)
    assert [entry.seq for entry in order.take(9)] == [1, 2]


def test_memory_does_not_grow_with_what_has_passed_through() -> None:
    """Ten thousand items through a full outbox that nobody drains leave as little behind as ten."""
    order = Order(OutboxLimits(max_items=10))
    for seq in range(10_000):
        with suppress(OutboxFullError):
            order.add(Entry(seq, (2, 1, 0)[seq // 4000], f"cam-{seq % 7}", 1, 0.0))
    assert len(order._lanes) <= 30
    assert sum(map(len, order._heads)) < 500
    assert sum(len(lane.waiting) for lane in order._lanes.values()) <= 30
