"""`python -m benchmarks.outages`: time to answer while something is broken, against its bound.

Three tiers as processes under the chaos suite's traffic; every kind of fault is done once to everything that it
can be done to. The bound is the endpoint's own model + what it is configured to spend on others + an allowance for
processes that share few cores.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import Results, Row, environment
from escalade.tiers.testing.chaos.report import fault_rows, summary
from escalade.tiers.testing.chaos.run import TAIL_S, run
from escalade.tiers.testing.chaos.schedule import EVERYTHING, over_s, schedule

if TYPE_CHECKING:
    from escalade.tiers.testing.chaos.run import Outcome

RESULTS = Path(__file__).parent / "results"
QUICK = (("freeze", "edge_node"),)


def rows(outcome: Outcome) -> list[Row]:
    """Return a row for each fault during which the endpoint answered: the slowest answer against the bound."""
    found, bound_ms = [], outcome.rules.bound_s * 1e3
    for fault, times, noticed_s, recovered_s in fault_rows(outcome):
        within = any(fault.start_s < other.start_s < fault.stop_s for other in outcome.history.faults)
        if within or not math.isfinite(times.max_ms):  # a cut that is made for another fault; a dead endpoint
            continue
        detail = f"p50 {times.p50_ms:.1f} ms, p99 {times.p99_ms:.1f} ms; {times.degraded} of {times.requests} degraded"
        detail += f"; noticed after {noticed_s:.2f} s" if noticed_s is not None else ""
        detail += f"; back after {recovered_s:.2f} s" if recovered_s is not None else ""
        found.append(Row("outages", f"{fault.kind} {fault.target}", times.max_ms, "ms", bound_ms, detail=detail))
    return found


async def measure(pairs: tuple[tuple[str, str], ...], rate: float) -> tuple[Outcome, dict[str, float]]:
    """Run the faults one after the other."""
    seconds = over_s(schedule(0, math.inf, pairs=pairs)) + TAIL_S
    outcome = await run(seconds=seconds, rate=rate, pairs=pairs)
    return outcome, {"seconds": seconds, "requests_per_s": rate}


def main() -> None:
    """Run everything, print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--quick", action="store_true", help="one fault")
    options = parser.parse_args()
    outcome, settings = asyncio.run(measure(QUICK if options.quick else EVERYTHING, options.rate))
    results = Results(settings)
    results.add(rows(outcome), {})
    results.notes = {"the run": "; ".join(summary(outcome))}
    results.notes |= {kind: f"left out: {why}" for kind, why in outcome.skipped.items()}
    print(", ".join(f"{key} {value}" for key, value in environment().items()), "\n")
    print(results.text())
    results.write(options.out, "outages", "Time to answer in outages")


if __name__ == "__main__":
    main()
