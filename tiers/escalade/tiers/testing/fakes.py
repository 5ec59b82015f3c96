"""Fakes of the ports of `tiers`, for tests: ours and users'."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.aggregator.observation import Verdict
from escalade.tiers.answer import Answer, Hop
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import MessageTooLargeError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class FakeUpstream:
    """A tier above, or a `Peer`, that answers every row with the same posterior, or fails as told.

    Attributes
    ----------
    posterior:
        What each row is answered with.
    failure:
        A reason of `answer.REASONS`: raised instead of answering.
    hold:
        While set, calls wait (until their timeout) for `hold.set()`.
    load:
        How full it says to be.
    calls:
        The inputs of each call, in order.
    timeouts_s, callers:
        The timeout and the caller of each call, in order.
    """

    address, load = "fake:1", 0.0

    def __init__(self, posterior: Sequence[float] = (0.01, 0.99), tier: str = "edge_server") -> None:
        self.posterior, self.tier = list(posterior), tier
        self.failure: str | None = None
        self.load = 0.0
        self.hold: asyncio.Event | None = None
        self.calls: list[NDArray[Any]] = []
        self.timeouts_s: list[float] = []
        self.callers: list[Caller] = []
        self.closed = False

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Answer:
        """Answer, or raise UpstreamError as told; see `upstream.Upstream`."""
        self.calls.append(x)
        self.timeouts_s.append(timeout_s)
        self.callers.append(caller)
        if self.hold is not None:
            try:
                await asyncio.wait_for(self.hold.wait(), timeout_s)
            except TimeoutError:
                raise UpstreamError("timeout") from None
        if self.failure is not None:
            raise UpstreamError(self.failure)
        rows = len(x)
        posterior = np.tile(np.array(self.posterior, np.float32), (rows, 1))
        return Answer(
            score=posterior.max(axis=1),
            tier=[self.tier] * rows,
            degraded=np.zeros(rows, np.bool_),
            posterior=posterior,
            label=posterior.argmax(axis=1),
            path=(Hop(self.tier, 1.0),),
        )

    async def ready(self, timeout_s: float) -> None:
        """Answer a probe, or not: as `infer` would a call."""
        del timeout_s
        if self.failure in ("timeout", "unavailable"):
            raise UpstreamError(self.failure)

    async def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class FakeSender:
    """An aggregator that takes every observation, or fails as told; see `reporter.Sender`.

    Attributes
    ----------
    failure:
        A reason of `answer.REASONS`: raised instead of taking anything.
    fault:
        Raised instead, once: what nobody expects.
    max_bytes:
        Of all observations of a call.
    verdicts:
        Reasons by observation: what is said instead of taking it.
    taken:
        The observations that were taken, in order.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.fault: Exception | None = None
        self.max_bytes: int | None = None
        self.verdicts: dict[bytes, str] = {}
        self.taken: list[bytes] = []
        self.closed = False

    async def send(self, encoded: Sequence[bytes], timeout_s: float) -> list[Verdict]:
        """Take, or raise UpstreamError as told."""
        del timeout_s
        if self.failure is not None:
            raise UpstreamError(self.failure)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        if self.max_bytes is not None and sum(map(len, encoded)) > self.max_bytes:
            raise MessageTooLargeError
        verdicts = [Verdict(self.verdicts.get(one, "")) for one in encoded]
        self.taken += [one for one, verdict in zip(encoded, verdicts, strict=True) if not verdict.reason]
        return verdicts

    async def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time, seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time on."""
        self.now += seconds
