"""A process that fills an outbox as fast as it can and says what was acknowledged: to be killed or stopped.

Prints `put DEVICE ID` after an item was acknowledged, `gone DEVICE ID` before it says that one has
arrived, `sent DEVICE ID` before it says that one was answered, `fixed DEVICE ID` after its correction was
acknowledged, `no DEVICE ID` when one was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from contextlib import suppress
from itertools import count
from pathlib import Path

import structlog

from escalade.tiers.outbox import PRIORITIES, Delivered, Item, Outbox, OutboxError


def payload(device: str, name: str) -> bytes:
    """Return what an item carries: 1 to 6 kB that only it has."""
    text = f"{device} {name}|"
    return text.encode() * (1 + (1000 + 997 * int(name) % 5000) // len(text))


def answer(item: Item) -> bytes:
    """Return what the tier above makes of an item."""
    return f"new {item.device} {item.id}".encode()


def say(word: str, device: str, name: str) -> None:
    os.write(1, f"{word} {device} {name}\n".encode())


async def fill(outbox: Outbox, device: str, first: int) -> None:
    priority = PRIORITIES[int(device[1:]) % 3]
    for number in count(first):
        name = str(number)
        try:
            item = Item(device, name, payload(device, name), priority=priority, provisional=f"old {name}".encode())
            await outbox.put(item)
        except OutboxError as error:
            say("no" if "\n" not in str(error) else "not_one_line", device, name)
            await asyncio.sleep(0.001)
        else:
            say("put", device, name)


async def drain(outbox: Outbox) -> None:
    while True:
        if outbox.stats().items > 200:
            leased = await outbox.take(20)
            arrived, answered, failed = leased[:8], leased[8:15], leased[15:]
            for word, some in (("gone", arrived), ("sent", answered)):
                for one in some:
                    say(word, one.item.device, one.item.id)
            await outbox.done([one.seq for one in arrived])
            with suppress(OutboxError):
                for fixed in await outbox.delivered([Delivered(one.seq, answer(one.item)) for one in answered]):
                    say("fixed", fixed.device, fixed.id)
            await outbox.failed([one.seq for one in failed])
        await asyncio.sleep(0.002)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--synchronous", default="FULL")
    parser.add_argument("--acknowledge", default="after_commit")
    parser.add_argument("--first", type=int, default=0, help="number of the first items")
    options = parser.parse_args()
    outbox = Outbox(options.path, synchronous=options.synchronous, acknowledge=options.acknowledge)
    await outbox.open()
    say("open", str(os.getpid()), "0")
    await asyncio.gather(drain(outbox), *(fill(outbox, f"d{n}", options.first) for n in range(8)))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(main())
