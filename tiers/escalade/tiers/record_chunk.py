"""A chunk of a recording: columns, one row an input, as an ``npz`` or Parquet file."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox.sealing import UNSEALED, key_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.tiers.outbox.sealing import Seal

SCHEMA = 1
"""Number of the columns' layout, in every chunk's ``meta``."""

UNKNOWN = -1


class Decided(NamedTuple):
    """One input's row: what the policy was told, what it did, and what came of it.

    `posterior` and `upper_posterior` are lists of floats, or None; `label` and `upper_label` are classes, or -1.
    `answered_by` names the tier that answered; `reason` is a key of `answer.REASONS` where it is degraded.
    """

    time_s: float
    score: float
    action: int
    propensity: float
    uniform: float
    remaining_ms: float
    bytes_up: int
    upstream_ms: float
    device: int
    label: int
    posterior: Sequence[float] | None
    upper_label: int
    upper_posterior: Sequence[float] | None
    answered_by: str
    reason: str
    elapsed_ms: float
    upstream_load: float = 0.0


DTYPES: dict[str, Any] = {
    "time_s": np.float64,
    "score": np.float32,
    "action": np.int8,
    "propensity": np.float64,
    "uniform": np.float64,
    "remaining_ms": np.float64,
    "bytes_up": np.int64,
    "upstream_ms": np.float64,
    "device": np.int64,
    "label": np.int32,
    "upper_label": np.int32,
    "answered_by": np.str_,
    "reason": np.str_,
    "elapsed_ms": np.float64,
    "upstream_load": np.float64,
}
"""Columns of a chunk beside ``id`` (int64), ``posterior`` and ``upper_posterior`` (float32 ``[N, C]``)."""


def chunks(folder: Path) -> list[Path]:
    """Return a recording's chunks, oldest first."""
    found = [*folder.glob("*.npz"), *folder.glob("*.parquet")]
    return sorted(file for file in found if len(file.stem) == 16 and set(file.stem) <= set("0123456789abcdef"))


def columns(rows: Sequence[Decided], first: int) -> dict[str, NDArray[Any]]:
    """Return rows as columns, with ids from `first` on."""
    table: dict[str, NDArray[Any]] = {"id": np.arange(first, first + len(rows), dtype=np.int64)}
    for name, column in zip(Decided._fields, zip(*rows, strict=True), strict=True):
        if name in DTYPES:
            table[name] = np.array(column, DTYPES[name])
        else:
            classes = max((len(one) for one in column if one is not None), default=0)
            wide = np.full((len(rows), classes), np.nan, np.float32)
            for index, one in enumerate(column):
                if one is not None:
                    wide[index, : len(one)] = one
            table[name] = wide
    return table


def chunk_bytes(file: Path, table: Mapping[str, NDArray[Any]], meta: str, seal: Seal) -> bytes:
    """Return columns as what is stored under a name: its suffix says in which format."""
    stream = BytesIO()
    if file.suffix == ".parquet":
        _write_parquet(stream, table, meta)
    else:
        np.savez_compressed(stream, allow_pickle=False, meta=np.array(meta), **table)
    return seal.seal(stream.getvalue(), _about(file))


def read_chunk(file: Path, seal: Seal = UNSEALED) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a chunk's columns and its meta.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or is none.
    ConfigError
        It is encrypted, and not with a key of `seal`, or pyarrow is missing.
    """
    content = file.read_bytes()
    key_id = key_id_of(content)
    if key_id and not seal.knows(key_id):
        has = "none is given" if seal is UNSEALED else "at_rest.key_source does not have it"
        raise ConfigError(f"{file} is encrypted with the key {key_id.hex()}, and {has}; see --config")
    content = seal.open(content, _about(file))
    try:
        if file.suffix == ".parquet":
            table, meta = _read_parquet(BytesIO(content))
        else:
            with np.load(BytesIO(content), allow_pickle=False) as archive:
                table = {name: archive[name] for name in archive.files}
            meta = json.loads(str(table.pop("meta")))
    except ConfigError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise ValueError(f"{file} is no chunk of a recording, or a broken one") from error
    check_columns(table, meta)
    return table, meta


def check_columns(table: Mapping[str, Any], meta: Any) -> None:
    """Raise ValueError unless these are columns, of numbers or text, and a mapping."""
    for name, column in table.items():
        if not isinstance(column, np.ndarray) or column.dtype.kind not in "biufU":
            raise ValueError(f"{name} is no column of numbers or text")
        if column.ndim != (2 if name.endswith("posterior") else 1):
            raise ValueError(f"{name} has {column.ndim} dimensions")
    if not isinstance(meta, dict):
        raise ValueError("meta is no mapping")


def import_pyarrow() -> Any:
    """Return pyarrow with its Parquet; ConfigError when it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow: pip install 'escalade[parquet]', or set it to npz", key="record.format"
        ) from error
    return pyarrow


def _about(file: Path) -> bytes:
    return b"chunk\0" + file.name.encode()


def _write_parquet(stream: Any, table: Mapping[str, NDArray[Any]], meta: str) -> None:
    pyarrow = import_pyarrow()
    wide = {name: pyarrow.array(list(column)) if column.ndim == 2 else column for name, column in table.items()}
    arrow = pyarrow.table(wide).replace_schema_metadata({"escalade": meta})
    pyarrow.parquet.write_table(arrow, stream)


def _read_parquet(stream: BytesIO) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    arrow = import_pyarrow().parquet.read_table(stream)
    table: dict[str, NDArray[Any]] = {}
    for name in arrow.column_names:
        values = arrow[name].to_pylist() if name.endswith("posterior") else arrow[name].to_numpy()
        table[name] = np.array(values, DTYPES.get(name, np.float32 if name.endswith("posterior") else np.int64))
    return table, json.loads(arrow.schema.metadata[b"escalade"])
