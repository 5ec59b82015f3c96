"""What learning earns on real data: deferral, thresholds learnt online, drift. `python -m benchmarks.learning`."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.drifting import SEGMENTS, drifting_tiers, guarded
from benchmarks.report import Results, Row
from escalade.policies import UNKNOWN, Batch, Context, Feedback, Trace, softmax
from escalade.policies.hilcb import HILCB
from escalade.policies.hilf import HILF
from escalade.policies.hiln import HILN
from escalade.policies.learned_deferral import LearnedDeferral

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.threshold_learner import ThresholdLearner

    Found = tuple[list[Row], dict[str, Any]]

BEST_SERVICE = 2
"""Microsoft's, in both traces."""

COSTS = (0.1, 0.2, 0.3, 0.5)
DELAY = 500


def main() -> None:
    """Measure everything and write `results/learning.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ESCALADE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    traces = options.data / "traces"
    results = Results({"seeds": options.seeds, "samples": "20,000 online, 10,000 in a segment", "delay": DELAY})
    for name, limit in (("ferplus", 35.0), ("command", 34.0)):
        results.add(*deferral(traces / f"frugalml_{name}.npz", name, limit, options.seeds))
        print(results.text(), flush=True)
    results.add(*online(traces / "fashion.npz", options.seeds))
    print(results.text(), flush=True)
    results.add(*drift(options.data, 2 * options.seeds))
    print(results.text(), flush=True)
    results.write(options.out, "learning", "Learning: deferral, thresholds learnt online, drift")


def one_posterior(confidence: NDArray[np.float32], label: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Spread what the confidence leaves evenly; a confidence of 0 becomes 1/C, so that the label stays the best."""
    best = 1.0 / classes + (1.0 - 1.0 / classes) * confidence.astype(np.float64)
    posterior = np.repeat(((1.0 - best) / (classes - 1))[:, None], classes, axis=1)
    posterior[np.arange(len(label)), label] = best
    return posterior.astype(np.float32)


def service_trace(file: Path) -> Trace:
    """Read the free local model and the best service, with prices relative to that service's."""
    with np.load(file) as data:
        prices = {number: price for number, _, price in json.loads(str(data["meta"]))}
        local = min(number for number in prices if number >= 100)
        labels = data["y"].astype(np.int64)
        answers = [data[f"pred_{number}"].astype(np.int64) for number in (local, BEST_SERVICE)]
        confidence = [data[f"conf_{number}"] for number in (local, BEST_SERVICE)]
    classes = int(max(labels.max(), *(answer.max() for answer in answers))) + 1
    tables = [one_posterior(c, a, classes) for c, a in zip(confidence, answers, strict=True)]
    costs = (prices[local] / prices[BEST_SERVICE], 1.0)
    return Trace.of(tables, labels, predictions=answers, costs=costs, names=("local", "service"))


