"""The gRPC server around a tier: data path, health and reflection on one port."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Protocol

import grpc
import structlog
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.config_types import host_port, is_loopback
from escalade.tiers.errors import ConfigError
from escalade.tiers.wire.arrivals import Arrivals
from escalade.tiers.wire.channel import SERVICE, server_options
from escalade.tiers.wire.credentials import connection_age_options, server_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.descriptor import FileDescriptor

    from escalade.tiers.config import LimitsConfig
    from escalade.tiers.security import Security
    from escalade.tiers.wire.servicer import InferenceServicer

log = structlog.get_logger(__name__)

FILES_BESIDE = 128
"""Files that a tier has open beside its connections: libraries, databases, links, logs."""


class MoreService(Protocol):
    """A service beside inference on the same port.

    Attributes
    ----------
    name, files:
        Its full name, and what describes it, dependencies first: for health and reflection.
    """

    name: str
    files: tuple[FileDescriptor, ...]

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server registers; the methods speak bytes."""
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
    limits:
        What bounds messages, calls and connections.
    more:
        Other services of the tier.
    security:
        Who may call; None: plaintext, and everybody may.
    """

    def __init__(
        self,
        servicer: InferenceServicer,
        address: str,
        *,
        limits: LimitsConfig,
        reflection_on: bool,
        more: Sequence[MoreService] = (),
        security: Security | None = None,
    ) -> None:
        self._servicer, self._address, self._security = servicer, address, security
        connections = connections_for(limits.max_connections)
        options = server_options(limits.max_message_bytes, limits.max_unread, connections)
        if security:
            options += connection_age_options(security.max_connection_age_s)
        self._server = grpc.aio.server(
            options=options,
            interceptors=[security.guard] if security else None,
            maximum_concurrent_rpcs=limits.max_calls,
        )
        arrivals = Arrivals(most=limits.max_unread, streams=limits.max_streams, receive_s=limits.receive_ms / 1e3)
        self._server.add_generic_rpc_handlers(
            [arrivals.guard(servicer.handler()), *(arrivals.guard(service.handler()) for service in more)]
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._more = more
        self._names = [SERVICE, *(service.name for service in more)]
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
            if self._security:
                if not self._security.files.credentials.facts.hosts:
                    log.warning("callers will refuse this tier: its certificate names no host; issue it with --host")
                bound = self._server.add_secure_port(self._address, server_credentials(self._security.files))
            else:
                bound = self._server.add_insecure_port(self._address)
                if not is_loopback(self._address):
                    log.warning("plaintext: whoever reaches the address may call everything", address=self._address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(
                f"cannot listen on {self._address}: the port is taken, or the address is not this machine's; "
                "set it to a free one",
                key="listen.address",
            )
        if self._security:
            self._security.watch()
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


def connections_for(wanted: int) -> int:
    """Return how many connections fit the files that this process may open, having asked for room for `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + FILES_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= files:
        return wanted
    most = files if hard == resource.RLIM_INFINITY else min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < files:
        log.warning("fewer connections than limits.max_connections fit", wanted=wanted, open_files_limit=hard)
    return max(1, most - FILES_BESIDE)


def _described(more: Iterable[FileDescriptor]) -> DescriptorPool:
    """Return a pool that describes every service on the port, for reflection."""
    pool = DescriptorPool()
    for file in (oip.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR, *more):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
