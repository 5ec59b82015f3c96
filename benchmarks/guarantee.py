"""Is the promise kept? `RiskControlled` and the plain empirical threshold over many draws of calibration data.

``python -m benchmarks.guarantee --data DIR`` reads DIR/traces. For each trace with logits and each alpha it
draws calibration sets from the trace's calibration rows, independently and with replacement, as large as
these; fits; and measures what is lost on all of these rows, which are the population of that experiment. Then
the Fashion figure: fitted on the calibration rows, reported on the test rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import Results, Row
from escalade.policies import Batch, FitError, RiskControlled, Trace, softmax
from escalade.policies.bounds import binomial_sf
from escalade.policies.fitting_data import FittingData
from escalade.policies.learn_then_test import Promise, learn_then_test
from escalade.policies.threshold_grid import ThresholdGrid, plain_ladder, rungs_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TRACES = ("digits", "fashion", "fsdd_in", "wallrobot")
ALPHAS = (0.01, 0.02, 0.05)
COSTS = (0.01, 0.10, 1.00)
DELTA = 0.1
LOSSES = ("regret", "net")


@dataclass
class Tally:
    """What became of the draws of one case."""

    violations: int = 0
    refused: int = 0
    cost: float = 0.0
    loss: float = 0.0

    def add(self, loss: float, cost: float, alpha: float) -> None:
        """Take in one fit."""
        self.violations += loss > alpha + 1e-12
        self.cost += cost
        self.loss += loss


def load(folder: Path, name: str, part: str) -> Trace:
    """Return one part of a trace: ``cal`` or ``test``."""
    with np.load(folder / "traces" / f"{name}.npz") as arrays:
        logits = [arrays[f"t{tier}_{part}"] for tier in (1, 2, 3)]
        labels = arrays[f"y_{part}"].astype(np.int64)
    return Trace.of([softmax(table) for table in logits], labels, logits=logits, costs=COSTS)


def outcome(data: FittingData, thresholds: Sequence[NDArray[np.float32]]) -> tuple[float, float, float]:
    """Return regret, net loss and cost of a cascade with these thresholds (by class, or one for all)."""
    here = np.ones(len(data), bool)
    right, cost = np.zeros(len(data), bool), data.costs[0]
    for tier, limit in enumerate(thresholds):
        of_class = limit[data.predicted[tier]] if len(limit) > 1 else limit[0]
        accepted = here & (data.scores[tier] >= of_class)
        right |= accepted & data.correct[tier]
        here &= ~accepted
        cost += data.costs[tier + 1] * float(here.mean())
    right |= here & data.correct[-1]
    top = data.correct[-1]
    return float((top & ~right).mean()), float(top.mean() - right.mean()), cost


def naive(data: FittingData, alphas: Sequence[float], loss: str) -> list[tuple[NDArray[np.float32], ...]]:
    """Return for each alpha the thresholds that are cheapest among those within it on these very rows."""
    rungs = rungs_for(len(data.scores))
    grid = ThresholdGrid(tuple(plain_ladder(score, rungs) for score in data.scores))
    counted = data.losses("net" if loss == "net" else "regret")
    cells = grid.cells(grid.held(data.scores, data.predicted), counted, data.costs)
    lost = (cells.loss[0] - (cells.loss[1] if loss == "net" else 0.0)) / len(data)
    found = []
    for alpha in alphas:
        within = np.flatnonzero(lost <= alpha + 1e-12)
        best = int(within[cells.cost[within].argmin()])
        found.append(tuple(ladder[rung] for ladder, rung in zip(grid.ladders, cells.rungs[:, best], strict=True)))
    return found


def trial(pool: FittingData, classes: int, loss: str, draws: int, progress: str) -> dict[tuple[str, float], Tally]:
    """Fit to `draws` samples of the pool; return a tally for each way and alpha."""
    tallies = {(way, alpha): Tally() for way in ("certified", "naive") for alpha in ALPHAS}
    rng = np.random.default_rng(0)
    for draw in range(draws):
        if sys.stderr.isatty():
            print(f"\r{progress}: draw {draw + 1} of {draws} ", end="", file=sys.stderr, flush=True)
        sample = pool.take(rng.integers(0, len(pool), len(pool)))
        measure = LOSSES.index(loss)
        for alpha, thresholds in zip(ALPHAS, naive(sample, ALPHAS, loss), strict=True):
            seen = outcome(pool, thresholds)
            tallies["naive", alpha].add(seen[measure], seen[2], alpha)
        for alpha in ALPHAS:
            promise = Promise(alpha, DELTA, "net" if loss == "net" else "regret", reserve=0.0, seed=draw)
            try:
                shown = learn_then_test(sample, classes, promise)
            except FitError:
                tallies["certified", alpha].refused += 1
                continue
            seen = outcome(pool, shown.thresholds)
            tallies["certified", alpha].add(seen[measure], seen[2], alpha)
    return tallies


def most_violations(draws: int) -> int:
    """Return how many violations in so many draws a rate of delta still explains, at one in a hundred."""
    return next(count for count in range(draws + 1) if binomial_sf(count + 1, draws, DELTA) <= 0.01)


def kept(folder: Path, draws: int) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows about the promise, and every figure."""
    rows, figures = [], {}
    for name in TRACES:
        trace = load(folder, name, "cal")
        pool = FittingData.of(trace, "max_prob", 0)
        for loss in LOSSES:
            tallies = trial(pool, trace.classes, loss, draws, f"{name}, {loss}")
            for alpha in ALPHAS:
                good, bad = tallies["certified", alpha], tallies["naive", alpha]
                fits = draws - good.refused
                mean = f"cost {good.cost / fits:.3f}, loss {good.loss / fits:.4f}" if fits else "never certified"
                rows.append(
                    Row(
                        loss,
                        f"{name} (n = {len(pool)}), alpha {alpha:g}: broken",
                        100 * good.violations / draws,
                        "%",
                        limit=100 * most_violations(draws) / draws,
                        detail=f"{mean}; not certified {100 * good.refused / draws:.1f} %; naive: broken "
                        f"{100 * bad.violations / draws:.1f} %, cost {bad.cost / draws:.3f}",
                    )
                )
                figures[f"{name}/{loss}/{alpha:g}"] = {"certified": vars(good), "naive": vars(bad), "draws": draws}
    return rows, figures


