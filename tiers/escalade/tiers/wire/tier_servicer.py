"""What a tier offers beside inference, as a gRPC service: status, corrections, an inbox."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from escalade.protos.v1 import tier_pb2, tier_service_pb2, tier_service_pb2_grpc
from escalade.tiers.errors import DrainingError, EscaladeError, InputError, NotServedError
from escalade.tiers.reports import received
from escalade.tiers.wire.status import status_of
from escalade.tiers.wire.tier_messages import correction_to_proto, item_from_proto, received_to_proto, status_to_proto

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    import grpc
    from google.protobuf.descriptor import FileDescriptor

    from escalade.tiers.corrections import Corrections
    from escalade.tiers.outbox import Inbox
    from escalade.tiers.status import Status

    Context = grpc.aio.ServicerContext[Any, Any]

REPORTS_AT_ONCE = 1024
NO_INBOX = "this tier keeps no inbox for reports; see `inbox:`"
T = TypeVar("T")


class TierServicer(tier_service_pb2_grpc.TierServicer):
    """Serves one tier's facts.

    Parameters
    ----------
    status:
        Returns the tier's state.
    corrections, inbox:
        None where the tier keeps no outbox, or no inbox.
    """

    name = tier_service_pb2.DESCRIPTOR.services_by_name["Tier"].full_name
    files: tuple[FileDescriptor, ...] = (tier_pb2.DESCRIPTOR, tier_service_pb2.DESCRIPTOR)

    def __init__(self, status: Callable[[], Status], corrections: Corrections | None, inbox: Inbox | None) -> None:
        self._status, self._corrections, self._inbox = status, corrections, inbox
        self._stopping = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        tier_service_pb2_grpc.add_TierServicer_to_server(self, server)

    def stop_reading(self) -> None:
        """End watches: UNAVAILABLE, for who watches to go on elsewhere or later."""
        self._stopping.set()

    async def GetStatus(  # noqa: N802
        self, request: tier_pb2.GetStatusRequest, context: Context
    ) -> tier_pb2.TierStatus:
        """Return the tier's state."""
        return status_to_proto(self._status())

    async def WatchCorrections(  # noqa: N802
        self, request: tier_pb2.WatchCorrectionsRequest, context: Context
    ) -> AsyncIterator[tier_pb2.Correction]:
        """Stream what is kept after a number, then what comes."""
        try:
            if self._corrections is None:
                raise NotServedError("this tier keeps no outbox, and so no corrections; see `outbox:`")
            stored = self._corrections.stored(request.after, until_now=request.until_now)
            async with aclosing(self._until_stop(stored)) as watch:
                async for one in watch:
                    yield correction_to_proto(one)
        except EscaladeError as error:
            await context.abort(*status_of(error))

    async def Deliver(  # noqa: N802
        self, request: tier_pb2.DeliverRequest, context: Context
    ) -> tier_pb2.DeliverResponse:
        """Keep reports, each once; all of them, or none."""
        try:
            if self._inbox is None:
                raise NotServedError(NO_INBOX)
            if len(request.reports) > REPORTS_AT_ONCE:
                raise InputError(f"{len(request.reports)} reports at once; send at most {REPORTS_AT_ONCE}")
            try:
                items = [item_from_proto(report) for report in request.reports]
            except ValueError as error:
                raise InputError(str(error)) from error
            return tier_pb2.DeliverResponse(fresh=await self._inbox.store(items))
        except EscaladeError as error:
            await context.abort(*status_of(error))
        raise AssertionError("abort raises")  # pragma: no cover

    async def WatchReports(  # noqa: N802
        self, request: tier_pb2.WatchReportsRequest, context: Context
    ) -> AsyncIterator[tier_pb2.ReceivedReport]:
        """Stream the reports that are kept after a number, then those that come."""
        try:
            if self._inbox is None:
                raise NotServedError(NO_INBOX)
            reports = received(self._inbox, request.after, until_now=request.until_now)
            async with aclosing(self._until_stop(reports)) as watch:
                async for one in watch:
                    yield received_to_proto(one)
        except EscaladeError as error:
            await context.abort(*status_of(error))

    async def _until_stop(self, found: AsyncIterator[T]) -> AsyncGenerator[T]:
        """Yield what is found; DrainingError when the tier stops meanwhile."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        following: asyncio.Future[T] | None = None
        try:
            while not self._stopping.is_set():
                following = asyncio.ensure_future(anext(found))
                await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    break
                try:
                    one = await following
                except StopAsyncIteration:
                    return
                yield one
            raise DrainingError("the tier is stopping; watch again from the last number seen")
        finally:
            stopping.cancel()
            if following is not None:
                following.cancel()
