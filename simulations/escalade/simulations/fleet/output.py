"""Write what a run gave into a folder: `summary.json`, `series.csv` (and `.parquet`), `report.html`."""

from __future__ import annotations

import csv
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.report import render
from escalade.simulations.fleet.summary import summary, time_series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult

FILES = ("summary.json", "series.csv", "series.parquet", "report.html")


def write(result: FleetResult, folder: Path, extra: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a run into `folder`, which must exist; return the files.

    Parameters
    ----------
    extra
        More for the summary, such as what replications gave.
    """
    series = time_series(result)
    (folder / "summary.json").write_text(
        json.dumps({**summary(result), **(extra or {})}, indent=2) + "\n", encoding="utf-8"
    )
    write_csv(folder / "series.csv", list(series), zip(*series.values(), strict=True))
    (folder / "report.html").write_text(render(result), encoding="utf-8")
    if importlib.util.find_spec("pyarrow"):
        _write_parquet(folder / "series.parquet", series)
    return [folder / name for name in FILES if (folder / name).exists()]


def write_csv(file: Path, heads: Sequence[str], rows: Any) -> None:
    """Write rows under their heads; empty where a number is not known."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(heads)
        writer.writerows([_cell(value) for value in row] for row in rows)


def remove_old(folder: Path) -> None:
    """Remove what an earlier run wrote, so that what is found is of one run."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{value:.9g}"
    return value


def _write_parquet(file: Path, series: Mapping[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(series)), file)
