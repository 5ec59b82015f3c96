"""What a tier offers beside inference, as a gRPC service: status, corrections, an inbox."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from escalade.protos.v1 import tier_pb2, tier_service_pb2
from escalade.tiers.errors import DrainingError, EscaladeError, InputError, NotServedError
from escalade.tiers.identity import may_hear_of, speaking_for
from escalade.tiers.reports import received
from escalade.tiers.wire.callers import NAME_BYTES
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.status import abort, guarded
from escalade.tiers.wire.tier_messages import correction_to_proto, item_from_proto, received_to_proto, status_to_proto

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import FileDescriptor

    from escalade.tiers.corrections import Corrections
    from escalade.tiers.outbox import Inbox
    from escalade.tiers.status import Status

    Context = grpc.aio.ServicerContext[bytes, bytes]

REPORTS_AT_ONCE = 1024
NO_INBOX = "this tier keeps no inbox for reports; see `inbox:`"
T = TypeVar("T")


class TierServicer:
    """Serves one tier's facts, a `MoreService`. Handlers take and return bytes, as those of the data path do.

    Parameters
    ----------
    status:
        Returns the tier's state.
    corrections, inbox:
        None where the tier keeps no outbox, or no inbox.
    forget:
        Deletes what is kept of a device, and returns what to say of it.
    """

    name = tier_service_pb2.DESCRIPTOR.services_by_name["Tier"].full_name
    files: tuple[FileDescriptor, ...] = (tier_pb2.DESCRIPTOR, tier_service_pb2.DESCRIPTOR)

    def __init__(
        self,
        status: Callable[[], Status],
        corrections: Corrections | None,
        inbox: Inbox | None,
        forget: Callable[[str], Awaitable[list[str]]],
    ) -> None:
        self._status, self._corrections, self._inbox, self._forget = status, corrections, inbox, forget
        self._stopping = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server registers."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetStatus": grpc.unary_unary_rpc_method_handler(guarded(self.get_status)),
            "Deliver": grpc.unary_unary_rpc_method_handler(guarded(self.deliver)),
            "Forget": grpc.unary_unary_rpc_method_handler(guarded(self.forget)),
            "WatchCorrections": grpc.unary_stream_rpc_method_handler(self.watch_corrections),
            "WatchReports": grpc.unary_stream_rpc_method_handler(self.watch_reports),
        }
        return grpc.method_handlers_generic_handler(self.name, methods)

    def stop_reading(self) -> None:
        """End watches: UNAVAILABLE, for who watches to go on elsewhere or later."""
        self._stopping.set()

    async def get_status(self, data: bytes) -> bytes:
        """Return the tier's state."""
        del data
        return status_to_proto(self._status()).SerializeToString()

    async def watch_corrections(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        """Stream what is kept after a number, then what comes."""
        try:
            request = parsed(tier_pb2.WatchCorrectionsRequest, data)
            if self._corrections is None:
                raise NotServedError("this tier keeps no outbox, and so no corrections; see `outbox:`")
            stored = self._corrections.stored(request.after, until_now=request.until_now)
            async with aclosing(self._until_stop(stored)) as watch:
                async for one in watch:
                    if may_hear_of(one.device):
                        yield correction_to_proto(one).SerializeToString()
        except EscaladeError as error:
            await abort(context, error)

    async def watch_reports(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        """Stream the reports that are kept after a number, then those that come."""
        try:
            request = parsed(tier_pb2.WatchReportsRequest, data)
            if self._inbox is None:
                raise NotServedError(NO_INBOX)
            reports = received(self._inbox, request.after, until_now=request.until_now)
            async with aclosing(self._until_stop(reports)) as watch:
                async for one in watch:
                    yield received_to_proto(one).SerializeToString()
        except EscaladeError as error:
            await abort(context, error)

    async def deliver(self, data: bytes) -> bytes:
        """Keep reports, each once; all of them, or none."""
        request = parsed(tier_pb2.DeliverRequest, data)
        if self._inbox is None:
            raise NotServedError(NO_INBOX)
        if len(request.reports) > REPORTS_AT_ONCE:
            raise InputError(f"{len(request.reports)} reports at once; send at most {REPORTS_AT_ONCE}")
        try:
            items = [item_from_proto(report) for report in request.reports]
        except ValueError as error:
            raise InputError(str(error)) from error
        items = [replace(item, device=speaking_for(item.device)) for item in items]
        return tier_pb2.DeliverResponse(fresh=await self._inbox.store(items)).SerializeToString()

    async def forget(self, data: bytes) -> bytes:
        """Delete what the tier keeps of a device."""
        device = parsed(tier_pb2.ForgetRequest, data).device
        if not device or len(device.encode()) > NAME_BYTES:
            raise InputError(f"name the device to forget, in at most {NAME_BYTES} bytes")
        return tier_pb2.ForgetResponse(done=await self._forget(device)).SerializeToString()

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
