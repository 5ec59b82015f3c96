"""Options of gRPC channels and servers: small messages, dead peers noticed in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import grpc.aio

    from escalade.tiers.wire.link_channel import LinkChannel

    BytesCall = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

SERVICE = "inference.GRPCInferenceService"
"""The Open Inference Protocol's service."""

METADATA_BYTES = 16 * 1024
"""A call's headers; of more it is refused (RESOURCE_EXHAUSTED)."""
CONNECTION_CALLS = 1024
"""Calls of one connection at a time; a client keeps further ones back."""

ChannelOptions = list[tuple[str, int]]

_KEEPALIVE: ChannelOptions = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def client_options(max_message_bytes: int, *, ages: bool = False) -> ChannelOptions:
    """Return what a tier's link upward is opened with: reconnects within 2 s of a peer's return.

    Parameters
    ----------
    ages:
        The server ends connections that are too old. Calls that cross with that were not read, and gRPC sends them
        again by itself; without it a few calls fail at such moments.
    """
    return [
        *_KEEPALIVE,
        ("grpc.initial_reconnect_backoff_ms", 200),
        # How long one attempt may take: over a slow link the peer's first frame needs some hundred milliseconds.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.enable_retries", int(ages)),
        # `http_proxy` in the environment is meant for browsers: inputs go to the address that is written, or nowhere.
        ("grpc.enable_http_proxy", 0),
        # A link of its own: tiers in one process (tests, simulations) must not share a connection's fate.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options(max_message_bytes: int, max_unread: int, max_connections: int) -> ChannelOptions:
    """Return what a tier serves with: one process a port, pings of the profile above allowed.

    An event loop that is short of time takes calls later than they come. gRPC holds what was not taken, first
    come, first served: left to itself (1000 to 3000 calls) until all are too old to be answered in time. What it
    refuses itself costs a third of what the same refusal costs in Python.
    """
    return [
        *_KEEPALIVE,
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # an answer is as large as the model makes it
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.max_concurrent_streams", CONNECTION_CALLS),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.so_reuseport", 0),
        ("grpc.server.max_pending_requests", max_unread // 2),
        ("grpc.server.max_pending_requests_hard_limit", max_unread),
    ]


def bytes_call(channel: grpc.aio.Channel | LinkChannel, method: str) -> BytesCall:
    """Return a unary call of the protocol's service that takes and returns serialised messages."""
    return cast("BytesCall", channel.unary_unary(f"/{SERVICE}/{method}"))
