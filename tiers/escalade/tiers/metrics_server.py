"""The address that Prometheus scrapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server

from escalade.tiers.config_types import host_port
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.registry import Collector


def serve_metrics(collectors: Iterable[Collector], address: str) -> Any:
    """Serve them until the returned server is shut down; ConfigError when the address cannot be bound."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    host, port = host_port(address)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {address}: {error.strerror}; set it to a free one", key="metrics.address"
        ) from error
    return server
