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
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import structlog

from escalade.policies import Batch
from escalade.policies.combinator import listens
from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.private import opener
from escalade.tiers.record_chunk import SCHEMA, UNKNOWN, Decided, chunk_bytes, chunks, columns, import_pyarrow
from escalade.tiers.record_retention import drop_old

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Action, Context, Decisions, Policy
    from escalade.tiers.config import RecordConfig
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)

BUFFER_BYTES = 16 * 1024 * 1024
"""About how much the buffer may take before it is written, whatever `RecordConfig.flush_rows`."""

EPOCH_S = 1_577_836_800
"""Ids count from 2020 on: seconds in the upper half, rows in the lower."""

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
    seal:
        Encrypts the chunks.
    clock:
        Seconds since the epoch.

    Raises
    ------
    ConfigError
        If the folder cannot be written, another process records there, or pyarrow is missing.
    """

    def __init__(
        self,
        config: RecordConfig,
        meta: Mapping[str, object],
        *,
        seal: Seal = UNSEALED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._max_bytes = Path(config.folder), int(config.max_mb * 1024 * 1024)
        self._flush_rows, self._format = config.flush_rows, config.format
        self._interval_s, self._max_age_s, self._clock = config.flush_seconds, config.max_age_s, clock
        self._meta, self._seal = {"schema": SCHEMA, **meta}, seal
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

    def forget(self) -> int:
        """Delete all that is recorded, what is buffered too; return how many chunks there were.

        Raises
        ------
        OSError
            The folder refuses; to be called again.
        """
        with self._writing:
            self._rows.clear()
            files = chunks(self._folder)
            for file in files:
                file.unlink(missing_ok=True)
                self._sizes.pop(file, None)
            return len(files)

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
        content = chunk_bytes(file, table, json.dumps(self._meta | {"rows": len(rows)}), self._seal)
        try:
            with open(draft, "wb", opener=opener) as stream:
                stream.write(content)
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
