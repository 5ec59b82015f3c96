"""Enrolment over gRPC: both ends. Whoever reaches the server may connect, so that all it holds is bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import grpc

from escalade.protos.v1 import enrolment_service_pb2, enrolment_service_pb2_grpc
from escalade.tiers.config_types import host_port
from escalade.tiers.errors import SetupError
from escalade.tiers.wire.arrivals import Arrivals
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.channel import client_options, server_options
from escalade.tiers.wire.server import connections_for
from escalade.tiers.wire.status import guarded

if TYPE_CHECKING:
    from escalade.tiers.pki.enrolment import Enroller
    from escalade.tiers.pki.tokens import Token

LARGEST_BYTES = 16 * 1024
TIMEOUT_S = 20.0
CONNECTIONS, CALLS, UNREAD = 256, 64, 32
IDLE_MS, AGE_MS = 10_000, 60_000
"""A connection without a call ends after so long; any, after so long."""
RECEIVE_S = 5.0
"""How long a request may be on its way when many are."""


class EnrolmentServicer:
    """Serves an `Enroller`."""

    name = enrolment_service_pb2.DESCRIPTOR.services_by_name["Enrolment"].full_name

    def __init__(self, enroller: Enroller) -> None:
        self._enroller = enroller

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server registers; the method takes and returns bytes."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Enrol": grpc.unary_unary_rpc_method_handler(guarded(self.enrol))
        }
        return grpc.method_handlers_generic_handler(self.name, methods)

    async def enrol(self, data: bytes) -> bytes:
        """Sign a request for who holds a token."""
        request = parsed(enrolment_service_pb2.EnrolRequest, data)
        given = await asyncio.to_thread(self._enroller.enrol, request.name, request.secret, request.request)
        return enrolment_service_pb2.EnrolResponse(certificate=given[0], ca=given[1]).SerializeToString()


async def serve_enrolment(enroller: Enroller, address: str, certificate: bytes, key: bytes) -> tuple[Any, str]:
    """Return a started server and its address; SetupError when the address cannot be bound.

    Parameters
    ----------
    certificate, key:
        PEM; shown to devices, which believe the CA that their token names.
    """
    server = grpc.aio.server(
        options=[
            *server_options(LARGEST_BYTES, UNREAD, connections_for(CONNECTIONS)),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.max_connection_age_ms", AGE_MS),
            ("grpc.max_connection_age_grace_ms", int(TIMEOUT_S * 1e3)),
        ],
        maximum_concurrent_rpcs=CALLS,
    )
    arrivals = Arrivals(most=UNREAD, streams=0, receive_s=RECEIVE_S)
    server.add_generic_rpc_handlers([arrivals.guard(EnrolmentServicer(enroller).handler())])
    try:
        bound = server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    except RuntimeError as error:
        raise SetupError(f"cannot listen on {address}: the port is taken, or it is not this machine's") from error
    await server.start()
    return server, f"{host_port(address)[0]}:{bound}"


def call_enrolment(token: Token, request: bytes) -> tuple[bytes, bytes]:
    """Send a signing request to where the token says; return the certificate and the CA's.

    Raises
    ------
    SetupError
        It cannot be reached, is not the CA's, or refuses.
    """
    credentials = grpc.ssl_channel_credentials(token.ca.encode())
    options = client_options(LARGEST_BYTES)
    with grpc.secure_channel(token.address, credentials, options) as channel:
        stub = enrolment_service_pb2_grpc.EnrolmentStub(channel)
        message = enrolment_service_pb2.EnrolRequest(name=token.name, secret=token.secret, request=request)
        try:
            response = stub.Enrol(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            if call.code() is grpc.StatusCode.UNAVAILABLE:
                text = (
                    f"{token.address} cannot be reached, or its certificate is not of the token's CA: {call.details()}"
                )
                raise SetupError(text) from None
            raise SetupError(f"{token.address}: {call.details()}") from None
    return response.certificate, response.ca
