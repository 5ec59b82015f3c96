"""Calls to what a tier offers beside inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc

from escalade.protos.v1 import tier_pb2, tier_service_pb2_grpc
from escalade.tiers.errors import NotServedError
from escalade.tiers.wire.status import FAILED, error_from
from escalade.tiers.wire.tier_messages import correction_from_proto, received_from_proto, status_from_proto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from escalade.tiers.corrections import Correction
    from escalade.tiers.errors import EscaladeError, NotSentError
    from escalade.tiers.reports import Received
    from escalade.tiers.status import Status
    from escalade.tiers.wire.link_channel import LinkChannel


class TierCalls:
    """The `escalade.protos.v1.Tier` service at the other end of a channel; raises `EscaladeError`s."""

    def __init__(self, channel: grpc.aio.Channel | LinkChannel) -> None:
        stub = tier_service_pb2_grpc.TierStub(cast("grpc.aio.Channel", channel))  # as far as a stub needs it
        self._stub = cast("tier_service_pb2_grpc.TierAsyncStub", stub)

    async def status(self, timeout_s: float) -> Status:
        """Return how the tier fares."""
        try:
            return status_from_proto(await self._stub.GetStatus(tier_pb2.GetStatusRequest(), timeout=timeout_s))
        except FAILED as error:
            raise _explained(error) from error

    async def forget(self, device: str, timeout_s: float) -> list[str]:
        """Have a device forgotten; return a line for each place where the tier keeps something."""
        try:
            return list((await self._stub.Forget(tier_pb2.ForgetRequest(device=device), timeout=timeout_s)).done)
        except FAILED as error:
            raise _explained(error) from error

    async def corrections(self, after: int, *, until_now: bool, raw: bool) -> AsyncIterator[Correction]:
        """Yield corrections after a number."""
        request = tier_pb2.WatchCorrectionsRequest(after=after, until_now=until_now)
        try:
            async for message in self._stub.WatchCorrections(request):
                yield correction_from_proto(message, raw=raw)
        except FAILED as error:
            raise _explained(error) from error

    async def reports(self, after: int, *, until_now: bool) -> AsyncIterator[Received]:
        """Yield the reports in the tier's inbox after a number."""
        request = tier_pb2.WatchReportsRequest(after=after, until_now=until_now)
        try:
            async for message in self._stub.WatchReports(request):
                yield received_from_proto(message)
        except FAILED as error:
            raise _explained(error) from error


def _explained(error: grpc.aio.AioRpcError | NotSentError) -> EscaladeError:
    if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return NotServedError("it is a server, but not a tier of escalade")
    return error_from(error)
