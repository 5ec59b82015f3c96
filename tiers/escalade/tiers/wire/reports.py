"""Reports on their way to the inbox of the tier above."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import grpc
import structlog

from escalade.protos.v1 import tier_pb2, tier_service_pb2_grpc
from escalade.tiers.egress import report_class
from escalade.tiers.errors import NotSentError, UpstreamError
from escalade.tiers.reports import LANE
from escalade.tiers.wire.status import failure_of
from escalade.tiers.wire.tier_messages import item_to_proto

if TYPE_CHECKING:
    from collections.abc import Collection

    from escalade.tiers.egress import DataClass
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.outbox import Item
    from escalade.tiers.wire.link_channel import LinkChannel


log = structlog.get_logger(__name__)

NO_INBOX = {
    grpc.StatusCode.FAILED_PRECONDITION: "the tier above keeps no inbox; give it one (`inbox: {file: ...}`)",
    grpc.StatusCode.UNIMPLEMENTED: "the server above is no tier of escalade and takes no reports",
}
"""What a peer says that will take no report, however often it comes."""


class ReportSender:
    """A `drain.Sender` over a link's channel; the first link's, for reports are worth no costly one.

    A peer that can take no reports is an UpstreamError of the reason `no_inbox`, and one line in the log until it
    takes one.

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
        self._told = False

    async def send(self, item: Item) -> bytes:
        """Deliver a report; there is no answer to it."""
        data = report_class(item)
        if data not in self._egress:
            raise UpstreamError("egress", f"a report of class {data!r} may not leave any more")
        device = item.device.removesuffix(LANE)  # the lane is the outbox's; the device speaks for itself
        request = tier_pb2.DeliverRequest(reports=[item_to_proto(replace(item, device=device))])
        left = True
        try:
            await self._stub.Deliver(request, timeout=self._timeout_s)
        except NotSentError:
            left = False
            raise
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            failure = failure_of(error)
            left = not isinstance(failure, NotSentError)
            if isinstance(error, grpc.aio.AioRpcError) and (why := NO_INBOX.get(error.code())):
                raise self._no_inbox(why) from error
            raise failure from error
        finally:
            if left:
                self._ledger.sent(data, self._destination, device, request.ByteSize())
        self._told = False
        return b""

    def _no_inbox(self, why: str) -> UpstreamError:
        if not self._told:
            self._told = True
            log.warning("reports are given up", address=self._destination, reason=why)
        return UpstreamError("no_inbox", why)
