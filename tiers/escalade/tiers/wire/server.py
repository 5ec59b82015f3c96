"""The gRPC server around a tier: data path, health and reflection on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.config import host_port
from escalade.tiers.errors import ConfigError
from escalade.tiers.wire.channel import SERVICE, server_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.descriptor import FileDescriptor

    from escalade.tiers.wire.servicer import InferenceServicer


class MoreService(Protocol):
    """A service beside inference on the same port.

    Attributes
    ----------
    name, files:
        Its full name, and what describes it, dependencies first: for health and reflection.
    """

    name: str
    files: tuple[FileDescriptor, ...]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        ...

    def stop_reading(self) -> None:
        """End what would keep the server open: it is about to stop."""
        ...


class GrpcServer:
    """Serves until stopped.

    Parameters
    ----------
    address:
        `host:port`; port 0 takes any free one.
    more:
        Other services of the tier.
    """

    def __init__(
        self,
        servicer: InferenceServicer,
        address: str,
        *,
        max_message_bytes: int,
        max_unread: int,
        reflection_on: bool,
        more: Sequence[MoreService] = (),
    ) -> None:
        self._servicer, self._address = servicer, address
        self._server = grpc.aio.server(options=server_options(max_message_bytes, max_unread))
        self._server.add_generic_rpc_handlers([servicer.handler()])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._more = more
        self._names = [SERVICE, *(service.name for service in more)]
        for service in more:
            service.add_to(self._server)
        if reflection_on:
            names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            files = [file for service in more for file in service.files]
            reflection.enable_server_reflection(names, self._server, pool=_described(files))

    async def start(self) -> str:
        """Open the port and return the bound address.

        Raises
        ------
        ConfigError
            When the address cannot be bound.
        """
        host, port = host_port(self._address)
        try:
            bound = self._server.add_insecure_port(self._address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(
                f"cannot listen on {self._address}: the port is taken, or the address is not this machine's; "
                "set it to a free one",
                key="listen.address",
            )
        await self._server.start()
        for service in ("", *self._names):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{f'[{host}]' if ':' in host else host}:{bound or port}"

    async def announce_stop(self) -> None:
        """Say NOT_SERVING, end watches, read no more from open streams; calls are taken, for the tier to refuse."""
        await self._health.enter_graceful_shutdown()
        self._servicer.stop_reading()
        for service in self._more:
            service.stop_reading()

    async def stop(self, grace_s: float) -> None:
        """Close the port; calls under way have `grace_s` to end."""
        await self._server.stop(grace_s)


def _described(more: Iterable[FileDescriptor]) -> DescriptorPool:
    """Return a pool that describes every service on the port, for reflection."""
    pool = DescriptorPool()
    for file in (oip.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR, *more):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