def fashion(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows about the cost at the guarantee, and every figure."""
    cal, test = load(folder, "fashion", "cal"), load(folder, "fashion", "test")
    ways: dict[str, dict[str, Any]] = {
        "default": {},
        "no reserve": {"reserve": 0.0},
        "net": {"loss": "net"},
        "net, no reserve": {"loss": "net", "reserve": 0.0},
        "margin": {"score": "margin"},
        "one threshold a tier": {"per_class": False},
    }
    rows, figures = [], {}
    for way, options in ways.items():
        policy = RiskControlled(0.02, DELTA, **options).fit(cal)
        cost, accuracy, regret = replay(policy, test)
        figures[way] = {
            "relative_cost": cost,
            "accuracy": accuracy,
            "regret": regret,
            "bound": policy.certificate.bound,
        }
        main = way == "default"
        note = f"on test: lost {100 * regret:.2f} %; certified: at most {100 * policy.certificate.bound:.2f} %"
        rows.append(
            Row("cost", f"Fashion, {way}: relative cost", 100 * cost, "%", limit=11.0 if main else None, detail=note)
        )
        limit = 92.9 if main else None
        rows.append(Row("cost", f"Fashion, {way}: accuracy", 100 * accuracy, "%", limit=limit, at_most=False))
    others = [replay(RiskControlled(0.02, DELTA, seed=seed).fit(cal), test) for seed in range(20)]
    met = sum(cost <= 0.11 and accuracy >= 0.929 for cost, accuracy, _ in others)
    costs, accuracies = np.array([each[0] for each in others]), np.array([each[1] for each in others])
    detail = (
        f"cost {costs.mean():.3f} ({costs.min():.3f} to {costs.max():.3f}), accuracy {100 * accuracies.mean():.2f} % "
        f"({100 * accuracies.min():.2f} to {100 * accuracies.max():.2f})"
    )
    rows.append(Row("cost", "Fashion, 20 seeds of the split: both targets met", float(met), "of 20", detail=detail))
    return rows, {**figures, "seeds": [list(each) for each in others]}


def replay(policy: RiskControlled, trace: Trace) -> tuple[float, float, float]:
    """Return relative cost, accuracy and regret, by the policy's own decisions."""
    here, right, cost = np.ones(len(trace), bool), np.zeros(len(trace), bool), trace.costs[0]
    data = FittingData.of(trace, policy.score, 0)
    for tier, score in enumerate(data.scores):
        accepted = here & (policy.at_tier(tier).decide(Batch.of(score, trace.posteriors[tier])).action == 0)
        right |= accepted & trace.correct(tier)
        here &= ~accepted
        cost += trace.costs[tier + 1] * float(here.mean())
    right |= here & trace.correct(trace.tiers - 1)
    return cost / trace.costs[-1], float(right.mean()), float((trace.correct(trace.tiers - 1) & ~right).mean())


def main() -> int:
    """Run, print, write; 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarantee", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds traces/")
    parser.add_argument("--draws", type=int, default=200, help="calibration sets for each case (200)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the tables")
    options = parser.parse_args()
    start = time.perf_counter()
    results = Results({"draws": options.draws, "delta": DELTA, "alphas": ALPHAS, "costs": COSTS})
    results.add(*kept(options.data, options.draws))
    results.add(*fashion(options.data))
    results.settings["seconds"] = round(time.perf_counter() - start, 1)
    print(results.text())
    results.write(options.out, "guarantee", "The guarantee, and what it costs")
    return 1 if any(row.passed is False for row in results.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
