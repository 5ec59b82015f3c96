"""Results: rows with their targets, as a table on the terminal, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("grpcio", "onnxruntime", "numpy", "protobuf", "uvloop")


@dataclass(frozen=True)
class Row:
    """One figure. `limit` None: for information; `at_most` tells which side of it passes."""

    bench: str
    what: str
    value: float
    unit: str
    limit: float | None = None
    at_most: bool = True
    detail: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row as the table prints it."""
        sign = "<=" if self.at_most else ">="
        target = "" if self.limit is None else f"{sign} {self.limit:g} {self.unit}"
        verdict = {True: "pass", False: "MISS", None: ""}[self.passed]
        return self.bench, self.what, f"{self.value:.2f} {self.unit}", target, verdict, self.detail


@dataclass
class Results:
    """What one run of the benchmarks found."""

    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    """Each repeat's raw figures, by benchmark and case."""
    notes: dict[str, str] = field(default_factory=dict)
    """What else there is to say: of what, and the text."""

    def add(self, rows: list[Row], samples: dict[str, Any]) -> None:
        """Take in what one benchmark found."""
        self.rows += rows
        self.samples |= samples

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = [
            {
                "bench": row.bench,
                "what": row.what,
                "value": round(row.value, 4),
                "unit": row.unit,
                "target": row.limit,
                "at_most": row.at_most,
                "passed": row.passed,
                "detail": row.detail,
            }
            for row in self.rows
        ]
        return {
            "environment": environment(),
            "settings": self.settings,
            "rows": rows,
            "notes": self.notes,
            "samples": self.samples,
        }

    def write(self, folder: Path, name: str, title: str) -> None:
        """Write `name.json` and `name.md` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        machine = ", ".join(f"{key} {value}" for key, value in environment().items())
        (folder / f"{name}.md").write_text(f"# {title}\n\n{machine}\n\n{self.markdown()}")

    def markdown(self) -> str:
        """Return the rows as a Markdown table, the notes as a list below it."""
        lines = ["| | what | measured | target | | detail |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row.cells)} |" for row in self.rows]
        notes = [f"- {what}: {text}" for what, text in self.notes.items()]
        return "\n".join([*lines, *([""] if notes else []), *notes, ""])

    def text(self) -> str:
        """Return the rows as aligned columns, the notes below them."""
        table = [("", "what", "measured", "target", "", "detail"), *(row.cells for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(5)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[5]]).rstrip()
            for cells in table
        ]
        return "\n".join([*lines, *(f"{what}: {text}" for what, text in self.notes.items())])


def environment() -> dict[str, str]:
    """Return what the figures depend on: processor, interpreter, library versions."""
    return {
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def cpu_name() -> str:
    """Return the processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
