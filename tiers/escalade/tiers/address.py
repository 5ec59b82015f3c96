"""Addresses, `host:port`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator


def host_port(address: str) -> tuple[str, int]:
    """Split `host:port` (or `[::1]:port`); ValueError when it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port, for example 127.0.0.1:8001")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether what goes to `host:port` cannot leave this machine."""
    host, _ = host_port(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    host_port(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
