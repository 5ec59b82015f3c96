"""Stream images through the endpoints and note each answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo.layout import MODEL_NAME
from escalade.tiers.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One row for each image, in the images' order.

    Attributes
    ----------
    tier:
        Name of the tier that answered, `[N]`.
    label:
        Int64 `[N]`, the class answered.
    latency_ms:
        Float64 `[N]`, from the call to its answer, at the caller.
    degraded:
        Bool `[N]`, answered below the tier that a policy asked for.
    """

    tier: NDArray[np.str_]
    label: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    degraded: NDArray[np.bool_]


async def stream(
    clients: Sequence[Client], images: NDArray[np.uint8], answered: Callable[[str], None] = lambda tier: None
) -> Answers:
    """Send each image to an endpoint, in turn: image `i` to endpoint `i mod n`.

    Every endpoint has one request at a time, as a camera that waits for its answer; so a latency is the way
    of one request, not the time in a queue.

    Parameters
    ----------
    clients:
        One for each endpoint.
    images:
        Uint8 `[N, 8, 8]`, sent as raw pixels.
    answered:
        Called with the tier's name at each answer.

    Raises
    ------
    EscaladeError
        The first request that was refused or got no answer within `TIMEOUT_SECONDS`.
    """
    n = len(images)
    answers = Answers(np.empty(n, "U16"), np.empty(n, np.int64), np.empty(n), np.empty(n, np.bool_))

    async def feed(first: int, client: Client) -> None:
        for row in range(first, n, len(clients)):
            started = time.perf_counter()
            answer = await client.infer(images[row : row + 1], model=MODEL_NAME, timeout_s=TIMEOUT_SECONDS)
            answers.latency_ms[row] = (time.perf_counter() - started) * 1e3
            assert answer.label is not None
            answers.tier[row], answers.label[row] = answer.tier[0], answer.label[0]
            answers.degraded[row] = answer.degraded[0]
            answered(answer.tier[0])

    await asyncio.gather(*(feed(first, client) for first, client in enumerate(clients)))
    return answers


def is_ready(address: str) -> bool:
    """Ask a server once whether it takes requests (ServerReady)."""

    async def ask() -> bool:
        async with Client(address) as client:
            return await client.ready(timeout_s=1.0)

    return asyncio.run(ask())
