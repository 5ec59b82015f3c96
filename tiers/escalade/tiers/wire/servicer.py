"""The data path as a gRPC service: bytes in, the tier, bytes out."""

from __future__ import annotations

import asyncio
from math import isinf
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.admission import class_of
from escalade.tiers.answer import Answer, Row
from escalade.tiers.caller import PLAIN
from escalade.tiers.errors import EscaladeError, InputError, OverloadedError
from escalade.tiers.identity import speaking_for
from escalade.tiers.rate_limit import DeviceRates, host_of
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.channel import SERVICE
from escalade.tiers.wire.codec import Codec, InferRequest, in_stream, request_id_of
from escalade.tiers.wire.load import LOAD_BYTES
from escalade.tiers.wire.status import hint_of, status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    from escalade.tiers.config import DeviceRateConfig
    from escalade.tiers.deliveries import Deliveries
    from escalade.tiers.tier import Tier

    Context = grpc.aio.ServicerContext[bytes, bytes]

log = structlog.get_logger(__name__)

STREAM_PENDING = 128
"""Requests of one stream that may wait at a time; then the stream is not read further."""


class InferenceServicer:
    """Serves one tier under the Open Inference Protocol.

    Parameters
    ----------
    default_deadline_s:
        For requests that carry none.
    clock:
        The tier's.
    deliveries:
        Recognises what outboxes below send again.
    device_rate:
        How much one device may ask; None: whatever it likes.
    answered:
        Told of every live request that was answered: input, answer, and the event that it names.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        version: str,
        default_deadline_s: float,
        clock: Callable[[], float],
        deliveries: Deliveries,
        device_rate: DeviceRateConfig | None = None,
        answered: Callable[[NDArray[Any], Row | Answer, str], None] | None = None,
    ) -> None:
        self._answered = answered
        self.codec = Codec(tier.model)
        self._tier, self._version, self._clock = tier, version, clock
        self._default_deadline_s, self._deliveries = default_deadline_s, deliveries
        self._rates = DeviceRates(device_rate) if device_rate else None
        self._streams: set[_Stream] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server registers. Without serializers: the methods speak bytes."""
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ServerLive": unary(self._plain(self.server_live)),
            "ServerReady": unary(self._plain(self.server_ready)),
            "ModelReady": unary(self._plain(self.model_ready)),
            "ServerMetadata": unary(self._plain(self.server_metadata)),
            "ModelMetadata": unary(self._plain(self.model_metadata)),
            "ModelInfer": unary(self.model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.model_stream_infer),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def model_infer(self, data: bytes, context: Context) -> bytes:
        """Answer one request."""
        try:
            request = self._read(data)
            if request.caller.delivery:
                return self._with_load(await self._deliver(request, context))
            result = self._begin(request, context, context.time_remaining())
            answer = result if isinstance(result, (Row, Answer)) else await result
            return self._encode(request, answer)
        except Exception as error:  # noqa: BLE001  # the last line of defence: no text of a surprise leaks
            code, text = self._status(error)
            hint = hint_of(error)
        await context.abort(code, text, hint)
        raise AssertionError("abort raises")  # pragma: no cover

    async def model_stream_infer(self, _: Any, context: Context) -> None:
        """Answer the requests of one stream.

        Requests without an id are answered in their order; those with one as soon as they are ready.
        An error ends its request, not the stream.
        """
        stream = _Stream(self, context)
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)

    def stop_reading(self) -> None:
        """Take nothing new from open streams; what they already sent is still answered."""
        for stream in self._streams:
            stream.stop_reading()

    def begin_stream_request(self, data: bytes, context: Context) -> tuple[str, bytes | Awaitable[bytes]]:
        """Return a stream request's id, and its response or an awaitable of it; raises nothing."""
        try:
            request = self._read(data)
        except Exception as error:  # noqa: BLE001  # as above
            request_id = request_id_of(data)
            return request_id, self._stream_error(request_id, error)
        try:
            if request.caller.delivery:
                raise InputError("a delivery is sent by ModelInfer, not in a stream")
            result = self._begin(request, context, None)
            if isinstance(result, (Row, Answer)):
                return request.id, in_stream(self._encode(request, result))
        except Exception as error:  # noqa: BLE001  # as above
            return request.id, self._stream_error(request.id, error)
        return request.id, self._finish_stream_request(request, result)

    async def _finish_stream_request(self, request: InferRequest, result: Awaitable[Row | Answer]) -> bytes:
        try:
            return in_stream(self._encode(request, await result))
        except Exception as error:  # noqa: BLE001  # as above
            return self._stream_error(request.id, error)

    def _stream_error(self, request_id: str, error: Exception) -> bytes:
        code, text = self._status(error)
        response = oip.ModelInferResponse(model_name=self.codec.name, id=request_id)
        message = oip.ModelStreamInferResponse(error_message=f"{code.name}: {text}", infer_response=response)
        return message.SerializeToString()

    def _read(self, data: bytes) -> InferRequest:
        try:
            request = self.codec.decode(data)
            device = speaking_for(request.caller.device)
            if device != request.caller.device:
                request.caller = request.caller._replace(device=device)
            return request
        except EscaladeError as error:
            self._tier.metrics.refused(error, class_of(PLAIN))
            raise

    async def _deliver(self, request: InferRequest, context: Context) -> bytes:
        if not request.caller.device:
            raise InputError("a delivery says whose it is: give 'escalade.device' beside 'escalade.delivery'")

        async def infer() -> Row | Answer:
            result = self._begin(request, context, context.time_remaining())
            return result if isinstance(result, (Row, Answer)) else await result

        return await self._deliveries.answer(request.caller, infer, lambda answer: self.codec.encode(request, answer))

    def _encode(self, request: InferRequest, answer: Row | Answer) -> bytes:
        if self._answered is not None:
            self._answered(request.x, answer, request.event)
        return self._with_load(self.codec.encode(request, answer))

    def _with_load(self, response: bytes) -> bytes:
        """Return the response, with the tier's load where there is any to tell."""
        load = self._tier.load
        return response + LOAD_BYTES[load] if load else response

    def _begin(
        self, request: InferRequest, context: Context, remaining_s: float | None
    ) -> Row | Answer | Awaitable[Row | Answer]:
        if self._rates is not None:
            self._limit(self._rates, request, context)
        return self._tier.begin(request.x, self._deadline(request, remaining_s), request.caller, request.id)

    def _limit(self, rates: DeviceRates, request: InferRequest, context: Context) -> None:
        """Raise where the device asked too much lately."""
        device, now = request.caller.device or host_of(context.peer()), self._clock()
        wait_s = rates.wait_s(device, len(request.x), now)
        if not wait_s:
            return
        if refusals := rates.to_log(now):
            log.warning("device asks too much", tier=self._tier.name, device=device, refusals=refusals)
        if isinf(wait_s):
            text, retry_s = f"sends {len(request.x)} rows at once, more than limits.device_rate.burst; send less", None
        else:
            text, retry_s = f"asks more than limits.device_rate; try again in {wait_s:.3g} s", wait_s
        error = OverloadedError(f"device {device!r} {text}", cause="rate", retry_s=retry_s)
        self._tier.metrics.refused(error, class_of(request.caller))
        raise error

    def _deadline(self, request: InferRequest, remaining_s: float | None) -> float:
        limit_s = self._default_deadline_s if remaining_s is None else remaining_s
        if request.deadline_ms is not None:
            limit_s = min(limit_s, request.deadline_ms / 1e3) if remaining_s is not None else request.deadline_ms / 1e3
        return self._clock() + limit_s

    def _status(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        if not isinstance(error, EscaladeError):
            self._tier.metrics.requests["failed"] += 1
            log.error("request failed unexpectedly", exc_info=error)
        return status_of(error)

    # The small calls.

    def _plain(self, method: Callable[[bytes], bytes]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            try:
                return method(data)
            except Exception as error:  # noqa: BLE001  # as above
                code, text = self._status(error)
            await context.abort(code, text)
            raise AssertionError("abort raises")  # pragma: no cover

        return handle

    def server_live(self, data: bytes) -> bytes:
        """Say that the process is up."""
        del data
        return oip.ServerLiveResponse(live=True).SerializeToString()

    def server_ready(self, data: bytes) -> bytes:
        """Say whether the tier takes requests."""
        del data
        return oip.ServerReadyResponse(ready=not self._tier.draining).SerializeToString()

    def model_ready(self, data: bytes) -> bytes:
        """Say whether the served model takes requests; NOT_FOUND for any other."""
        request = parsed(oip.ModelReadyRequest, data)
        self.codec.check_model(request.name, request.version)
        return oip.ModelReadyResponse(ready=not self._tier.draining).SerializeToString()

    def server_metadata(self, data: bytes) -> bytes:
        """Name the tier and what it can do beyond the protocol."""
        del data
        return oip.ServerMetadataResponse(
            name=f"escalade {self._tier.name}", version=self._version, extensions=["model_stream_infer"]
        ).SerializeToString()

    def model_metadata(self, data: bytes) -> bytes:
        """Describe the served model's tensors."""
        request = parsed(oip.ModelMetadataRequest, data)
        self.codec.check_model(request.name, request.version)
        return self.codec.metadata().SerializeToString()


class _Stream:
    """One open ModelStreamInfer call."""

    def __init__(self, servicer: InferenceServicer, context: Context) -> None:
        self._servicer, self._context = servicer, context
        self._pending: set[asyncio.Task[None]] = set()
        self._last_in_order: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._waits_for_message = False
        self._stopped = False

    async def serve(self) -> None:
        self._reader = asyncio.create_task(self._read())
        try:
            await self._reader
        except asyncio.CancelledError:
            if not self._stopped:  # the caller went away: nobody waits for the rest
                self._reader.cancel()
                for task in self._pending:
                    task.cancel()
                raise
        if self._pending:
            await asyncio.wait(self._pending)

    def stop_reading(self) -> None:
        self._stopped = True
        if self._waits_for_message and self._reader:
            self._reader.cancel()

    async def _read(self) -> None:
        read, begin = self._context.read, self._servicer.begin_stream_request
        while not self._stopped:
            self._waits_for_message = True
            data: Any = await read()
            self._waits_for_message = False
            if data is grpc.aio.EOF:
                return
            request_id, result = begin(data, self._context)
            in_order = not request_id
            if isinstance(result, bytes) and not (in_order and self._last_in_order):
                await self._write(result)
                continue
            task = asyncio.create_task(self._deliver(result, self._last_in_order if in_order else None))
            self._pending.add(task)
            if in_order:
                self._last_in_order = task
            task.add_done_callback(self._delivered)
            if len(self._pending) >= STREAM_PENDING:
                await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)

    async def _deliver(self, result: bytes | Awaitable[bytes], after: asyncio.Task[None] | None) -> None:
        response = result if isinstance(result, bytes) else await result
        if after is not None:
            await asyncio.wait([after])
        await self._write(response)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        if self._last_in_order is task:
            self._last_in_order = None
        if not task.cancelled() and task.exception() is not None:
            log.debug("stream response not delivered", error=repr(task.exception()))

    async def _write(self, response: bytes) -> None:
        async with self._writing:
            await self._context.write(response)
