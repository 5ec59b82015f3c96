"""`python -m benchmarks.run`: measure B1 to B4, print the table, write `results/serving.*`."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import uvloop

from benchmarks import chain, edge_node, local_answer
from benchmarks.models import Models
from benchmarks.repeats import Settings
from benchmarks.report import Results, environment
from escalade.tiers.config import LogConfig
from escalade.tiers.logs import configure_logs

RESULTS = Path(__file__).parent / "results"
BENCHES = ("B1", "B2", "B3", "B4")


async def run(benches: list[str], settings: Settings) -> Results:
    """Run the named benchmarks, one after the other."""
    results = Results(asdict(settings))
    with tempfile.TemporaryDirectory(prefix="escalade-bench-") as name:
        folder = Path(name)
        models = Models.build(folder)
        for bench in benches:
            started = time.monotonic()
            print(f"{bench} ...", end="", flush=True)
            if bench == "B1":
                found = await local_answer.measure(models, settings)
            elif bench == "B2":
                found = await edge_node.small_model(models, folder, settings)
            elif bench == "B3":
                found = await edge_node.large_model(models, folder, settings)
            else:
                found = await chain.measure(models, folder, settings)
            results.add(*found)
            print(f" {time.monotonic() - started:.0f} s", flush=True)
    return results


def main() -> None:
    """Read the options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--repeats", type=int, default=Settings.repeats)
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of load in one measurement")
    parser.add_argument("--quick", action="store_true", help="go everywhere in seconds; the figures mean nothing")
    parser.add_argument("--out", type=Path, help=f"where to write; by default {RESULTS.name}/, for a full run only")
    options = parser.parse_args()
    configure_logs(LogConfig(level="warning"))
    settings = Settings.quick() if options.quick else Settings(options.repeats, options.seconds)
    results = uvloop.run(run(options.only, settings))
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    full = not options.quick and options.only == list(BENCHES)
    if out := options.out or (RESULTS if full else None):
        results.write(out, "serving", "Serving")
        print(f"written to {out}/serving.json and {out}/serving.md")


if __name__ == "__main__":
    main()
