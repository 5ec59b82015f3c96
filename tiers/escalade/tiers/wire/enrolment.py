"""Enrolment over gRPC: both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc

from escalade.protos.v1 import enrolment_service_pb2, enrolment_service_pb2_grpc
from escalade.tiers.config_types import host_port
from escalade.tiers.errors import EscaladeError, SetupError
from escalade.tiers.wire.channel import client_options
from escalade.tiers.wire.status import status_of

if TYPE_CHECKING:
    from escalade.tiers.pki.enrolment import Enroller
    from escalade.tiers.pki.tokens import Token

    Context = grpc.aio.ServicerContext[Any, Any]

LARGEST_BYTES = 16 * 1024
TIMEOUT_S = 20.0


class EnrolmentServicer(enrolment_service_pb2_grpc.EnrolmentServicer):
    """Serves an `Enroller`."""

    def __init__(self, enroller: Enroller) -> None:
        self._enroller = enroller

    async def Enrol(  # noqa: N802
        self, request: enrolment_service_pb2.EnrolRequest, context: Context
    ) -> enrolment_service_pb2.EnrolResponse:
        """Sign a request for who holds a token."""
        try:
            certificate, ca = self._enroller.enrol(request.name, request.secret, request.request)
        except EscaladeError as error:
            await context.abort(*status_of(error))
        return enrolment_service_pb2.EnrolResponse(certificate=certificate, ca=ca)


async def serve_enrolment(enroller: Enroller, address: str, certificate: bytes, key: bytes) -> tuple[Any, str]:
    """Return a started server and its address; SetupError when the address cannot be bound.

    Parameters
    ----------
    certificate, key:
        PEM; shown to devices, which believe the CA that their token names.
    """
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", LARGEST_BYTES), ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=16,
    )
    enrolment_service_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentServicer(enroller), server)
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
