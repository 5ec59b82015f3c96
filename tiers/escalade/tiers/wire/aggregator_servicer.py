"""The aggregator as a gRPC service: bytes in, the aggregator, bytes out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.tiers.errors import EscaladeError
from escalade.tiers.identity import speaking_for
from escalade.tiers.wire.aggregator import (
    SERVICE,
    answer_to_proto,
    event_to_proto,
    node_to_proto,
    observations_from_bytes,
    verdicts_to_bytes,
)
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.status import abort, guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import FileDescriptor

    from escalade.tiers.aggregator.aggregator import Aggregator

    Context = grpc.aio.ServicerContext[bytes, bytes]

STREAM_PENDING = 32
"""Requests of one stream whose observations may be on their way to the disk; then it is not read further."""


class AggregatorServicer:
    """Serves one aggregator, a `MoreService`. Handlers take and return bytes, as those of the data path do."""

    name = SERVICE
    files: tuple[FileDescriptor, ...] = (pb.DESCRIPTOR,)

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._readers: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server registers. Without serializers: the methods speak bytes."""
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Observe": unary(guarded(self.observe)),
            "GetEvent": unary(guarded(self.get_event)),
            "ListNodes": unary(guarded(self.list_nodes)),
            "ObserveStream": grpc.stream_stream_rpc_method_handler(self.observe_stream),
            "WatchEvents": grpc.unary_stream_rpc_method_handler(self.watch_events),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def stop_reading(self) -> None:
        """End watches, and take nothing new from open streams; what they already sent is still answered."""
        self._aggregator.answers.close()
        for reader in self._readers:
            reader.cancel()

    async def observe(self, data: bytes) -> bytes:
        """Take a batch in."""
        observations, tenant, sent_s = observations_from_bytes(data)
        observations = [one._replace(node=speaking_for(one.node)) for one in observations]
        return verdicts_to_bytes(await self._aggregator.observe(observations, tenant, sent_s))

    async def get_event(self, data: bytes) -> bytes:
        """Return one event, told its label if there is one."""
        request = parsed(pb.GetEventRequest, data)
        label = request.label if request.HasField("label") else None
        event = self._aggregator.event(request.event, label)
        return event_to_proto(event, self._aggregator.config.nodes).SerializeToString()

    async def list_nodes(self, data: bytes) -> bytes:
        """Return how every node is."""
        del data
        nodes = [node_to_proto(node) for node in self._aggregator.nodes()]
        return pb.ListNodesResponse(nodes=nodes).SerializeToString()

    async def observe_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Take the batches of one stream in; several share a transaction, responses keep their order."""
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()

        async def read() -> None:
            try:
                async for data in requests:
                    task = asyncio.create_task(self.observe(data))
                    pending.put_nowait(task)
                    if pending.qsize() >= STREAM_PENDING:
                        await asyncio.wait([task])
            finally:
                pending.put_nowait(None)

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        try:
            while task := await pending.get():
                try:
                    response = await task
                except Exception as error:  # noqa: BLE001  # the last line of defence: no text of a surprise leaks
                    await abort(context, error)
                yield response
        finally:
            self._readers.discard(reader)
            reader.cancel()

    async def watch_events(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        """Tell every answer and correction, in order."""
        try:
            request = parsed(pb.WatchEventsRequest, data)
            oldest = self._aggregator.answers.oldest - 1
            after = None if request.only_new else request.after or oldest
            # What goes at once says that the watch has begun: a caller that starts its nodes then misses nothing.
            await context.send_initial_metadata(())
            async for answer in self._aggregator.watch(after):
                yield answer_to_proto(answer, self._aggregator.config.nodes).SerializeToString()
        except EscaladeError as error:
            await abort(context, error)
