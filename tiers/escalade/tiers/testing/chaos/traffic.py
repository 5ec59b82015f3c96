"""Callers that ask at a steady rate, whatever comes of it, and write down what they see."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from escalade.tiers.caller import Caller
from escalade.tiers.errors import EscaladeError
from escalade.tiers.testing.chaos.fleet import MODEL
from escalade.tiers.testing.chaos.history import Answered, Failed, Given, History, Request, Stall, Streamed

if TYPE_CHECKING:
    from escalade.tiers.answer import Answer
    from escalade.tiers.client import Client
    from escalade.tiers.testing.chaos.world import World

DEVICES = 6
PRIORITIES = ("critical", "normal", "normal", "bulk")
DEADLINE_S = 5.0
"""Of each request: far beyond the bound, so that a late answer is seen to be late."""
BEAT_S, LATE_S = 0.02, 0.02
AGAIN_S = 0.2


class Traffic:
    """Sends `rate` requests a second to an endpoint for `seconds`, and records them.

    Attributes
    ----------
    history:
        What was seen; times since `started_s`.
    """

    def __init__(self, client: Client, world: World, *, seed: int, rate: float, seconds: float) -> None:
        self.history, self.started_s = History(), time.monotonic()
        self._client, self._world, self._rate, self._seconds = client, world, rate, seconds
        self._draw = random.Random(seed)  # no secrets here

    def now_s(self) -> float:
        """Return the seconds since the traffic's start."""
        return time.monotonic() - self.started_s

    async def run(self) -> None:
        """Send everything, and wait until it is answered."""
        self.started_s = time.monotonic()
        beat = asyncio.create_task(self._beat())
        async with asyncio.TaskGroup() as asking:
            for number in range(int(self._rate * self._seconds)):
                await asyncio.sleep(number / self._rate - self.now_s())
                asking.create_task(self._ask(number))
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)

    async def _ask(self, number: int) -> None:
        priority: Any = self._draw.choice(PRIORITIES)
        request = Request(f"r{number}", f"cam-{number % DEVICES}", priority, number, 0.0)
        x, caller = self._world.input(number), Caller(request.device, priority)
        request = request._replace(sent_s=self.now_s())
        self.history.requests.append(request)
        try:
            answer = await self._client.infer(x, model=MODEL, timeout_s=DEADLINE_S, id=request.id, caller=caller)
        except EscaladeError as error:
            self.history.failures.append(Failed(request.id, self.now_s(), type(error).__name__, str(error)))
        else:
            self.history.answers.append(_answered(request.id, self.now_s(), answer))

    async def subscribe(self) -> None:
        """Note every correction of the stream until cancelled; after a break go on after the last one."""
        told = self.history.streamed
        while True:
            try:
                async for one in self._client.corrections(told[-1].seq if told else 0):
                    told.append(Streamed(one.seq, one.device, one.id))
            except EscaladeError:
                await asyncio.sleep(AGAIN_S)

    async def _beat(self) -> None:
        """Note when this process itself was not run in time."""
        while True:
            before_s = self.now_s()
            await asyncio.sleep(BEAT_S)
            late_s = self.now_s() - before_s - BEAT_S
            if late_s > LATE_S:
                self.history.stalls.append(Stall(self.now_s(), late_s))


def given(answer: Answer) -> Given:
    """Return what a one-row answer says."""
    assert answer.label is not None
    assert answer.posterior is not None
    return Given(int(answer.label[0]), answer.tier[0], tuple(answer.posterior[0].tolist()))


def _answered(request_id: str, at_s: float, answer: Answer) -> Answered:
    path = tuple(hop.tier for hop in answer.path)
    return Answered(
        request_id, at_s, given(answer), bool(answer.degraded[0]), answer.reason, path, getattr(answer, "kept", "")
    )
