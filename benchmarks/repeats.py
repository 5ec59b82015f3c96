"""Interleaved repeats: what is compared runs side by side, and the median repeat counts.

A shared machine's speed swings by tens of percent within minutes; the ratio of two neighbours much less.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from benchmarks.load import Sample

    Cases = Mapping[str, Callable[[], Awaitable[Sample]]]
    Samples = dict[str, list[Sample]]


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    repeats: int = 5
    seconds: float = 1.5
    """Of load in one measurement."""
    calls: int = 3000
    """In one repeat of a measurement in process."""

    @classmethod
    def quick(cls) -> Settings:
        """Return the smallest run that still goes everywhere; its figures mean nothing."""
        return cls(repeats=1, seconds=0.1, calls=50)


async def interleave(cases: Cases, repeats: int) -> Samples:
    """Measure every case `repeats` times, in turn, every other time in the reverse order."""
    samples: Samples = {name: [] for name in cases}
    for name in cases:
        await cases[name]()  # warm-up
    for repeat in range(repeats):
        for name in list(cases) if repeat % 2 == 0 else reversed(list(cases)):
            samples[name].append(await cases[name]())
    return samples


def ratio(samples: Samples, case: str, baseline: str, field: str) -> float:
    """Return the median over the repeats of `case` / `baseline`."""
    pairs = zip(samples[case], samples[baseline], strict=True)
    return median(float(getattr(ours, field) / getattr(theirs, field)) for ours, theirs in pairs)


def middle(samples: Samples, case: str, field: str) -> float:
    """Return the median over the repeats of one figure."""
    return median(float(getattr(sample, field)) for sample in samples[case])


def as_dicts(samples: Samples) -> dict[str, list[dict[str, float]]]:
    """Return every sample as JSON values."""
    return {name: [sample.as_dict() for sample in taken] for name, taken in samples.items()}
