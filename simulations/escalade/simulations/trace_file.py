"""Trace files: what every tier said of labelled inputs, from an ``npz`` file to a checked `Trace`.

The arrays, for the splits ``cal`` (policies are fitted to it) and ``test`` (they are judged on it)::

    y_cal               [N]       true classes, whole numbers
    t1_cal, t2_cal ..   [N, C]    logits or log-probabilities of tier 1, 2 .., lowest first; or instead
    p1_cal, p2_cal ..   [N, C]    their posteriors

and, where they are known, what an escalation takes::

    bytes_cal           [N] or [N, hops]   bytes that an input sends up, at every hop or at each
    time_s_cal          [N]       when the inputs arrived, seconds
    hop_bytes           [hops]    bytes that any input sends at each hop
    latency_ms          [tiers]   time that asking a tier takes, the way there included
    energy_mj           [tiers]   energy that asking a tier takes
    costs               [tiers]   price of reaching a tier, in any one unit
    tiers               [tiers]   their names

Everything is checked when it is read; an error names file, array and row. Nothing is clipped or left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from escalade.policies import Trace, TraceError, softmax

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Split = Literal["cal", "test"]

LOG_SUM_TOLERANCE = 5e-3
"""Values whose log-sum-exp is this close to 0 in every row are log-probabilities: float16 rounding."""


def load_trace(
    path: str | Path,
    split: Split = "test",
    *,
    costs: Sequence[float] | None = None,
    temperature: float | Sequence[float] = 1.0,
    tiers: int | None = None,
) -> Trace:
    """Read one split of a trace file; see `TraceFile.split`.

    Raises
    ------
    TraceError
        For the first thing wrong.
    """
    return TraceFile.open(path).split(split, costs=costs, temperature=temperature, tiers=tiers)


@dataclass(frozen=True, slots=True, eq=False)
class TraceFile:
    """The arrays of one trace file, read whole; checked when a split is taken.

    Attributes
    ----------
    path
        Where it came from, for errors.
    arrays
        By name, as the module's text lists them.
    """

    path: Path
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def open(cls, path: str | Path) -> TraceFile:
        """Read a file.

        Raises
        ------
        TraceError
            If it cannot be read, is no ``npz`` file, or is cut short.
        """
        file = Path(path)
        if file.is_dir():
            raise TraceError("file", "is a folder; make a trace of it with `escalade record merge`", file=str(file))
        try:
            archive = np.load(BytesIO(file.read_bytes()), allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise TraceError("file", "holds a single array; save a trace with numpy.savez", file=str(file))
            with archive:
                arrays = {name: archive[name] for name in archive.files}
        except TraceError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError("file", f"cannot be read: {reason}", file=str(file)) from error
        except Exception as error:  # a damaged archive fails in a dozen ways
            raise TraceError("file", "is not a whole npz file (numpy.savez writes one)", file=str(file)) from error
        return cls(file, arrays)

    def split(
        self,
        split: Split = "test",
        *,
        costs: Sequence[float] | None = None,
        temperature: float | Sequence[float] = 1.0,
        tiers: int | None = None,
    ) -> Trace:
        """Return one split as a checked trace.

        Parameters
        ----------
        split
            ``cal`` or ``test``.
        costs
            Price of reaching each tier; by default the file's ``costs``, else as in `Trace`.
        temperature
            Divides the logits, one for all tiers or one for each; posteriors refuse any but 1.
        tiers
            Use only so many of the tiers, the lowest; by default all.

        Raises
        ------
        TraceError
            For the first thing wrong; it names file, array and row.
        """
        try:
            return self._split(split, costs, temperature, tiers)
        except TraceError as error:
            raise error.named(file=str(self.path)) from error

    def hop_bytes(self, split: Split, hops: int, rows: int) -> NDArray[np.float64] | None:
        """Return float64 ``[N, hops]``, the bytes that each input sends at each hop; None where unknown."""
        name = f"bytes_{split}"
        if name in self.arrays:
            table = self._numbers(name)
            if table.ndim == 1:
                table = np.repeat(table[:, None], hops, axis=1)
            if table.ndim != 2 or len(table) != rows or table.shape[1] not in (hops, self._held() - 1):
                raise self._wrong(name, f"has shape {list(self.arrays[name].shape)}, not [{rows}] or [{rows}, {hops}]")
            return table[:, :hops]
        if "hop_bytes" in self.arrays:
            column = self._column("hop_bytes", hops, self._held() - 1)
            return np.repeat(column[None, :], rows, axis=0)
        return None

    def times_s(self, split: Split, rows: int) -> NDArray[np.float64] | None:
        """Return float64 ``[N]``, when the inputs arrived; None where unknown."""
        name = f"time_s_{split}"
        if name not in self.arrays:
            return None
        times = self._numbers(name)
        if times.shape != (rows,):
            raise self._wrong(name, f"has shape {list(times.shape)}, but there are {rows} rows")
        return times

    def per_tier(self, name: Literal["latency_ms", "energy_mj", "costs"], tiers: int) -> tuple[float, ...] | None:
        """Return one number a tier; None where the file does not hold it."""
        return tuple(self._column(name, tiers, self._held()).tolist()) if name in self.arrays else None

    def tiers(self, split: Split) -> list[str]:
        """Return the names of the split's tier arrays, lowest tier first.

        Raises
        ------
        TraceError
            If there is none, one is missing between others, or one is there in both forms.
        """
        found: dict[int, str] = {}
        for name in self.arrays:
            match = re.fullmatch(rf"([tp])([1-9]\d*)_{split}", name)
            if match:
                number = int(match[2])
                if number in found:
                    raise TraceError(name, f"stands beside {found[number]}: give logits or posteriors, not both")
                found[number] = name
        if not found:
            there = ", ".join(sorted(self.arrays)) or "nothing"
            raise TraceError(f"t1_{split}", f"is missing, and so is p1_{split}; the file holds {there}")
        for number in range(1, max(found) + 1):
            if number not in found:
                raise TraceError(f"t{number}_{split}", f"is missing, though {found[max(found)]} is there")
        return [found[number] for number in sorted(found)]

    def _split(
        self, split: Split, costs: Sequence[float] | None, temperature: float | Sequence[float], limit: int | None
    ) -> Trace:
        names = self.tiers(split)
        if limit is not None:
            if limit > len(names):
                raise TraceError(names[-1], f"is the highest tier; {limit} tiers were asked for")
            names = names[:limit]
        label_name = f"y_{split}"
        if label_name not in self.arrays:
            raise TraceError(label_name, "is missing: the true classes are needed (`escalade record merge --labels`)")
        labels = self.arrays[label_name]
        rows = len(labels) if labels.ndim == 1 else -1
        if rows == 0:
            raise TraceError(label_name, "has no rows")
        scale = [float(temperature)] * len(names) if isinstance(temperature, (int, float)) else list(temperature)
        if len(scale) != len(names):
            raise TraceError("temperature", f"there are {len(scale)} for {len(names)} tiers")
        posteriors, logits = [], []
        for name, t in zip(names, scale, strict=True):
            table = self.arrays[name]
            if rows >= 0 and table.ndim == 2 and len(table) != rows:
                raise TraceError(name, f"has {len(table)} rows, but {label_name} has {rows}")
            posterior, raw = _table(name, table, t)
            posteriors.append(posterior)
            logits.append(raw)
        prices = tuple(costs) if costs is not None else self.per_tier("costs", len(names))
        tier_names = self.arrays.get("tiers")
        try:
            trace = Trace.of(
                posteriors,
                labels,
                logits=[raw for raw in logits if raw is not None] if all(raw is not None for raw in logits) else None,
                costs=prices,
                names=None if tier_names is None else [str(name) for name in tier_names[: len(names)]],
            )
        except TraceError as error:
            raise error.named(_reader_name(error.array, names, label_name)) from error
        if split == "cal" and trace.labels.min() == trace.labels.max():
            raise TraceError(label_name, f"holds only class {trace.labels[0]}: nothing can be fitted to one class")
        return trace

    def _numbers(self, name: str) -> NDArray[np.float64]:
        array = self.arrays[name]
        if array.dtype.kind not in "fiu":
            raise self._wrong(name, f"must be numbers, got {array.dtype}")
        table: NDArray[np.float64] = array.astype(np.float64)
        bad = ~np.isfinite(table).all(axis=tuple(range(1, table.ndim)))
        if bad.any():
            raise self._wrong(name, "holds a value that is no finite number", row=int(bad.argmax()))
        if not name.startswith("time_s") and (table < 0).any():
            raise self._wrong(
                name, "holds a negative value", row=int((table < 0).reshape(len(table), -1).any(1).argmax())
            )
        return table

    def _held(self) -> int:
        """Return how many tiers the file holds, of which fewer may be wanted."""
        numbers = [re.match(r"[tp](\d+)_(?:cal|test)$", name) for name in self.arrays]
        return max((int(number[1]) for number in numbers if number), default=0)

    def _column(self, name: str, length: int, held: int) -> NDArray[np.float64]:
        column = self._numbers(name)
        if column.ndim != 1 or len(column) not in (length, held) or len(column) < length:
            raise self._wrong(name, f"has shape {list(column.shape)}, but {length} values are needed")
        return column[:length]

    def _wrong(self, array: str, message: str, row: int | None = None) -> TraceError:
        return TraceError(array, message, row=row, file=str(self.path))


def _table(name: str, values: NDArray[Any], temperature: float) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Return a tier's posteriors, and its logits where it gives any."""
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise TraceError(
            name, f"must be numbers of shape [N, C] with N, C >= 1, got {values.dtype} {list(values.shape)}"
        )
    if name.startswith("p"):
        if temperature != 1.0:
            raise TraceError(name, f"holds posteriors; a temperature of {temperature:g} needs logits")
        return values, None
    logits: NDArray[np.float32] = values.astype(np.float32)
    top = logits.max(axis=1)
    bad = ~np.isfinite(top)  # nan, +inf, or nothing but -inf
    if bad.any():
        raise TraceError(name, "holds a value that is no finite number", row=int(bad.argmax()))
    wide = logits.astype(np.float64)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    probabilities = bool((np.abs(log_sum) <= LOG_SUM_TOLERANCE).all())
    return softmax(values, temperature), None if probabilities else logits


def _reader_name(array: str, tiers: list[str], labels: str) -> str:
    """Return what the file calls what `Trace.of` calls `array`."""
    match = re.fullmatch(r"(posteriors|logits|predictions)\[(\d+)\]", array)
    if match:
        return tiers[int(match[2])]
    return {"labels": labels, "names": "tiers"}.get(array, array)
