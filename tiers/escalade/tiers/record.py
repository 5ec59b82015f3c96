"""What a tier decided and what came of it, kept on disk for policies to be fitted and judged: `Recorder`.

A folder of chunks, each an ``npz`` (or Parquet) file of columns, one row an input. A request appends a tuple to a
buffer; a thread writes full buffers. A chunk appears whole, by a rename; the oldest go when the folder is full. A
process that dies loses the buffer at most. Nothing here can make a request fail: what cannot be written is
counted, and said once in a while.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from io import BytesIO
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import structlog

from escalade.policies import Batch
from escalade.policies.combinator import listens
from escalade.tiers.errors import ConfigError
from escalade.tiers.record_retention import drop_old

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Action, Context, Decisions, Policy
    from escalade.tiers.config import RecordConfig

log = structlog.get_logger(__name__)

SCHEMA = 1
"""Number of the columns' layout, in every chunk's ``meta``."""

BUFFER_BYTES = 16 * 1024 * 1024
"""About how much the buffer may take before it is written, whatever `RecordConfig.flush_rows`."""

EPOCH_S = 1_577_836_800
"""Ids count from 2020 on: seconds in the upper half, rows in the lower."""

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


_CONTEXT = ("time_s", "uniform", "remaining_ms", "bytes_up", "upstream_ms", "device", "upstream_load")
_MEMORY: tuple[Literal["commit", "observe", "retune"], ...] = ("commit", "observe", "retune")


class Note:
    """Rows of a request that were decided, until it is finished."""

    __slots__ = ("_above", "_recorder", "_told")

    def __init__(self, recorder: Recorder, told: list[tuple[Any, ...]]) -> None:
        self._recorder, self._told = recorder, told
        self._above: Sequence[bool] | None = None

    def answered_above(self, rows: NDArray[np.bool_] | None = None) -> None:
        """Say that these rows, by default all, were answered by the tier above."""
        self._above = [True] * len(self._told) if rows is None else rows.tolist()

    def finished(
        self,
        tiers: Sequence[str],
        elapsed_ms: float,
        label: Any = None,
        posterior: Any = None,
        degraded: Any = None,
        reason: str = "",
    ) -> None:
        """Hand the rows to the recorder; label and posterior are those of the answer, from whichever tier."""
        for row, (*told, load) in enumerate(self._told):
            upper_label, upper = UNKNOWN, None
            if self._above is not None and self._above[row]:
                upper_label = UNKNOWN if label is None else int(label[row])
                upper = None if posterior is None else posterior[row]
            why = reason if degraded is not None and degraded[row] else ""
            self._recorder.decided(Decided._make((*told, upper_label, upper, tiers[row], why, elapsed_ms, load)))


class Recorder:
    """Keeps a tier's decisions on disk.

    Parameters
    ----------
    config:
        Where, and how much.
    meta:
        Facts about the tier, the same in every chunk: plain values.
    clock:
        Seconds since the epoch.

    Raises
    ------
    ConfigError
        If the folder cannot be written, another process records there, or pyarrow is missing.
    """

    def __init__(
        self, config: RecordConfig, meta: Mapping[str, object], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._max_bytes = Path(config.folder), int(config.max_mb * 1024 * 1024)
        self._flush_rows, self._format = config.flush_rows, config.format
        self._interval_s, self._max_age_s, self._clock = config.flush_seconds, config.max_age_s, clock
        self._meta = {"schema": SCHEMA, **meta}
        self.lost = 0
        if self._format == "parquet":
            import_pyarrow()
        self._lock = own(self._folder)
        for draft in self._folder.glob("*.part"):
            draft.unlink(missing_ok=True)
        self._sizes = {file: file.stat().st_size for file in chunks(self._folder)}
        last = max((int(file.stem, 16) >> 32 for file in self._sizes), default=0)
        self._next = max(int(clock()) - EPOCH_S, last + 1, 0) << 32  # ids grow, over restarts too
        self._policy: Policy | None = None
        self._later = False
        self._rows: deque[Decided] = deque()
        self._wake, self._stop = threading.Event(), False
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._write_loop, name="escalade-record", daemon=True)
        self._thread.start()

    def decided(self, row: Decided) -> None:
        """Take note of one input that was answered; about 0.2 us, never waits for the disk."""
        rows = self._rows
        waiting = len(rows)
        if not waiting and row.posterior is not None:  # long posteriors fill the memory sooner
            self._flush_rows = max(1, min(self._flush_rows, BUFFER_BYTES // (64 * len(row.posterior))))
        if waiting >= 4 * self._flush_rows:  # the disk does not follow
            self._lose(1, "the disk does not follow")
            return
        rows.append(row)
        if waiting + 1 == self._flush_rows:
            self._wake.set()

    def note_one(self, policy: Policy, score: float, context: Context, action: Action, label: int) -> Note:
        """Take down one row that was decided, before the policy is told of it.

        The propensity of a policy without a memory is worked out later, by the thread that writes; that of
        one with a memory here, which takes about 10 us.
        """
        if policy is not self._policy:
            self._policy = policy
            self._later = not policy.sequential and not any(listens(policy, one) for one in _MEMORY)
        propensity = nan
        if not self._later:
            propensity = float(_propensity(policy, Batch.of_row(score, context), np.array([action], np.int8))[0])
        told = (
            context.time_s,
            score,
            int(action),
            propensity,
            context.uniform,
            context.remaining_ms,
            context.bytes_up,
            context.upstream_ms,
            context.device,
            label,
            context.posterior,
            context.upstream_load,
        )
        return Note(self, [told])

    def note(self, batch: Batch, decided: Decisions, label: NDArray[np.int64] | None) -> Note:
        """Take down the rows of a request that were decided together."""
        columns = (
            batch.time_s,
            batch.score,
            decided.action,
            decided.propensity,
            batch.uniform,
            batch.remaining_ms,
            batch.bytes_up,
            batch.upstream_ms,
            batch.device,
            np.full(len(batch), UNKNOWN) if label is None else label,
        )
        posteriors = [None] * len(batch) if batch.posterior is None else batch.posterior.tolist()
        return Note(
            self,
            list(zip(*(column.tolist() for column in columns), posteriors, batch.upstream_load.tolist(), strict=True)),
        )

    def flush(self) -> None:
        """Write what is buffered; returns when it is on disk."""
        with self._writing:
            while self._rows:
                rows = [self._rows.popleft() for _ in range(min(len(self._rows), self._flush_rows))]
                first, self._next = self._next, self._next + len(rows)
                try:
                    self._write(first, rows)
                except OSError as error:
                    self._lose(len(rows), error.strerror or str(error))

    def close(self) -> None:
        """Write what is buffered and let the folder go."""
        self._stop = True
        self._wake.set()
        self._thread.join()
        self.flush()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_loop(self) -> None:
        while not self._stop:
            if self._max_age_s is not None:
                drop_old(self._sizes, self._clock() - self._max_age_s)
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self.flush()

    def _write(self, first: int, rows: list[Decided]) -> None:
        file = self._folder / f"{first:016x}.{self._format}"
        draft = file.with_name(f"{file.name}.part")
        table = columns(rows, first)
        self._fill_propensity(table)
        meta = json.dumps(self._meta | {"rows": len(rows)})
        try:
            with draft.open("wb") as stream:
                if self._format == "parquet":
                    _write_parquet(stream, table, meta)
                else:
                    np.savez_compressed(stream, allow_pickle=False, meta=np.array(meta), **table)
                stream.flush()
                os.fsync(stream.fileno())
            size = draft.stat().st_size
            while self._sizes and sum(self._sizes.values()) + size > self._max_bytes:
                oldest = min(self._sizes)
                oldest.unlink(missing_ok=True)
                del self._sizes[oldest]
            draft.replace(file)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self._sizes[file] = size

    def _fill_propensity(self, table: dict[str, NDArray[Any]]) -> None:
        """Work out the propensities that were left for later."""
        missing = np.isnan(table["propensity"])
        if self._policy is None or not missing.any():
            return
        wide = table["posterior"][missing]
        batch = Batch.of(
            table["score"][missing],
            wide if wide.shape[1] else None,
            **{name: table[name][missing] for name in _CONTEXT},
        )
        table["propensity"][missing] = _propensity(self._policy, batch, table["action"][missing])

    def _lose(self, count: int, reason: str) -> None:
        before, self.lost = self.lost, self.lost + count
        if before.bit_length() != self.lost.bit_length():
            log.error("decisions were not recorded", lost=self.lost, folder=str(self._folder), reason=reason)


def _propensity(policy: Policy, batch: Batch, action: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return how probable the actions were; 1 where the tier overruled a policy that failed."""
    try:
        decided = policy.decide(batch)
        return np.where(decided.action == action, decided.propensity, 1.0)
    except Exception:  # noqa: BLE001  # the tier has counted it
        return np.ones(len(batch))


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


