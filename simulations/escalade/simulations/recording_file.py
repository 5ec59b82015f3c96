"""What a tier has recorded, read back: `read_recording`, `merge`, for policies to be fitted to and judged by.

A recording is the folder that a tier's ``record:`` block names, or the one file that `merge` makes of it. That file
is a trace file at the same time (`trace_file`), of those rows of which the truth and both tiers' answers are known.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import UNKNOWN, Action, Batch, TraceError
from escalade.simulations.off_policy import Logged
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.record_chunk import SCHEMA, check_columns, chunks, read_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.tiers.outbox.sealing import Seal

PREFIX = "rec_"
"""Of a recording's columns, in a merged file."""

NEEDED = ("id", "time_s", "score", "action", "propensity", "label", "upper_label", "posterior", "upper_posterior")


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """What a tier decided, in the order of its decisions.

    Attributes
    ----------
    columns
        As `escalade.tiers.record` writes them, one row an input, and ``truth``, int64, -1 where unknown.
    meta
        Facts about the tier.
    path
        Where it came from.
    broken
        Chunks that could not be read, left out.
    """

    columns: dict[str, NDArray[Any]]
    meta: dict[str, Any]
    path: Path
    broken: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["id"])

    def logged(self) -> Logged:
        """Return what off-policy evaluation takes."""
        column = self.columns
        return Logged(
            Batch.of(
                column["score"],
                column["posterior"] if column["posterior"].shape[1] else None,
                time_s=column["time_s"],
                uniform=column["uniform"],
                remaining_ms=column["remaining_ms"],
                bytes_up=column["bytes_up"],
                upstream_ms=column["upstream_ms"],
                device=column["device"],
                upstream_load=column["upstream_load"],
            ),
            column["action"],
            column["propensity"],
            column["label"].astype(np.int64),
            column["upper_label"].astype(np.int64),
            column["truth"],
        )

    def complete(self) -> NDArray[np.bool_]:
        """Return bool ``[N]``: where truth and both tiers' posteriors are known."""
        column = self.columns
        known: NDArray[np.bool_] = (column["truth"] != UNKNOWN) & (column["upper_label"] != UNKNOWN)
        for name in ("posterior", "upper_posterior"):
            wide = column[name]
            known = known & (np.isfinite(wide).all(axis=1) if wide.shape[1] else np.False_)
        return known


def read_recording(path: str | Path, seal: Seal = UNSEALED) -> Recorded:
    """Read a folder that a tier records to, or a file that `merge` wrote.

    A chunk that is cut short is left out and named in `Recorded.broken`: its neighbours are whole. `seal` opens
    chunks that are encrypted.

    Raises
    ------
    ConfigError
        A chunk is encrypted, and `seal` does not have its key.
    TraceError
        If there is no recording, or what it holds does not fit together; it names file and column.
    """
    place = Path(path)
    if place.is_dir():
        return _from_folder(place, seal)
    try:
        archive = np.load(BytesIO(place.read_bytes()), allow_pickle=False)
        names = list(getattr(archive, "files", ()))
        if f"{PREFIX}id" not in names:
            raise TraceError("file", "holds no recording; name a tier's record folder", file=str(place))
        with archive:
            table = {name.removeprefix(PREFIX): archive[name] for name in names if name.startswith(PREFIX)}
            meta = json.loads(str(archive["meta"]))
        check_columns(table, meta)
    except OSError as error:
        raise TraceError("file", f"cannot be read: {error.strerror or error}", file=str(place)) from error
    except TraceError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise TraceError("file", "is not a whole npz file", file=str(place)) from error
    return _checked(table, meta, place, ())


