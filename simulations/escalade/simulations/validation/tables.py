"""One run's times as tables, and they as a scenario for any other load and policy: `Tables`, `scenario_of`, `predict`.

The run that they come from has one input under way at a time, so that nothing waits for anything: what a tier takes for
an answer of its own is its service time, and what asking the tier above adds to it is the round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet import Scenario, parse_scenario, simulate
from escalade.simulations.fleet.result import Count, Hist
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.validation.measured import MEAN
from escalade.tiers.errors import SetupError
from escalade.tiers.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.simulations.validation.measured import Case, Measured

QUANTILES = np.concatenate([np.linspace(0, 0.95, 39), np.linspace(0.96, 1.0, 41)])
"""Fine at the end: between two rows times are taken to be spread evenly, and the longest is far from the others."""
SIMULATED = 200_000
"""Inputs of a prediction, about."""
TAIL = 0.995
LEAST = 20
"""Inputs that a table needs."""
TIMEOUT_MS = 5000.0
"""Of an escalation, in the real tiers and in the scenario: longer than anything takes."""
FEEDBACK_S = 1.0
"""A policy that learns is told by the service at once, here so much later at most."""
MAX_BATCH = 8
"""At edge node and server, in the real tiers and in the scenario."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What was measured of tiers and links, ms.

    Attributes
    ----------
    service
        Of each tier, lowest first: float64 ``[N]``, without waiting.
    round_trip
        Of each hop: what asking the tier above took beside that tier's own time, float64 ``[N]``.
    each_more
        Of edge node and server: what a further input of a batch takes.
    uplink_bytes
        Of one input.
    """

    service: tuple[NDArray[np.float64], ...]
    round_trip: tuple[NDArray[np.float64], ...]
    each_more: tuple[float, float]
    uplink_bytes: float

    @classmethod
    def of(cls, run: Measured, each_more: tuple[float, float]) -> Tables:
        """Take the tables out of a run; SetupError when too few inputs reached a tier."""
        asked = run.hop_ms
        fewest = min(int((run.tier == level).sum()) for level in range(3))
        if fewest < LEAST:
            raise SetupError(
                f"only {fewest} inputs of the measuring run were answered by one of the tiers; "
                f"{LEAST} are needed: raise --seconds"
            )
        service = tuple(asked[run.tier == level, level] for level in range(3))
        round_trip = tuple(
            without(asked[run.tier > hop, hop] - asked[run.tier > hop, hop + 1], service[hop]) for hop in range(2)
        )
        return cls(service, round_trip, each_more, run.uplink_bytes)

    def as_data(self) -> dict[str, Any]:
        """Return the tables as quantiles, for a file."""
        return {
            "service_ms": {name: quantiles(one) for name, one in zip(TIERS, self.service, strict=True)},
            "round_trip_ms": dict(zip(("access", "uplink"), map(quantiles, self.round_trip), strict=True)),
            "each_more": dict(zip(TIERS[1:], self.each_more, strict=True)),
            "uplink_bytes": self.uplink_bytes,
        }


def without(both: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return times to which those of an independent `part` add up to `both`, in median and, but for the tails, spread.

    Each tier's own time is drawn by itself, so its spread must not be in the round trip as well: the deviations from
    the median are scaled to what is left of the variance, up to the quantile `TAIL`.

    >>> draw = np.random.default_rng(0)
    >>> part, rest = draw.normal(9.0, 3.0, 10_000), draw.normal(20.0, 4.0, 10_000)
    >>> found = without(part + rest, draw.permutation(part))
    >>> print(round(np.median(found)), round(found.std(), 1))
    20 3.9
    """
    spread = [float(np.minimum(one, np.quantile(one, TAIL)).var()) for one in (both, part)]
    share = float(np.sqrt(max(0.0, 1.0 - spread[1] / spread[0]))) if spread[0] else 1.0
    middle = float(np.median(both))
    return (middle - float(np.median(part))) + share * (both - middle)


def quantiles(ms: NDArray[np.float64]) -> dict[str, Any]:
    """Return a distribution as a scenario writes it."""
    values = np.maximum(np.quantile(ms, QUANTILES), 0.0)
    return {"kind": "quantiles", "share": QUANTILES.tolist(), "ms": values.tolist()}


def scenario_of(
    tables: Tables,
    case: Case,
    *,
    trace: str,
    folder: Path,
    temperature: Sequence[float],
    endpoints: int,
    uplink_kbit_s: float,
    simulated: int = SIMULATED,
) -> Scenario:
    """Return the scenario of a case.

    A round trip is one table: half of its least time is the way of the answer, always the same, and the rest goes to
    the way up. Two tables drawn apart would lose that a slow round trip is slow both ways.

    Parameters
    ----------
    trace, folder, temperature
        What the models say of the inputs, by file; what its logits are divided by.
    uplink_kbit_s
        Of the line from the edge node; an input's own transmission is taken out of the round trip.
    simulated
        Inputs of the prediction, about.
    """
    batching = [{"max_batch": MAX_BATCH, "each_more": one} for one in tables.each_more]
    escalation = {"timeout_ms": TIMEOUT_MS}
    transmission_ms = tables.uplink_bytes * 8 / uplink_kbit_s

    def link(round_trip: NDArray[np.float64], own_ms: float) -> dict[str, Any]:
        down_ms = max(0.0, float(np.quantile(round_trip, 0.01)) - own_ms) / 2
        return {
            "latency": quantiles(round_trip - own_ms - down_ms),
            "latency_down": {"kind": "constant", "ms": down_ms},
        }

    uplink = {**link(tables.round_trip[1], transmission_ms), "bandwidth_kbit_s": uplink_kbit_s}
    return parse_scenario(
        {
            "name": case.title,
            "duration_s": simulated / (case.rate_hz * endpoints),
            "scores": {"table": trace, "temperature": list(temperature)},
            "endpoints": [
                {
                    "name": "endpoint",
                    "count": endpoints,
                    "service": quantiles(tables.service[0]),
                    "arrivals": {"kind": "poisson", "rate_hz": case.rate_hz},
                    "policy": case.policies[0],
                    "escalation": escalation,
                }
            ],
            "edge_nodes": {
                "service": quantiles(tables.service[1]),
                "policy": case.policies[1],
                "escalation": escalation,
                "batching": batching[0],
                "bytes_up": round(tables.uplink_bytes),
            },
            "edge_servers": {"service": quantiles(tables.service[2]), "workers": 1, "batching": batching[1]},
            "control": {"interval_s": Service.retune_seconds, "feedback_s": FEEDBACK_S},
            "links": {"access": link(tables.round_trip[0], 0.0), "uplink": uplink},
        },
        folder=folder,
    )


def predict(scenario: Scenario, stop: Callable[[], bool] | None = None) -> dict[str, float]:
    """Simulate; return the same figures as `measured.figures`."""
    result = simulate(scenario, seed=1, stop=stop)
    if result.failure is not None:
        raise SetupError(f"{scenario.name}: {result.failure}")
    found = {**{f"share {name}": share for name, share in result.share.items()}, "accuracy": result.accuracy}
    for level, name in enumerate(TIERS):
        ms = result.latency_ms(Hist(level))
        found |= {f"p{q} ms {name}": ms[f"p{q}"] for q in (50, 99)}
    counted = result.stats.count
    total_ns = sum(int(counted[Count.LATENCY_NS_0 + level]) for level in range(3))
    wanted = sum(int(result.stats.hist[level].sum()) for level in range(3))
    return {**found, MEAN: total_ns / max(1, wanted) / 1e6}
