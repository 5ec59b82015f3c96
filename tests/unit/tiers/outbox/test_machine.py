"""The outbox against a list in memory, across closings, kills and full disks."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from escalade.tiers.outbox import (
    PRIORITIES,
    Correction,
    Delivered,
    Evicted,
    Item,
    Outbox,
    OutboxFullError,
    OutboxLimits,
    Priority,
)

from .conftest import Clock

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # this test is about logic, not fsync
LIMITS = OutboxLimits(max_bytes=1800, max_items=8, max_age_s=100.0, max_corrections=4)


@dataclass(eq=False)
class Kept:
    """What the model knows of an item that was acknowledged."""

    item: Item
    put_at: float
    attempts: int = 0
    seq: int = 0
    leased: bool = False


class Outboxes(RuleBasedStateMachine):
    """Every operation, with the whole content compared at each take."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="outbox-", dir=IN_MEMORY))
        self.runs = count()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.kept: list[Kept] = []
        self.evicted: list[Evicted] = []
        self.evictions = 0
        self.corrections: list[tuple[int, str, bytes, float]] = []
        """Number, id, answer and time."""
        self.last_correction = self.corrections_dropped = 0
        self.told: list[Correction] = []
        self.names = count()
        self.devices: dict[str, set[str]] = {"a": set(), "b": set()}
        """The ids of each device's items."""
        self.path = self.folder / "0" / "outbox.db"
        self.outbox = self.opened()

    def opened(self) -> Outbox:
        outbox = Outbox(
            self.path,
            LIMITS,
            on_evicted=self.evicted.extend,
            on_recorded=self.told.extend,
            clock=self.clock,
            wall=self.clock.wall,
        )
        self.loop.run_until_complete(outbox.open())
        return outbox

    def teardown(self) -> None:
        self.loop.run_until_complete(self.outbox.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def expire(self) -> list[Kept]:
        old = [c for c in self.corrections if self.clock.now - c[3] > LIMITS.max_age_s]
        self.drop_corrections(max(len(old), len(self.corrections) - LIMITS.max_corrections))
        return self.give_up([k for k in self.kept if not k.leased and self.clock.now - k.put_at > LIMITS.max_age_s])

    def drop_corrections(self, count: int) -> None:
        self.corrections = self.corrections[count:]
        self.corrections_dropped += count

    def give_up(self, victims: list[Kept]) -> list[Kept]:
        self.kept = [k for k in self.kept if k not in victims]
        self.evictions += len(victims)
        return victims

    def room_for(self, item: Item) -> list[Kept] | None:
        room, victims = self.kept.copy(), list[Kept]()
        while len(room) + 1 > LIMITS.max_items or sum(k.item.size for k in room) + item.size > LIMITS.max_bytes:
            rank = PRIORITIES.index(item.priority)
            may_go = [k for k in room if not k.leased and PRIORITIES.index(k.item.priority) >= rank]
            if not may_go:
                return None
            victims.append(min(may_go, key=lambda k: (-PRIORITIES.index(k.item.priority), k.seq)))
            room.remove(victims[-1])
        return victims

    @rule(
        shapes=st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from(PRIORITIES), st.integers(0, 500)), min_size=1, max_size=4
        )
    )
    def put(self, shapes: list[tuple[str, Priority, int]]) -> None:
        items = [
            Item(device, str(next(self.names)), bytes(size), priority=priority, provisional=b"old")
            for device, priority, size in shapes
        ]
        gone = self.expire()
        for item in items:
            self.devices[item.device].add(item.id)
        expected: list[bool] = []
        added: list[Kept] = []
        for place, item in enumerate(items):
            victims = self.room_for(item)
            expected.append(victims is not None)
            if victims is not None:
                gone += self.give_up(victims)
                kept = Kept(item, self.clock.now, seq=10**9 + place)
                self.kept.append(kept)
                added.append(kept)

        async def put_all() -> list[int | BaseException]:
            return await asyncio.gather(*map(self.outbox.put, items), return_exceptions=True)

        results = self.loop.run_until_complete(put_all())
        assert [isinstance(result, int) for result in results] == expected, results
        assert all(isinstance(result, (int, OutboxFullError)) for result in results), results
        for kept, seq in zip(added, (result for result in results if isinstance(result, int)), strict=True):
            kept.seq = seq
        assert {e.id for e in self.evicted} == {k.item.id for k in gone}
        self.evicted.clear()

    @rule(size=st.integers(1, 5))
    def take(self, size: int) -> None:
        self.expire()
        busy = {(k.item.priority, k.item.device) for k in self.kept if k.leased}
        free = [k for k in self.kept if (k.item.priority, k.item.device) not in busy]
        expected = sorted(free, key=lambda k: (PRIORITIES.index(k.item.priority), k.seq))[:size]
        leased = self.loop.run_until_complete(self.outbox.take(size))
        assert [(got.seq, got.item, got.attempts) for got in leased] == [(k.seq, k.item, k.attempts) for k in expected]
        for got, k in zip(leased, expected, strict=True):
            assert abs(got.age_s - (self.clock.now - k.put_at)) < 1e-3
            k.leased = True
        self.evicted.clear()

    @rule(data=st.data(), arrived=st.booleans())
    def settle(self, data: st.DataObject, arrived: bool) -> None:
        leased = [k for k in self.kept if k.leased]
        some = data.draw(st.lists(st.sampled_from(leased), unique=True)) if leased else []
        seqs = [k.seq for k in some]
        self.loop.run_until_complete(self.outbox.done(seqs) if arrived else self.outbox.failed(seqs))
        for k in some:
            k.leased, k.attempts = False, k.attempts + 1
        if arrived:
            self.kept = [k for k in self.kept if k not in some]
        if some:
            self.expire()  # whoever writes sees to what is too old
        self.evicted.clear()

    @rule(data=st.data(), wanted=st.booleans(), twice=st.booleans())
    def delivered(self, data: st.DataObject, wanted: bool, twice: bool) -> None:
        leased = [k for k in self.kept if k.leased]
        some = data.draw(st.lists(st.sampled_from(leased), unique=True)) if leased else []
        settled = [Delivered(k.seq, f"new {k.item.id}".encode() if wanted else b"") for k in some]
        self.told.clear()
        corrections = self.loop.run_until_complete(self.outbox.delivered(settled + settled[:twice]))
        assert self.told == corrections
        assert [c.seq for c in corrections] == [self.last_correction + n for n in range(1, wanted * len(some) + 1)]
        for c, k in zip(corrections, some if wanted else [], strict=True):
            assert c[1:5] == (k.item.device, k.item.id, k.item.provisional, f"new {k.item.id}".encode())
            assert c.created_s == self.clock.wall_s
            assert abs(c.delay_s - (self.clock.now - k.put_at)) < 1e-3
            self.corrections.append((c.seq, c.id, c.answer, self.clock.now))
            self.last_correction = c.seq
        self.kept = [k for k in self.kept if k not in some]
        self.expire()
        self.evicted.clear()

    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        leased = [k for k in self.kept if k.leased]
        some = data.draw(st.lists(st.sampled_from(leased), unique=True)) if leased else []
        self.loop.run_until_complete(self.outbox.give_up([k.seq for k in some], "rejected"))
        self.give_up(some)
        assert {e.id for e in self.evicted if e.reason == "rejected"} == {k.item.id for k in some}
        self.expire()
        self.evicted.clear()

    @rule(device=st.sampled_from("ab"))
    def forget(self, device: str) -> None:
        """In flight or not; what is said of them later is not heard."""
        mine = [k for k in self.kept if k.item.device == device]
        gone = self.loop.run_until_complete(self.outbox.forget({device}))
        corrected = [c for c in self.corrections if c[1] in self.devices[device]]
        assert (gone.items, gone.corrections) == (len(mine), len(corrected))
        self.kept = [k for k in self.kept if k not in mine]
        self.corrections = [c for c in self.corrections if c not in corrected]
        assert self.loop.run_until_complete(self.outbox.delivered([Delivered(k.seq, b"new") for k in mine])) == []

    @rule(behind=st.integers(0, 8), limit=st.integers(1, 4))
    def read_corrections(self, behind: int, limit: int) -> None:
        after = self.last_correction - behind
        found = self.loop.run_until_complete(self.outbox.corrections(after, limit))
        expected = [c[:3] for c in self.corrections if c[0] > after][:limit]
        assert [(c.seq, c.id, c.answer) for c in found] == expected

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(jump_s=st.sampled_from([-1e9, -3600.0, 3600.0, 1e9]))
    def clock_jumps_and_is_set_right(self, jump_s: float) -> None:
        self.clock.wall_s += jump_s
        self.put([("a", "critical", 1)])
        self.clock.wall_s -= jump_s
        self.put([("a", "critical", 1)])

    @rule()
    def close_and_open(self) -> None:
        self.loop.run_until_complete(self.outbox.close())
        self.outbox = self.opened()
        self.forget_leases()

    @rule()
    def kill_and_open(self) -> None:
        """Nothing is closed: a copy of the files, as they are, is what the next process finds."""
        old, self.path = self.path, self.folder / str(next(self.runs) + 1) / "outbox.db"
        shutil.copytree(old.parent, self.path.parent)
        self.loop.run_until_complete(self.outbox.close())
        self.outbox = self.opened()
        self.forget_leases()

    def forget_leases(self) -> None:
        for k in self.kept:
            k.leased = False

    @invariant()
    def stats_agree(self) -> None:
        stats = self.outbox.stats()
        assert stats.items == len(self.kept)
        assert stats.bytes == sum(k.item.size for k in self.kept)
        assert stats.in_flight == sum(k.leased for k in self.kept)
        assert sum(stats.evictions.values()) == self.evictions
        assert stats.corrections == len(self.corrections)
        assert stats.last_correction == self.last_correction
        assert stats.corrections_dropped == self.corrections_dropped
        assert not stats.trouble
        assert stats.quarantined == 0


TestOutboxes = Outboxes.TestCase
TestOutboxes.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
