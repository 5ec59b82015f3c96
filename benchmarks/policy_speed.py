"""`python -m benchmarks.policy_speed`: what a decision costs, alone and in an array; writes `results/policies.*`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.report import Results, Row
from escalade.policies import MAX_PROB, Batch, Context, Policy, Trace, softmax
from escalade.policies.loading import load_policy
from escalade.policies.policy import FittedPolicy

RESULTS = Path(__file__).parent / "results"
ROWS, CLASSES, REPEATS = 100_000, 10, 7
INNER = {"name": "Threshold", "threshold": 0.7}
POLICIES: dict[str, tuple[dict[str, object], float | None, float | None]] = {
    # its configuration, the target of decide_one in us, of decide in ns a row
    "Threshold": (INNER, 1.0, 20.0),
    "PerClassThreshold": ({"name": "PerClassThreshold", "thresholds": {3: 0.9}, "default": 0.7}, 1.0, 20.0),
    "TargetThreshold": ({"name": "TargetThreshold", "target": 0.7, "cautious": True}, 1.0, 20.0),
    "RiskControlled": ({"name": "RiskControlled", "alpha": 0.1}, 1.0, 20.0),
    "LearnedDeferral": ({"name": "LearnedDeferral", "cost": 0.2}, None, None),
    "HILF": ({"name": "HILF", "cost": 0.2}, None, None),
    "DeadlineAware": ({"name": "DeadlineAware", "policy": INNER}, None, None),
    "BackPressure": ({"name": "BackPressure", "policy": INNER}, None, None),
    "Explore": ({"name": "Explore", "policy": INNER, "epsilon": 0.1}, None, None),
    "Hysteresis": ({"name": "Hysteresis", "policy": INNER, "margin": 0.1}, None, None),
    "Budgeted": ({"name": "Budgeted", "policy": INNER, "share": 0.2}, None, None),
}


def trace() -> Trace:
    """Make three tiers of rising skill on the same inputs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4000)
    tiers = [softmax(skill * np.eye(CLASSES)[labels] + rng.normal(size=(4000, CLASSES))) for skill in (2.0, 3.0, 5.0)]
    return Trace.of(tiers, labels, costs=(0.01, 0.1, 1.0))


def build(spec: dict[str, object]) -> Policy:
    """Build a policy, fitted where it has to be."""
    policy = load_policy(spec, unfitted=True)
    return policy.fit(trace()) if isinstance(policy, FittedPolicy) else policy


def measure(policy: Policy, batch: Batch) -> tuple[float, float]:
    """Return microseconds of one decision and nanoseconds a row of an array, medians."""
    score, context = 0.8, Context(remaining_ms=100.0, posterior=[0.8, *[0.2 / (CLASSES - 1)] * (CLASSES - 1)])
    decide_one, ones, many = policy.decide_one, [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(2000):
            decide_one(score, context)
        between = time.perf_counter()
        policy.decide(batch)
        ones.append((between - start) / 2000)
        many.append((time.perf_counter() - between) / len(batch))
    return median(ones) * 1e6, median(many) * 1e9


def main() -> None:
    """Measure every policy, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    rng = np.random.default_rng(1)
    posterior = softmax(rng.normal(size=(ROWS, CLASSES)) * 3)
    batch = Batch.of(MAX_PROB.batch(posterior), posterior, uniform=rng.random(ROWS), remaining_ms=100.0)
    results = Results({"rows": ROWS, "classes": CLASSES, "repeats": REPEATS})
    for name, (spec, one_us, row_ns) in POLICIES.items():
        one, many = measure(build(spec), batch)
        results.rows += [
            Row(name, "decide_one", one, "us", one_us),
            Row(name, f"decide, a row of {ROWS:,}", many, "ns", row_ns),
        ]
    print(results.text())
    results.write(out, "policies", "What a decision costs")


if __name__ == "__main__":
    main()
