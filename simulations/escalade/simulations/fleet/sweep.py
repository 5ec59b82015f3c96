"""Many runs of one scenario side by side: grids over its keys, paired seeds, intervals, and the Pareto front."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import nan, prod, sqrt
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Any

import yaml

from escalade.simulations.fleet.summary import metrics
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from escalade.simulations.fleet.scenario import Scenario

GOALS = {"accuracy": 1, "latency_p99_ms": -1, "energy_mj_per_answer": -1, "bytes_up_per_answer": -1}
"""What the front is of; 1: more is better."""

MOST_RUNS = 10_000
"""Of a sweep."""

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval, by Student's t; without one, from a single seed, nan."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate the mean of independent values."""
        mean, n = fmean(values), len(values)
        if n < 2:
            return cls(mean, nan, nan)
        t = T[n - 2] if n - 2 < len(T) else NormalDist().inv_cdf(0.975)
        half = t * stdev(values) / sqrt(n) if all(value == value for value in values) else nan
        return cls(mean, mean - half, mean + half)

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(slots=True)
class Point:
    """One place of a grid.

    Attributes
    ----------
    settings
        Overrides, ``key=value`` each.
    runs
        Figures of each seed, as `metrics` names them.
    hashes
        Of each seed's run.
    failures
        What went wrong, a line each; the figures of such a run are not used.
    """

    settings: tuple[str, ...]
    scenario: Scenario
    runs: dict[int, dict[str, float]] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What to call it in tables: its settings, keys shortened to their last part."""
        parts = [one.partition("=") for one in self.settings]
        return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in parts) or self.scenario.name

    def add(self, seed: int, outcome: Outcome) -> None:
        """Take in one run."""
        if outcome.failure:
            self.failures.append(f"seed {seed}: {outcome.failure}")
        else:
            self.runs[seed], self.hashes[seed] = outcome.figures, outcome.hash

    def estimates(self) -> dict[str, Estimate]:
        """Return each figure's mean over the seeds."""
        names = next(iter(self.runs.values()), {})
        return {name: Estimate.of([run[name] for run in self.runs.values()]) for name in names}


@dataclass(frozen=True, slots=True)
class Job:
    """One run: picklable, for workers elsewhere."""

    point: int
    seed: int
    scenario: Scenario
    backend: str = "threads"
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job gave."""

    figures: dict[str, float]
    hash: str
    failure: str = ""


def run(job: Job, stop: Callable[[], bool] = lambda: False) -> Outcome | None:
    """Do one job; None if it was stopped."""
    from escalade.simulations.fleet.engine import simulate

    result = simulate(job.scenario, seed=job.seed, backend=job.backend, workers=job.workers, stop=stop)
    if result.failure is None and not result.complete:
        return None
    return Outcome(metrics(result), result.hash, "" if result.failure is None else str(result.failure))


def grid(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every combination of ``key=v1,v2,..`` as overrides, the last axis fastest.

    Raises
    ------
    ConfigError
        If one is not of that form or has a value twice, or if there are more than `MOST_RUNS`.

    Examples
    --------
    >>> grid(["a.b=1,2", "c=[x, y]"])
    [('a.b=1', 'c=[x, y]'), ('a.b=2', 'c=[x, y]')]
    """
    choices = []
    for axis in axes:
        key, equals, text = axis.partition("=")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            values = []
        if not (key and equals and values):
            raise ConfigError("write it as key=v1,v2, for example edge_nodes.count=10,20", source=f"--grid {axis}")
        texts = [f"{key}={_text(value)}" for value in values]
        if len(set(texts)) < len(texts):
            twice = next(text for index, text in enumerate(texts) if text in texts[:index])
            raise ConfigError(f"{twice} stands twice; keep one", source=f"--grid {key}")
        choices.append(texts)
    points = prod(map(len, choices))
    if points > MOST_RUNS:
        raise ConfigError(f"{points:,} points are more than {MOST_RUNS:,}; give fewer values", source="--grid")
    return list(product(*choices))


def differences(first: Point, other: Point) -> dict[str, Estimate]:
    """Return the mean of `other` minus `first`, figure by figure, paired by seed: both saw the same arrivals."""
    seeds = [seed for seed in first.runs if seed in other.runs]
    if not seeds:
        return {}
    return {
        name: Estimate.of([other.runs[seed][name] - first.runs[seed][name] for seed in seeds])
        for name in first.runs[seeds[0]]
        if name in other.runs[seeds[0]]  # one of them may have no fused events
    }


def front(points: Sequence[Point]) -> list[bool]:
    """Return whether each point is on the Pareto front of `GOALS`, by its means.

    On it no other is as good in all and better in one.
    """
    places = [
        [sign * one.estimates()[name].mean for name, sign in GOALS.items()] if one.runs else None for one in points
    ]

    def beaten(mine: list[float], other: list[float]) -> bool:
        return all(b >= a for a, b in zip(mine, other, strict=True)) and mine != other

    return [
        mine is not None
        and all(value == value for value in mine)
        and not any(beaten(mine, other) for other in places if other is not None)
        for mine in places
    ]


def as_data(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return points with their estimates, differences from the first, and places on the front, as JSON values."""
    on_front = front(points)
    return [
        {
            "settings": list(one.settings),
            "on_front": on_front[index],
            "seeds": list(one.runs),
            "hashes": one.hashes,
            "failures": one.failures,
            "estimates": {name: _interval(value) for name, value in one.estimates().items()},
            "minus_first": {name: _interval(value) for name, value in differences(points[0], one).items()}
            if index
            else {},
        }
        for index, one in enumerate(points)
    ]


def _interval(value: Estimate) -> dict[str, Any]:
    return {"mean": value.mean, "interval": [value.low, value.high]}


def _text(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...").strip()
