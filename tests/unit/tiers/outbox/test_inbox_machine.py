"""The inbox against a list in memory, across closings and kills."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from escalade.tiers.outbox import Inbox, InboxLimits, Item, Kind, Seen
from escalade.tiers.outbox.sealing import DOUBTFUL

from .conftest import Clock
from .test_machine import IN_MEMORY

LIMITS = InboxLimits(window_s=10.5, max_items=5, max_bytes=1200)
NAMES = st.tuples(st.sampled_from("ab"), st.sampled_from("1234"))
CONTENT = st.binary(max_size=200).filter(lambda content: not content.startswith(DOUBTFUL))  # they are stored longer
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["result", "telemetry"])


class Kept(NamedTuple):
    item: Item
    at: float


class Inboxes(RuleBasedStateMachine):
    """`kept` is what is on the disk, oldest first; `claims` is what is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="inbox-", dir=IN_MEMORY))
        self.runs = count()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.kept: list[Kept] = []
        self.claims: list[tuple[tuple[str, str], float]] = []
        self.dropped = 0
        self.path = self.folder / "0" / "inbox.db"
        self.inbox = self.opened()

    def opened(self) -> Inbox:
        inbox = Inbox(self.path, LIMITS, clock=self.clock, wall=self.clock.wall)
        self.loop.run_until_complete(inbox.open())
        self.claims.clear()
        return inbox

    def teardown(self) -> None:
        self.loop.run_until_complete(self.inbox.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def in_window(self, at: float) -> bool:
        return self.clock.now - at < LIMITS.window_s

    def known(self, name: tuple[str, str]) -> Item | None:
        found = [k.item for k in self.kept if (k.item.device, k.item.id) == name and self.in_window(k.at)]
        return found[-1] if found else None

    def keep(self, items: list[Item]) -> list[bool]:
        """Return which are new; room is made at once for all of them, the oldest going first."""
        new: dict[tuple[str, str], Item] = {}
        was_new = []
        for item in items:
            name = item.device, item.id
            was_new.append(name not in new and self.known(name) is None)
            if was_new[-1]:
                new[name] = item
        if new:
            before = len(self.kept)
            self.kept = [k for k in self.kept if self.in_window(k.at)]
            while len(self.kept) + len(new) > LIMITS.max_items or (
                sum(k.item.size for k in self.kept) + sum(item.size for item in new.values()) > LIMITS.max_bytes
            ):
                del self.kept[0]
            self.dropped += before - len(self.kept)
            self.kept += [Kept(item, self.clock.now) for item in new.values()]
        return was_new

    @rule(name=NAMES)
    def claim(self, name: tuple[str, str]) -> None:
        seen = self.loop.run_until_complete(self.inbox.claim(*name))
        if (known := self.known(name)) is not None:
            assert seen == Seen(known.payload if known.kind == "escalation" else b"")
            return
        self.claims = [claim for claim in self.claims if self.in_window(claim[1])]
        if name in [claim[0] for claim in self.claims]:
            assert seen == Seen(None)
            return
        assert seen is None
        self.claims = [*self.claims, (name, self.clock.now)][-LIMITS.max_items :]

    @rule(name=NAMES)
    def two_claim_at_once(self, name: tuple[str, str]) -> None:
        async def claim_twice() -> tuple[Seen[bytes] | None, Seen[bytes] | None]:
            return await asyncio.gather(self.inbox.claim(*name), self.inbox.claim(*name))

        first, second = self.loop.run_until_complete(claim_twice())
        assert second == (Seen(None) if first is None else first)
        if first is None:
            self.release(name)

    @rule(name=NAMES, answer=CONTENT)
    def answered(self, name: tuple[str, str], answer: bytes) -> None:
        self.loop.run_until_complete(self.inbox.answered(*name, answer))
        self.keep([Item(*name, answer)])
        self.forget_claim(name)

    @rule(name=NAMES)
    def release(self, name: tuple[str, str]) -> None:
        self.loop.run_until_complete(self.inbox.release(*name))
        self.forget_claim(name)

    def forget_claim(self, name: tuple[str, str]) -> None:
        self.claims = [claim for claim in self.claims if claim[0] != name]

    @rule(shapes=st.lists(st.tuples(NAMES, KINDS, CONTENT), max_size=4))
    def store(self, shapes: list[tuple[tuple[str, str], Kind, bytes]]) -> None:
        items = [Item(*name, payload, kind=kind, provisional=b"old") for name, kind, payload in shapes]
        if sum(item.size for item in items) <= LIMITS.max_bytes:
            assert self.loop.run_until_complete(self.inbox.store(items)) == self.keep(items)

    @rule(limit=st.integers(1, 3))
    def read_everything(self, limit: int) -> None:
        found = []
        after = 0
        while some := self.loop.run_until_complete(self.inbox.read(after, limit)):
            assert len(some) <= limit
            found += some
            after = some[-1].seq
        expected = [k for k in self.kept if k.item.kind != "escalation"]
        assert [one.item for one in found] == [k.item for k in expected]
        assert [one.seq for one in found] == sorted({one.seq for one in found})
        for one, k in zip(found, expected, strict=True):
            assert abs(one.age_s - (self.clock.now - k.at)) < 1e-3

    @rule(device=st.sampled_from("ab"))
    def forget(self, device: str) -> None:
        """What is at work stays so; what is sent again is new."""
        mine = [k for k in self.kept if k.item.device == device]
        assert self.loop.run_until_complete(self.inbox.forget({device})).items == len(mine)
        self.kept = [k for k in self.kept if k not in mine]

    @rule(seconds=st.integers(0, 6))
    def time_passes(self, seconds: int) -> None:
        self.clock.pass_s(seconds)

    @rule()
    def close_and_open(self) -> None:
        self.loop.run_until_complete(self.inbox.close())
        self.inbox = self.opened()

    @rule()
    def kill_and_open(self) -> None:
        """Nothing is closed: a copy of the files, as they are, is what the next process finds."""
        old, self.path = self.path, self.folder / str(next(self.runs) + 1) / "inbox.db"
        shutil.copytree(old.parent, self.path.parent)
        self.loop.run_until_complete(self.inbox.close())
        self.inbox = self.opened()

    @invariant()
    def stats_agree(self) -> None:
        stats = self.inbox.stats()
        assert sum(stats.items.values()) == len(self.kept)
        assert stats.items["escalation"] == sum(k.item.kind == "escalation" for k in self.kept)
        assert stats.bytes == sum(k.item.size for k in self.kept)
        assert sum(stats.dropped.values()) == self.dropped
        assert not stats.trouble
        assert stats.quarantined == stats.corrupt_files == 0


TestInboxes = Inboxes.TestCase
TestInboxes.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