def with_labels(recorded: Recorded, file: str | Path) -> Recorded:
    """Return the recording with the true labels of a file.

    Parameters
    ----------
    file
        ``.npy`` or text (one label a line, or ``id,label``): one label for each row in order, -1 where unknown; or
        two columns, ids and labels, for some of the rows.

    Raises
    ------
    TraceError
        If it cannot be read, its length fits neither form, or it names an id that is not recorded.
    """
    place = Path(file)
    try:
        if place.suffix == ".npy":
            table = np.load(place, allow_pickle=False)
        else:
            text = place.read_text(encoding="utf-8")
            table = np.loadtxt(StringIO(text), dtype=np.int64, delimiter=",", ndmin=2 if "," in text else 1)
    except OSError as error:
        raise TraceError("labels", f"cannot be read: {error.strerror or error}", file=str(place)) from error
    except (ValueError, EOFError) as error:
        raise TraceError(
            "labels", f"must be whole numbers, one or `id,label` a line: {error}", file=str(place)
        ) from error
    if table.dtype.kind not in "iu":
        raise TraceError("labels", f"must be whole numbers, got {table.dtype}", file=str(place))
    truth = recorded.columns["truth"].copy()
    if table.ndim == 2 and table.shape[1] == 2:
        order = np.argsort(recorded.columns["id"], kind="stable")
        at = np.searchsorted(recorded.columns["id"], table[:, 0], sorter=order)
        where = order[np.minimum(at, len(order) - 1)]
        strange = recorded.columns["id"][where] != table[:, 0]
        if strange.any():
            row = int(strange.argmax())
            raise TraceError("labels", f"id {table[row, 0]} is not in the recording", row=row, file=str(place))
        truth[where] = table[:, 1]
    elif table.shape == (len(recorded),):
        truth = table.astype(np.int64)
    else:
        raise TraceError(
            "labels",
            f"has shape {list(table.shape)}; the recording needs [{len(recorded)}] in order, or [n, 2] of id and label",
            file=str(place),
        )
    classes = recorded.columns["posterior"].shape[1]
    bad = (truth < UNKNOWN) | (truth >= classes)
    if classes and bad.any():
        row = int(bad.argmax())
        raise TraceError("labels", f"{truth[row]} is no class of {classes}", row=row, file=str(place))
    return Recorded(recorded.columns | {"truth": truth}, recorded.meta, recorded.path, recorded.broken)


def trust_upper(recorded: Recorded) -> Recorded:
    """Return the recording with the upper tier's answer in the place of every true label that is not known."""
    truth, upper = recorded.columns["truth"], recorded.columns["upper_label"].astype(np.int64)
    known = np.where(truth == UNKNOWN, upper, truth)
    return Recorded(recorded.columns | {"truth": known}, recorded.meta, recorded.path, recorded.broken)


def merge(recorded: Recorded, out: str | Path, *, test_share: float = 0.5) -> dict[str, int]:
    """Write a recording as one file, and as a trace where truth and both tiers' answers are known.

    Parameters
    ----------
    out
        An ``npz`` file.
    test_share
        Share of the trace's rows, the latest, that become its ``test`` split.

    Returns
    -------
    dict
        Rows: ``rows``, ``cal``, ``test``.

    Raises
    ------
    TraceError
        If the tier's model changed while it recorded.
    """
    if not 0.0 <= test_share <= 1.0:
        raise ValueError(f"test_share must be in [0, 1], got {test_share}")
    models = recorded.meta.get("models", [])
    if len(models) > 1:
        raise TraceError(
            "meta",
            f"the chunks come from {len(models)} models ({', '.join(one[:12] for one in models)}); move the older away",
            file=str(recorded.path),
        )
    column = recorded.columns
    arrays: dict[str, Any] = {f"{PREFIX}{name}": values for name, values in column.items()}
    arrays["meta"] = np.array(json.dumps(recorded.meta))
    complete = np.flatnonzero(recorded.complete())
    first_test = round(len(complete) * (1 - test_share))
    counts = {"rows": len(recorded), "cal": first_test, "test": len(complete) - first_test}
    for split, rows in (("cal", complete[:first_test]), ("test", complete[first_test:])):
        if len(rows):
            arrays[f"y_{split}"] = column["truth"][rows]
            arrays[f"p1_{split}"], arrays[f"p2_{split}"] = column["posterior"][rows], column["upper_posterior"][rows]
            arrays[f"bytes_{split}"], arrays[f"time_s_{split}"] = column["bytes_up"][rows], column["time_s"][rows]
    if len(complete):
        above = Counter(column["answered_by"][complete].tolist()).most_common(1)[0][0]
        below = str(recorded.meta.get("tier", "local"))
        arrays["tiers"] = np.array([below, above if above != below else "upstream"])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    return counts


