"""The tier above over gRPC: escalade's own, or any server of the Open Inference Protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from escalade.tiers.answer import Hop
from escalade.tiers.errors import UpstreamError
from escalade.tiers.wire.channel import bytes_call, client_options
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes, row_from_bytes
from escalade.tiers.wire.status import reason_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Score
    from escalade.tiers.answer import Answer, Row
    from escalade.tiers.config import UpstreamConfig
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.model import OnnxModel

log = structlog.get_logger(__name__)

NEXT_TIER = {"endpoint": "edge_node", "edge_node": "edge_server"}


class GrpcUpstream:
    """An `Upstream` at a gRPC address.

    Parameters
    ----------
    tier:
        The name of the tier that asks.
    model:
        The asking tier's model: its name and input are the defaults of the upstream's.
    score:
        Applied to the posterior of a server that sends no score.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        tier: str,
        model: OnnxModel,
        score: Score,
        metrics: TierMetrics,
        max_message_bytes: int,
    ) -> None:
        self.address = config.address
        self._config, self._metrics, self._score = config, metrics, score
        self._model = config.model or model.name
        self._input = config.input or model.input.name
        self._raw = model.output_kind == "raw"
        self._tier = config.tier or NEXT_TIER.get(tier, "upstream")
        self._channel = grpc.aio.insecure_channel(config.address, client_options(max_message_bytes))
        self._infer = bytes_call(self._channel, "ModelInfer")
        self._last_outcome = "ok"
        self._posterior = config.output == config.output_kind == "posterior"
        self._dtype, self._prefix, self._prefix_shape = model.input.dtype, b"", (0,)

    async def infer(self, x: NDArray[Any], timeout_s: float) -> Row | Answer:
        """Return the answer of the tier above to `x`; see `Upstream`."""
        request = self._request(x)
        metrics = self._metrics
        metrics.upstream_sent_bytes += len(request)
        started = time.monotonic()
        try:
            response = await self._infer(request, timeout=timeout_s)
            metrics.upstream_received_bytes += len(response)
            if self._posterior and len(x) == 1 and (row := row_from_bytes(response)):
                self._note("ok", "")
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
        except grpc.aio.AioRpcError as error:
            raise self._failed(reason_of(error.code()), f"{error.code().name}: {error.details()}") from error
        except grpc.aio.UsageError as error:
            raise self._failed("unavailable", "the link is closed") from error
        except UpstreamError as error:
            raise self._failed(error.reason, str(error)) from error
        self._note("ok", "")
        if not answer.path:
            answer.path = (Hop(self._tier, (time.monotonic() - started) * 1e3),)
        return answer

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        await self._channel.close()

    def _request(self, x: NDArray[Any]) -> bytes:
        """Return the request; what precedes the raw contents is the same for all inputs of one shape."""
        if x.shape != self._prefix_shape or x.dtype != self._dtype:
            whole = request_bytes(x, model=self._model, version=self._config.version, input_name=self._input)
            if x.dtype == self._dtype:
                self._prefix, self._prefix_shape = whole[: len(whole) - x.nbytes], x.shape
            return whole
        return self._prefix + x.tobytes()

    def _failed(self, reason: str, message: str) -> UpstreamError:
        self._note(reason, message)
        return UpstreamError(reason, message)

    def _note(self, outcome: str, message: str) -> None:
        """Count the call; log when the link's state changes, not for every call on a dead link."""
        calls = self._metrics.upstream_calls
        calls[outcome] = calls.get(outcome, 0) + 1
        if outcome != self._last_outcome:
            if outcome == "ok":
                log.info("upstream answers again", address=self.address)
            else:
                log.warning("upstream gives no answer", address=self.address, reason=outcome, detail=message)
            self._last_outcome = outcome
