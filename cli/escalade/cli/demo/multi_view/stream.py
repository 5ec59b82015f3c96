"""Show every digit to all four nodes and watch what the aggregator answers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.cli.demo.layout import MODEL_NAME
from escalade.tiers.client import Client
from escalade.tiers.errors import UnavailableError
from escalade.tiers.wire.aggregator_client import AggregatorClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from escalade.cli.demo.layout import Member
    from escalade.cli.demo.multi_view.views import Views

TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0


class Streamed(NamedTuple):
    """What was answered: by the aggregator `fused`, int64 `[N]`; by each node, posteriors `[N, 4, 10]`.

    `nodes` is what ListNodes tells at the end; `used`, bool `[N, 4]`, which nodes each answer was fused from.
    """

    fused: NDArray[np.int64]
    told: NDArray[np.float32]
    nodes: list[Any]
    used: NDArray[np.bool_]


async def stream(server: Member, nodes: Sequence[Member], views: Views, progress: Callable[[int], None]) -> Streamed:
    """Show the digits one after the other, each to all nodes at once, under one event key."""
    count = len(views.labels)
    names = [node.name for node in nodes]
    fused, told = np.full(count, -1), np.zeros((count, len(nodes), 10), np.float32)
    used = np.zeros((count, len(nodes)), np.bool_)
    answered = [asyncio.Event() for _ in range(count)]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(node.address)) for node in nodes]
        watcher = await stack.enter_async_context(AggregatorClient(server.address))

        async def watch() -> None:
            async for answer in watcher.watch():
                row = int(answer.event.removeprefix("digit-"))
                if answer.revision == 1:  # what the application would have acted on
                    fused[row], used[row] = answer.label, [name in answer.used for name in names]
                    answered[row].set()

        async def ask(row: int, place: int) -> None:
            image = views.images[place, row : row + 1]
            answer = await clients[place].infer(image, model=MODEL_NAME, timeout_s=TIMEOUT_S, event=f"digit-{row}")
            assert answer.posterior is not None
            told[row, place] = answer.posterior[0]

        watching = asyncio.create_task(watch())
        try:
            for row in range(count):
                await asyncio.gather(*(ask(row, place) for place in range(len(nodes))))
                done = asyncio.create_task(answered[row].wait())
                await asyncio.wait({done, watching}, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
                if not done.done():
                    done.cancel()
                    if watching.done():
                        watching.result()
                    raise UnavailableError(f"the aggregator gave no answer to digit {row}")
                progress(row + 1)
            return Streamed(fused, told, await watcher.nodes(TIMEOUT_S), used)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
