"""Predicted against measured: the simulator beside the real tiers, which run as processes on the loopback.

One run of the real tiers gives the tables: what each tier takes for an answer of its own, and what a hop adds. They and
the models' recorded scores make a scenario; it predicts other loads and other thresholds, which are then run for real.
Nothing of those runs goes into the prediction. Each run goes through the test digits a whole number of times, so that
shares and accuracy have no error from drawing inputs. Each is done twice: what the second differs by from the first is
what the machine itself leaves open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import environment
from escalade.cli.demo import calibrate, data, export, train
from escalade.cli.demo.layout import MODEL_NAME, Member, config_of
from escalade.simulations.fleet import parse_scenario, simulate
from escalade.simulations.fleet.result import Hist
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.strict_json import plain
from escalade.tiers.client import Client
from escalade.tiers.errors import UnavailableError
from escalade.tiers.testing.processes import TierProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.cli.demo.calibrate import Calibration

ENDPOINTS = 2
WARM_UP = 100
QUANTILES = np.concatenate([np.linspace(0, 0.95, 39), [0.97, 0.98, 0.99, 0.995, 1.0]])
SIMULATED_S = 3000.0
FEWEST = {50: 20, 99: 200}
"""Answers that a quantile needs to be compared."""
TARGETS = {"share": 0.01, "accuracy": 0.01, "p50": 0.10, "p99": 0.25}
"""Points of share and of accuracy; relative errors of latency."""


@dataclass(frozen=True, slots=True)
class Case:
    """One load: inputs a second at each endpoint, and the thresholds of endpoint and edge node."""

    name: str
    rate_hz: float
    thresholds: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One row an input: who answered, whether right, and each hop's time in ms, nan where it was not asked."""

    tier: NDArray[np.int64]
    right: NDArray[np.bool_]
    degraded: NDArray[np.bool_]
    hop_ms: NDArray[np.float64]


def figures(run: Measured) -> dict[str, float]:
    """Return what is compared, of a real run."""
    shares = {f"share {name}": float((run.tier == level).mean()) for level, name in enumerate(TIERS)}
    found = {**shares, "accuracy": float(run.right.mean())}
    for level, name in enumerate(TIERS):
        ms = run.hop_ms[(run.tier == level) & ~run.degraded, 0]
        for q in (50, 99):
            found[f"p{q} ms {name}"] = float(np.percentile(ms, q)) if len(ms) >= FEWEST[q] else float("nan")
    return found