def deferral(file: Path, name: str, limit: float, seeds: int) -> Found:
    """Fit on one half, judge on the other, both ways, for every seed."""
    trace = service_trace(file)
    plain, learnt, found_cost, found_gain = [], [], [], []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(trace))
        halves = order[: len(trace) // 2], order[len(trace) // 2 :]
        for fitted, judged in (halves, halves[::-1]):
            policy = LearnedDeferral().fit(trace.take(fitted))
            test = trace.take(judged)
            plain.append(price_to_match(test, -trace.score(0)[judged]))
            learnt.append(price_to_match(test, policy.gain(test.posteriors[0])))
            action = policy.decide(Batch.of(test.score(0), test.posteriors[0])).action
            right = np.where(action == 1, test.correct(1), test.correct(0))
            found_gain.append(100 * float(right.mean() - test.correct(1).mean()))
            found_cost.append(100 * (test.costs[0] + float((action == 1).mean())))
    bench, what = f"D {name}", "best service's accuracy at a share of its cost"
    rows = [
        Row(bench, f"plain threshold: {what}", float(np.mean(plain)), "%", detail=spread(plain)),
        Row(bench, f"LearnedDeferral: {what}", float(np.mean(learnt)), "%", limit, detail=spread(learnt)),
        Row(
            bench,
            "LearnedDeferral, cost chosen in the fit: cost",
            float(np.mean(found_cost)),
            "%",
            detail=f"accuracy {np.mean(found_gain):+.2f} points against the best service; {spread(found_cost)}",
        ),
    ]
    return rows, {bench: {"plain": plain, "learnt": learnt, "chosen_cost": found_cost, "chosen_gain": found_gain}}


def price_to_match(test: Trace, urgency: NDArray[Any]) -> float:
    """Return the cost, in %, at which asking the most urgent rows first reaches the service's accuracy."""
    gain = test.correct(1).astype(np.float64) - test.correct(0)
    ordered = gain[np.argsort(-urgency, kind="stable")]
    ahead = np.concatenate([[0.0], ordered.cumsum()]) >= gain.sum()
    return 100 * (test.costs[0] + float(ahead.argmax()) / len(test))


def online(file: Path, seeds: int) -> Found:
    """Learn the threshold of tier 1 against the labels of tier 3, over all 20,000 rows in random order."""
    with np.load(file) as data:
        logits = [np.concatenate([data[f"{t}_cal"], data[f"{t}_test"]]) for t in ("t1", "t3")]
    posterior = softmax(logits[0])
    score, wrong = posterior.max(axis=1), posterior.argmax(axis=1) != logits[1].argmax(axis=1)
    rows: list[Row] = []
    samples: dict[str, Any] = {}
    for kind, limit, full in ((HILF, 1.5, True), (HILCB, 5.0, False), (HILN, None, False)):
        for delay in (0, DELAY):
            excess: dict[float, list[float]] = {}
            speed = []
            for cost in COSTS if not delay else COSTS[1:2]:
                for seed in range(seeds):
                    rng = np.random.default_rng(seed)
                    order = rng.permutation(len(score))
                    best = best_fixed(score[order], wrong[order], cost)
                    paid, observe_us = learn(kind(cost), score[order], wrong[order], rng, full=full, delay=delay)
                    excess.setdefault(cost, []).append(100 * (paid / best - 1))
                    speed.append(observe_us)
            means = {cost: float(np.mean(values)) for cost, values in excess.items()}
            what = f"{kind.__name__}: above the best fixed threshold"
            what += f", feedback out of order, {delay} late" if delay else ""
            for cost, mean in means.items():
                detail = f"worst of {seeds} runs {max(excess[cost]):.2f}"
                rows.append(Row("O", f"{what}, cost {cost}", mean, "%", None if delay else limit, detail=detail))
            if not delay:
                rows.append(Row("O", f"{kind.__name__}: observe, one row", float(np.median(speed)), "us", 25.0))
            samples[f"O {kind.__name__} delay {delay}"] = {str(cost): values for cost, values in excess.items()}
    return rows, samples


def best_fixed(score: NDArray[np.float32], wrong: NDArray[np.bool_], cost: float) -> float:
    """Return the least total cost of any threshold, known afterwards."""
    order = np.argsort(-score, kind="stable")
    total = np.concatenate([[0.0], wrong[order].cumsum()]) + cost * (len(score) - np.arange(len(score) + 1))
    ordered = score[order]
    possible = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])  # rows of one score go together
    return float(total[possible].min())


def learn(
    policy: ThresholdLearner,
    score: NDArray[np.float32],
    wrong: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    full: bool,
    delay: int,
) -> tuple[float, float]:
    """Decide on and learn from one row after the other; return the total cost and the time of `observe`, us a row."""
    paid, spent = 0.0, 0.0
    waiting: list[Feedback] = []
    uniform = rng.random(len(score)).tolist()
    for row, (one, error) in enumerate(zip(score.tolist(), wrong.tolist(), strict=True)):
        batch = Batch.of_row(one, Context(uniform=uniform[row]))
        decided = policy.decide(batch)
        asked = int(decided.action[0])
        paid += policy.cost if asked else error
        known = asked or full
        waiting.append(
            Feedback.of(
                batch.score,
                local=int(error),
                action=decided.action,
                propensity=decided.propensity,
                upper=0 if known else UNKNOWN,
                hops=int(known),
            )
        )
        if len(waiting) > delay:
            feedback = waiting.pop(int(rng.integers(len(waiting))) if delay else 0)
            start = time.perf_counter()
            policy.observe(feedback)
            spent += time.perf_counter() - start
    return paid, spent / len(score) * 1e6


def drift(folder: Path, seeds: int) -> Found:
    """Guard a threshold of 0.9 over four segments, for every pair of tiers and for all three."""
    tiers = drifting_tiers(folder)
    rows: list[Row] = []
    samples: dict[str, Any] = {}
    for chain in ((0, 2), (0, 1), (1, 2), (0, 1, 2)):
        regret = [guarded(tiers, chain, seed) for seed in range(seeds)]
        plain = [guarded(tiers, chain, seed, guard=False) for seed in range(seeds)]
        name = " to ".join(str(tier + 1) for tier in chain)
        for at, segment in enumerate(SEGMENTS):
            values, bare = [run[at] for run in regret], [run[at] for run in plain]
            accuracy = " / ".join(f"{100 * tiers.accuracy(segment, tier):.1f}" for tier in chain)
            detail = f"worst run {max(values):.2f}; unguarded {np.mean(bare):.2f}; tiers right {accuracy} %"
            what = f"tiers {name}, {segment}: below the best constant choice"
            rows.append(Row("G", what, float(np.mean(values)), "points", 1.5, detail=detail))
            samples[f"G {name} {segment}"] = {"guarded": values, "unguarded": bare}
    return rows, samples


def spread(values: list[float]) -> str:
    """Return the range of the runs."""
    return f"{min(values):.1f} to {max(values):.1f} over {len(values)} halves"


if __name__ == "__main__":
    main()
