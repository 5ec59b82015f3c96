"""The tier above over gRPC: escalade's own, or any server of the Open Inference Protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from escalade.tiers.answer import Hop
from escalade.tiers.breaker import Breaker
from escalade.tiers.caller import PLAIN, Caller
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
        self._breaker = Breaker(
            failures=config.breaker.failures,
            wait_s=config.breaker.wait_ms / 1e3,
            max_wait_s=config.breaker.max_wait_ms / 1e3,
        )
        self._posterior = config.output == config.output_kind == "posterior"
        self._dtype, self._prefix, self._prefix_shape = model.input.dtype, b"", (0,)
        self._prefix_caller = PLAIN

    async def infer(self, x: NDArray[Any], timeout_s: float, caller: Caller = PLAIN) -> Row | Answer:
        """Return the answer of the tier above to `x`; see `Upstream`."""
        metrics, started = self._metrics, time.monotonic()
        if not self._breaker.allows(started):
            metrics.upstream_calls["circuit_open"] = metrics.upstream_calls.get("circuit_open", 0) + 1
            raise UpstreamError("circuit_open")
        request = self._request(x, caller)
        metrics.upstream_sent_bytes += len(request)
        try:
            response = await self._infer(request, timeout=timeout_s)
            metrics.upstream_received_bytes += len(response)
            if self._posterior and len(x) == 1 and (row := row_from_bytes(response)):
                self._note("ok", "", time.monotonic() - started)
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
            raise self._failed(reason_of(error.code()), f"{error.code().name}: {error.details()}", timeout_s) from error
        except grpc.aio.UsageError as error:
            raise self._failed("unavailable", "the link is closed", timeout_s) from error
        except UpstreamError as error:
            raise self._failed(error.reason, str(error), timeout_s) from error
        except BaseException:  # the caller gave up, or worse: the breaker must not wait for this call
            self._breaker.abandoned(time.monotonic())
            raise
        elapsed_s = time.monotonic() - started
        self._note("ok", "", elapsed_s)
        if not answer.path:
            answer.path = (Hop(self._tier, elapsed_s * 1e3),)
        return answer

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        await self._channel.close()

    def _request(self, x: NDArray[Any], caller: Caller) -> bytes:
        """Return the request; what precedes the raw contents is the same for all inputs of one shape and caller."""
        if x.shape != self._prefix_shape or x.dtype != self._dtype or caller is not self._prefix_caller:
            whole = request_bytes(
                x, model=self._model, version=self._config.version, input_name=self._input, caller=caller
            )
            if x.dtype == self._dtype and not caller.delivery:
                self._prefix, self._prefix_shape, self._prefix_caller = whole[: len(whole) - x.nbytes], x.shape, caller
            return whole
        return self._prefix + x.tobytes()

    def _failed(self, reason: str, message: str, timeout_s: float) -> UpstreamError:
        self._note(reason, message, timeout_s)
        return UpstreamError(reason, message)

    def _note(self, outcome: str, message: str, seconds: float) -> None:
        """Count the call and tell the breaker; log when the link's state changes, not every call on a dead link.

        `seconds` are those that the answer took, or that the call was given.
        """
        now, breaker, calls = time.monotonic(), self._breaker, self._metrics.upstream_calls
        calls[outcome] = calls.get(outcome, 0) + 1
        if outcome == "ok":
            breaker.succeeded(now, seconds)
        elif outcome == "timeout":
            breaker.failed(now, seconds)
        elif outcome == "unavailable":
            breaker.failed(now)
        else:
            breaker.succeeded(now)
        if outcome != self._last_outcome:
            if outcome == "ok":
                log.info("upstream answers again", address=self.address)
            else:
                log.warning("upstream gives no answer", address=self.address, reason=outcome, detail=message)
            self._last_outcome = outcome
