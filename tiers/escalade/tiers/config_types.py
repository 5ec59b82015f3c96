"""What every section of a tier's YAML is made of, and the sections that several blocks share."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
]
MAX_RANK = 16
"""Dimensions of a tensor; more make no sense, and numpy has no room for very many."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's names of tensor types, as numpy types."""


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
        return host.lower() == "localhost"


def _address(value: str) -> str:
    host_port(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
PositiveInt = Annotated[int, Field(ge=1)]
Megabytes = Annotated[float, Field(ge=0.1, allow_inf_nan=False)]
"""Of a file that holds what would else be lost: a size that holds nothing is a mistake."""
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Frozen, and no key that is not written here."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RecordConfig(Section):
    """Where decisions and what came of them are kept, for `escalade record` and `escalade policy`."""

    folder: Path
    """One of its own for each tier; made when missing."""
    max_mb: Annotated[float, Field(ge=8, allow_inf_nan=False)] = 256.0
    """The oldest chunks are removed beyond."""
    max_age_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """A chunk last written so long ago is removed; default: none for its age."""
    flush_rows: PositiveInt = 4096
    """Rows of a chunk, fewer where the posteriors are long."""
    flush_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """The longest time a row waits in memory; what a process that dies loses."""
    format: Literal["npz", "parquet"] = "npz"
    """`parquet` needs pyarrow."""