def read_chunk(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a chunk's columns and its meta; OSError or ValueError for a file that is none."""
    try:
        if file.suffix == ".parquet":
            table, meta = _read_parquet(file)
        else:
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as archive:
                table = {name: archive[name] for name in archive.files}
            meta = json.loads(str(table.pop("meta")))
    except (OSError, ConfigError):
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


def own(folder: Path) -> int | None:
    """Make the folder, and lock it as long as this process records there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot record in {folder}: {error.strerror}", key="record.folder") from error
    try:
        import fcntl
    except ImportError:  # Windows
        os.close(lock)
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"another process records in {folder}; give each tier a folder of its own", key="record.folder"
        ) from error
    return lock


def import_pyarrow() -> Any:
    """Return pyarrow with its Parquet; ConfigError when it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow: pip install 'escalade[parquet]', or set it to npz", key="record.format"
        ) from error
    return pyarrow


def _write_parquet(stream: Any, table: Mapping[str, NDArray[Any]], meta: str) -> None:
    pyarrow = import_pyarrow()
    wide = {name: pyarrow.array(list(column)) if column.ndim == 2 else column for name, column in table.items()}
    arrow = pyarrow.table(wide).replace_schema_metadata({"escalade": meta})
    pyarrow.parquet.write_table(arrow, stream)


def _read_parquet(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    arrow = import_pyarrow().parquet.read_table(file)
    table: dict[str, NDArray[Any]] = {}
    for name in arrow.column_names:
        values = arrow[name].to_pylist() if name.endswith("posterior") else arrow[name].to_numpy()
        table[name] = np.array(values, DTYPES.get(name, np.float32 if name.endswith("posterior") else np.int64))
    return table, json.loads(arrow.schema.metadata[b"escalade"])
