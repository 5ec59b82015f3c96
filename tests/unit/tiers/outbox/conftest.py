from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from escalade.tiers.outbox import Inbox, InboxLimits, Item, Outbox, OutboxLimits
from escalade.tiers.outbox.file import PAGE_BYTES

T = TypeVar("T")
TODAY_S = 1_800_000_000.0


@dataclass
class Clock:
    """Time that passes when told to; the time of day may be set apart from it."""

    now: float = 1000.0
    wall_s: float = TODAY_S

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.wall_s

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
        self.wall_s += seconds


OpenOutbox = Callable[..., Awaitable[Outbox]]
OpenInbox = Callable[..., Awaitable[Inbox]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def open_outbox(tmp_path: Path, clock: Clock) -> AsyncIterator[OpenOutbox]:
    """Open the outbox at `outbox.db` in the test's folder, with limits given by name."""
    async with AsyncExitStack() as stack:

        async def open_outbox(path: Path | None = None, **options: Any) -> Outbox:
            limits = OutboxLimits(
                **{
                    name: options.pop(name)
                    for name in ("max_bytes", "max_items", "max_age_s", "max_corrections")
                    if name in options
                }
            )
            outbox = Outbox(path or tmp_path / "outbox.db", limits, clock=clock, wall=clock.wall, **options)
            stack.push_async_callback(outbox.close)
            await outbox.open()
            return outbox

        yield open_outbox


@pytest_asyncio.fixture
async def open_inbox(tmp_path: Path, clock: Clock) -> AsyncIterator[OpenInbox]:
    """Open the inbox at `inbox.db` in the test's folder, with limits given by name."""
    async with AsyncExitStack() as stack:

        async def open_inbox(**limits: Any) -> Inbox:
            inbox = Inbox(tmp_path / "inbox.db", InboxLimits(**limits), clock=clock, wall=clock.wall)
            stack.push_async_callback(inbox.close)
            await inbox.open()
            return inbox

        yield open_inbox


def item(name: str | int, device: str = "cam", **fields: Any) -> Item:
    return Item(device, str(name), fields.pop("payload", b"x" * 50), **fields)


def with_bad_page(data: bytes, holding: bytes) -> bytes:
    """Return a file's content with the page damaged that holds something."""
    start = data.index(holding) // PAGE_BYTES * PAGE_BYTES
    return data[:start] + b"\xff" * PAGE_BYTES + data[start + PAGE_BYTES :]


def run(awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    return loop.run_until_complete(awaitable)