async def load(addresses: list[str], digits: Any, case: Case, passes: int, seed: int) -> Measured:
    """Send Poisson streams of test digits to the endpoints, without waiting for answers; return what came back."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(digits.labels)) for _ in range(passes)])
    rows: list[tuple[int, bool, bool, list[float]]] = []

    async def ask(client: Client, index: int, count: bool) -> None:
        image = digits.images[index : index + 1]
        try:
            answer = await client.infer(image, model=MODEL_NAME, timeout_s=10.0)
        except UnavailableError:  # a machine that stood still for a second: the connection was given up, not the input
            answer = await client.infer(image, model=MODEL_NAME, timeout_s=10.0)
        assert answer.label is not None
        if count:
            hops = {hop.tier: hop.elapsed_ms for hop in answer.path}
            right = int(answer.label[0]) == int(digits.labels[index])
            times = [hops.get(name, float("nan")) for name in TIERS]
            rows.append((TIERS.index(answer.tier[0]), right, bool(answer.degraded[0]), times))

    async def stream(client: Client, indices: NDArray[np.int64], gaps_s: NDArray[np.float64]) -> None:
        for index in range(WARM_UP):
            await ask(client, index, False)
        begin, waiting = time.monotonic(), []
        for index, at in zip(indices.tolist(), np.cumsum(gaps_s), strict=True):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            waiting.append(asyncio.create_task(ask(client, index, True)))
        await asyncio.gather(*waiting)

    async with asyncio.TaskGroup() as group:
        clients = [Client(address) for address in addresses]
        for number, client in enumerate(clients):
            own = order[number :: len(clients)]
            group.create_task(stream(client, own, rng.exponential(1 / case.rate_hz, len(own))))
    for client in clients:
        await client.close()
    tier, right, degraded, hops = zip(*rows, strict=True)
    return Measured(np.array(tier), np.array(right), np.array(degraded), np.array(hops))


def run_real(folder: Path, calibration: Calibration, digits: Any, case: Case, seconds: float, seed: int) -> Measured:
    """Start the tiers, load them, stop them."""
    with ExitStack() as stack:

        def start(tier: str, above: Member | None) -> Member:
            config = config_of(Member(tier, tier, "127.0.0.1:0", "127.0.0.1:0", folder, above), calibration)
            if above is not None:
                config["policy"] = {"name": "Threshold", "threshold": case.thresholds[TIERS.index(tier)]}
            process = stack.enter_context(TierProcess(config, folder))
            return Member(tier, tier, process.address, "", folder, above)

        node = start("edge_node", start("edge_server", None))
        addresses = [start("endpoint", node).address for _ in range(ENDPOINTS)]
        passes = max(1, round(seconds * case.rate_hz * ENDPOINTS / len(digits.labels)))
        return asyncio.run(load(addresses, digits, case, passes, seed))


def scenario_of(folder: Path, calibration: Calibration, tables: Measured, case: Case) -> Any:
    """Return the scenario: the measured tables, and the case's load and thresholds."""
    own = [tables.hop_ms[tables.tier == level, level] for level in range(3)]
    deeper = [tables.tier >= 1, tables.tier >= 2]
    hops = [tables.hop_ms[deeper[k], k] - tables.hop_ms[deeper[k], k + 1] - np.median(own[k]) for k in range(2)]

    def quantiles(values: NDArray[np.float64]) -> dict[str, Any]:
        ms = np.maximum.accumulate(np.maximum(np.quantile(values, QUANTILES), 0.0))
        return {"kind": "quantiles", "share": QUANTILES.tolist(), "ms": ms.tolist()}

    def one_way(round_trip: NDArray[np.float64]) -> dict[str, Any]:
        """Return a table of which two independent draws make a round trip: half its least time, half its gamma shape.

        Above the least, the round trip is taken to be gamma distributed, with the measured mean and variance.
        """
        low, high = np.quantile(round_trip, [0.01, 0.995])
        excess = np.clip(round_trip, low, high) - low
        scale = excess.var() / excess.mean()
        draws = np.random.default_rng(0).gamma(excess.mean() / scale / 2, scale, 100_000)
        return quantiles(low / 2 + draws)

    policies = [{"name": "Threshold", "threshold": limit} for limit in case.thresholds]
    return parse_scenario(
        {
            "name": case.name,
            "duration_s": SIMULATED_S,
            "scores": {"table": "trace.npz", "temperature": [calibration.temperature[tier] for tier in TIERS]},
            "endpoints": [
                {
                    "name": "endpoint",
                    "count": ENDPOINTS,
                    "service": quantiles(own[0]),
                    "arrivals": {"kind": "poisson", "rate_hz": case.rate_hz},
                    "policy": policies[0],
                    "escalation": {"timeout_ms": 5000},
                }
            ],
            "edge_nodes": {
                "service": quantiles(own[1]),
                "policy": policies[1],
                "escalation": {"timeout_ms": 5000},
            },
            "edge_servers": {"service": quantiles(own[2]), "workers": 1},
            "links": {"access": {"latency": one_way(hops[0])}, "uplink": {"latency": one_way(hops[1])}},
        },
        folder=folder,
    )


