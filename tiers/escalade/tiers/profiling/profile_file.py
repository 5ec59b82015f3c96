"""A measured board as the hardware profile that scenarios load: YAML, each value with its source beside it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from escalade.tiers.profiling.timing import SHARES

if TYPE_CHECKING:
    from escalade.tiers.profiling.timing import Timing


@dataclass(frozen=True, slots=True)
class Value:
    """A number and where it comes from; nan when it is not known, `source` then says why."""

    number: float
    source: str


def as_yaml(name: str, about: list[str], timing: Timing, others: dict[str, Value]) -> str:
    """Return the file's text.

    Parameters
    ----------
    name:
        Of the board.
    about:
        Lines for its head: the model, the versions, when.
    others:
        Further keys of a profile by name; one that is not known becomes a comment.
    """
    runs, medians = timing.runs_ms[1], timing.medians_ms
    where = "on the event loop" if timing.inline else "on a worker's thread"
    batches = ", ".join(f"{size}: {ms:.4g} ms" for size, ms in medians.items())
    lines = [f"# {one}" for one in (name, *about)]
    lines += [
        f"# Service time: {len(runs):,} runs of one row after warm-up, {where} of a tier: preprocessing, model, score,",
        "# policy; not gRPC, not waiting. `share` of the runs took at most `ms`.",
        "service:",
        "  kind: quantiles",
        f"  share: [{', '.join(f'{share:.4g}' for share in SHARES)}]",
        f"  ms: [{', '.join(f'{ms:.5g}' for ms in timing.quantiles_ms)}]",
    ]
    more = float("nan") if timing.each_more is None else timing.each_more
    fitted = f"fitted to the medians of batches {batches}"
    known = {"each_more": Value(more, fitted if isfinite(more) else "only one batch size was run")} | others
    for key, value in known.items():
        said = f"{key}: {value.number:.6g}" if isfinite(value.number) else f"# {key}: not known"
        lines.append(f"{said}  # {value.source}" if isfinite(value.number) else f"{said}; {value.source}")
    return "\n".join(lines) + "\n"
