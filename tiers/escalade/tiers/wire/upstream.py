"""The tier above over gRPC: escalade's own, or any server of the Open Inference Protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc

from escalade.tiers.answer import Hop
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import NotSentError, UpstreamError
from escalade.tiers.wire.channel import bytes_call
from escalade.tiers.wire.link_channel import LinkChannel
from escalade.tiers.wire.load import load_from_bytes
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes, row_from_bytes
from escalade.tiers.wire.status import failure_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Score
    from escalade.tiers.answer import Answer, Row
    from escalade.tiers.config import LinkConfig
    from escalade.tiers.egress import DataClass
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.tls_files import TlsFiles

SILENCE = ("ping timeout", "timed out")
"""How gRPC says that a connection, or an attempt at one, ended because nothing was heard from the peer."""

NEXT_TIER = {"endpoint": "edge_node", "edge_node": "edge_server"}


class GrpcUpstream:
    """A `Peer` at a gRPC address.

    Parameters
    ----------
    tier:
        The name of the tier that asks.
    model:
        The asking tier's model: its name and input are the defaults of the upstream's.
    score:
        Applied to the posterior of a server that sends no score.
    data:
        What the model's input is, for the ledger.
    tls:
        None: plaintext.
    """

    def __init__(
        self,
        config: LinkConfig,
        *,
        tier: str,
        model: OnnxModel,
        score: Score,
        metrics: TierMetrics,
        max_message_bytes: int,
        ledger: EgressLedger,
        data: DataClass = "raw",
        tls: TlsFiles | None = None,
    ) -> None:
        self._ledger, self._data = ledger, data
        self.address, self.load = config.address, 0.0
        self._config, self._metrics, self._score = config, metrics, score
        self._model = config.model or model.name
        self._input = config.input or model.input.name
        self._raw = model.output_kind == "raw"
        self._tier = config.tier or NEXT_TIER.get(tier, "upstream")
        self.channel = LinkChannel(config.address, max_message_bytes, tls)
        self._infer = bytes_call(self.channel, "ModelInfer")
        self._ready = bytes_call(self.channel, "ServerReady")
        self._posterior = config.output == config.output_kind == "posterior"
        self._dtype, self._prefix, self._prefix_shape = model.input.dtype, b"", (0,)
        self._prefix_caller = PLAIN

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Row | Answer:
        """Return the answer of the tier above to `x`; see `Upstream`."""
        metrics, started = self._metrics, time.monotonic()
        request = self._request(x, caller)
        metrics.upstream_sent_bytes += len(request)
        left = True
        try:
            response = await self._infer(request, timeout=timeout_s)
        except NotSentError:
            left = False
            raise
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            failure = failure_of(error)
            left = not isinstance(failure, NotSentError)
            if failure.reason == "overloaded":
                self.load = 1.0
            raise failure from error
        finally:
            if left:
                self._ledger.sent(self._data, self.address, caller.device, len(request))
        metrics.upstream_received_bytes += len(response)
        self.load = load_from_bytes(response)
        if self._posterior and len(x) == 1 and (row := row_from_bytes(response)):
            return row
        answer = answer_from_bytes(
            response,
            rows=len(x),
            output=self._config.output,
            output_kind=self._config.output_kind,
            tier=self._tier,
            score=self._score,
            raw=self._raw,
        )
        if not answer.path:
            answer.path = (Hop(self._tier, (time.monotonic() - started) * 1e3),)
        return answer

    async def ready(self, timeout_s: float) -> None:
        """Return when the peer answers anything to ServerReady, be it that it does not know the method.

        Raises
        ------
        UpstreamError
            `timeout` when nothing is heard of it, `unavailable` when its machine refuses the connection, `denied` when
            its certificate is revoked.
        """
        try:
            await self._ready(b"", timeout=timeout_s)
        except NotSentError as error:
            failure: UpstreamError = error
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            failure = failure_of(error)
        else:
            return
        if failure.reason == "unavailable" and any(words in str(failure) for words in SILENCE):
            failure = UpstreamError("timeout", str(failure))
        if failure.reason in ("timeout", "unavailable", "denied"):
            raise failure

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        await self.channel.close()

    def _request(self, x: NDArray[Any], caller: Caller) -> bytes:
        """Return the request; what precedes the raw contents is the same for all inputs of one shape and caller."""
        if x.shape != self._prefix_shape or x.dtype != self._dtype or caller != self._prefix_caller:
            whole = request_bytes(
                x,
                model=self._model,
                version=self._config.version,
                input_name=self._input,
                caller=caller._replace(hops=caller.hops + 1),
            )
            if x.dtype == self._dtype and not caller.delivery:
                self._prefix, self._prefix_shape, self._prefix_caller = whole[: len(whole) - x.nbytes], x.shape, caller
            return whole
        return self._prefix + x.tobytes()