def summary(recorded: Recorded) -> dict[str, Any]:
    """Return what a recording holds, for people: rows, times, actions, how fair a sample the escalated rows are."""
    column = recorded.columns
    action, n = column["action"], max(len(recorded), 1)
    up = action == Action.ESCALATE
    never = ~up & (column["propensity"] >= 1)
    return {
        "tier": recorded.meta.get("tier", "?"),
        "model": recorded.meta.get("model", "?"),
        "policy": recorded.meta.get("policy", "?"),
        "score": recorded.meta.get("score", "?"),
        "rows": len(recorded),
        "from_s": float(column["time_s"].min(initial=np.inf)),
        "to_s": float(column["time_s"].max(initial=-np.inf)),
        "actions": {one.name.lower(): float((action == one).sum() / n) for one in Action},
        "answered_above": float((column["upper_label"] != UNKNOWN).sum() / n),
        "degraded": {reason: c for reason, c in Counter(column["reason"].tolist()).items() if reason},
        "labelled": float((column["truth"] != UNKNOWN).sum() / n),
        "never_escalated": float(never.sum() / n),
        "least_propensity": float(column["propensity"].min(initial=1.0)),
    }


def _from_folder(folder: Path, seal: Seal) -> Recorded:
    files = chunks(folder)
    if not files:
        raise TraceError("folder", "holds no chunks of a recording", file=str(folder))
    tables: list[dict[str, NDArray[Any]]] = []
    broken: list[str] = []
    meta: dict[str, Any] = {}
    models: dict[str, None] = {}
    for file in files:
        try:
            table, meta = read_chunk(file, seal)
        except (OSError, ValueError):
            broken.append(file.name)
            continue
        tables.append(_of_today(table))
        models[str(meta.get("sha256", ""))] = None
    if not tables:
        raise TraceError("folder", f"holds no chunk that is whole: {', '.join(broken)}", file=str(folder))
    joined = {}
    for name in tables[0]:
        parts = [table[name] for table in tables if name in table]
        if len(parts) != len(tables):
            raise TraceError(name, "is missing in some chunks", file=str(folder))
        if parts[0].ndim == 2:
            classes = max(part.shape[1] for part in parts)
            filled = [np.pad(part, ((0, 0), (0, classes - part.shape[1])), constant_values=np.nan) for part in parts]
            if any(0 < part.shape[1] < classes for part in parts):
                raise TraceError(name, "chunks have different numbers of classes: another model", file=str(folder))
            parts = filled
        joined[name] = np.concatenate(parts)
    return _checked(joined, meta | {"models": list(models)}, folder, tuple(broken))


def _of_today(table: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns of a recording with those that earlier versions did not write."""
    return {"upstream_load": np.zeros(len(table["id"])), **table} if "id" in table else table


def _checked(table: dict[str, NDArray[Any]], meta: dict[str, Any], path: Path, broken: tuple[str, ...]) -> Recorded:
    if meta.get("schema") != SCHEMA:
        raise TraceError("meta", f"has layout {meta.get('schema')!r}, this version reads {SCHEMA}", file=str(path))
    for name in NEEDED:
        if name not in table:
            raise TraceError(name, "is missing in the recording", file=str(path))
        if table[name].dtype.kind not in "biuf":
            raise TraceError(name, f"must be numbers, got {table[name].dtype}", file=str(path))
    rows = len(table["id"])
    for name, values in table.items():
        if len(values) != rows:
            raise TraceError(name, f"has {len(values)} rows, but id has {rows}", file=str(path))
    table = _of_today(table)
    table.setdefault("truth", np.full(rows, UNKNOWN, np.int64))
    bad = ~((table["propensity"] > 0) & (table["propensity"] <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise TraceError("propensity", f"{table['propensity'][row]} is not in (0, 1]", row=row, file=str(path))
    return Recorded(table, meta, path, broken)