def predict(scenario: Any) -> dict[str, float]:
    """Return the figures of a simulated run."""
    result = simulate(scenario, seed=1)
    found = {**{f"share {name}": share for name, share in result.share.items()}, "accuracy": result.accuracy}
    for level, name in enumerate(TIERS):
        ms = result.latency_ms(Hist(level))
        found |= {f"p{q} ms {name}": ms[f"p{q}"] for q in (50, 99)}
    return found


def error(name: str, predicted: float, measured: float) -> tuple[float, bool]:
    """Return the error, in points or relative, and whether it is within the target."""
    kind = name.partition(" ")[0]
    found = predicted - measured if kind in ("share", "accuracy") else predicted / measured - 1
    return found, abs(found) <= TARGETS[kind]


def main() -> None:
    """Measure, predict, run for real, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each real run, about")
    parser.add_argument("--out", type=Path, help="folder for fleet_validation.json and .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits = data.load(0)
        files = export.export(train.train(digits.train, 0), folder / "models", digits.calibration)
        logits = {tier: export.logits(tier, file, digits.calibration.images) for tier, file in files.items()}
        calibration = calibrate.calibrate(logits, digits.calibration.labels)
        arrays: dict[str, Any] = {
            f"t{k + 1}_test": export.logits(tier, files[tier], digits.test.images) for k, tier in enumerate(TIERS)
        }
        np.savez(folder / "trace.npz", y_test=digits.test.labels, **arrays)

        usual = (calibration.threshold["endpoint"], calibration.threshold["edge_node"])
        tables = run_real(folder, calibration, digits.test, Case("tables", 15.0, (0.97, 0.9)), arguments.seconds, 0)
        rows: list[dict[str, Any]] = []
        for case in (
            Case("the demo's thresholds", 15.0, usual),
            Case("three times the load", 45.0, usual),
            Case("lower thresholds", 15.0, (0.7, 0.4)),
            Case("everything to the top", 15.0, (1.0, 1.0)),
        ):
            predicted = predict(scenario_of(folder, calibration, tables, case))
            real = run_real(folder, calibration, digits.test, case, arguments.seconds, 1)
            measured = figures(real)
            again = figures(run_real(folder, calibration, digits.test, case, arguments.seconds, 2))
            for what, value in predicted.items():
                if not np.isfinite(measured[what] + again[what]):
                    continue  # too few
                found, within = error(what, value, measured[what])
                noise, _ = error(what, again[what], measured[what])
                rows.append(
                    {
                        "case": case.name,
                        "inputs": len(real.tier),
                        "degraded": int(real.degraded.sum()),
                        "what": what,
                        "predicted": value,
                        "measured": measured[what],
                        "error": found,
                        "within": within,
                        "measured_again": again[what],
                        "noise": noise,
                    }
                )
            print(table([row for row in rows if row["case"] == case.name]), flush=True)
    if arguments.out:
        settings = {"seconds": arguments.seconds, "endpoints": ENDPOINTS, "targets": TARGETS}
        results = {"environment": environment(), "settings": settings, "rows": rows}
        (arguments.out / "fleet_validation.json").write_text(json.dumps(plain(results), indent=1) + "\n")
        machine = ", ".join(f"{key} {value}" for key, value in environment().items())
        text = f"# Predicted against measured\n\n{machine}\n\n{table(rows)}\n"
        (arguments.out / "fleet_validation.md").write_text(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    heads = ["case", "inputs", "", "predicted", "measured", "error", "the same run again", ""]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        points = row["what"].startswith(("share", "accuracy"))
        shown = [f"{100 * row[key]:.2f} %" if points else f"{row[key]:.3f}" for key in ("predicted", "measured")]
        shown += [
            f"{100 * row[key]:+.2f} points" if points else f"{100 * row[key]:+.1f} %" for key in ("error", "noise")
        ]
        verdict = "" if row["within"] else "MISS"
        lines.append(f"| {row['case']} | {row['inputs']} | {row['what']} | {' | '.join(shown)} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
