"""Reports on their way to the inbox of the tier above."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc

from escalade.protos.v1 import tier_pb2, tier_service_pb2_grpc
from escalade.tiers.errors import UpstreamError
from escalade.tiers.wire.status import reason_of
from escalade.tiers.wire.tier_messages import item_to_proto

if TYPE_CHECKING:
    from escalade.tiers.outbox import Item
    from escalade.tiers.wire.link_channel import LinkChannel


class ReportSender:
    """A `drain.Sender` over a link's channel; the first link's, for reports are worth no costly one."""

    def __init__(self, channel: LinkChannel, *, timeout_s: float) -> None:
        self._stub = cast(
            "tier_service_pb2_grpc.TierAsyncStub", tier_service_pb2_grpc.TierStub(cast("grpc.aio.Channel", channel))
        )
        self._timeout_s = timeout_s

    async def send(self, item: Item) -> bytes:
        """Deliver a report; there is no answer to it."""
        request = tier_pb2.DeliverRequest(reports=[item_to_proto(item)])
        try:
            await self._stub.Deliver(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise UpstreamError(reason_of(error.code()), f"{error.code().name}: {error.details()}") from error
        except grpc.aio.UsageError as error:
            raise UpstreamError("unavailable", "the link is closed") from error
        return b""
