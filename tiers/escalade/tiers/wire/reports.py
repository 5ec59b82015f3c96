"""Reports on their way to the inbox of the tier above."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc

from escalade.protos.v1 import tier_pb2, tier_service_pb2_grpc
from escalade.tiers.egress import report_class
from escalade.tiers.errors import UpstreamError
from escalade.tiers.reports import LANE
from escalade.tiers.wire.status import failure_of, may_have_left
from escalade.tiers.wire.tier_messages import item_to_proto

if TYPE_CHECKING:
    from collections.abc import Collection

    from escalade.tiers.egress import DataClass
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.outbox import Item
    from escalade.tiers.wire.link_channel import LinkChannel


class ReportSender:
    """A `drain.Sender` over a link's channel; the first link's, for reports are worth no costly one.

    Parameters
    ----------
    destination, ledger:
        The link's address, and where what is sent there is counted.
    egress:
        The classes of data that may be sent there.
    """

    def __init__(
        self,
        channel: LinkChannel,
        *,
        timeout_s: float,
        destination: str,
        ledger: EgressLedger,
        egress: Collection[DataClass],
    ) -> None:
        self._destination, self._ledger, self._egress = destination, ledger, egress
        stub = tier_service_pb2_grpc.TierStub(cast("grpc.aio.Channel", channel))  # as far as a stub needs it
        self._stub = cast("tier_service_pb2_grpc.TierAsyncStub", stub)
        self._timeout_s = timeout_s

    async def send(self, item: Item) -> bytes:
        """Deliver a report; there is no answer to it."""
        data = report_class(item)
        if data not in self._egress:
            raise UpstreamError("egress", f"a report of class {data!r} may not leave any more")
        request = tier_pb2.DeliverRequest(reports=[item_to_proto(item)])
        left = True
        try:
            await self._stub.Deliver(request, timeout=self._timeout_s)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            left = may_have_left(error)
            raise failure_of(error) from error
        finally:
            if left:
                self._ledger.sent(data, self._destination, item.device.removesuffix(LANE), request.ByteSize())
        return b""
