"""`python -m escalade.tiers.testing.chaos`: run the suite and say what it found."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from escalade.tiers.testing.chaos.mutations import noticed
from escalade.tiers.testing.chaos.page import write
from escalade.tiers.testing.chaos.report import text
from escalade.tiers.testing.chaos.run import SHORT, TAIL_S, run
from escalade.tiers.testing.chaos.schedule import TooShortError, over_s, schedule

MOST_S = 480.0


def main() -> int:
    """Return 0 when every promise was kept, 1 when one was not, or when the checker is blind; 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m escalade.tiers.testing.chaos", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"), help="folder of the report")
    parser.add_argument("--seed", type=int, default=0, help="of faults, inputs and losses")
    parser.add_argument("--seconds", type=float, default=245.0, help="how long requests are sent")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument(
        "--short",
        action="store_true",
        help="a few faults in half a minute, whatever --seconds says, and no test of the checker",
    )
    options = parser.parse_args()
    seconds, pairs = options.seconds, None
    if options.short:
        pairs = SHORT
        seconds = over_s(schedule(options.seed, MOST_S, pairs=SHORT)) + TAIL_S
    if not 0 < seconds <= MOST_S or options.rate <= 0:
        parser.error(f"--seconds must be more than 0 and at most {MOST_S:g}, --rate more than 0")
    try:
        outcome = asyncio.run(run(seed=options.seed, seconds=seconds, rate=options.rate, pairs=pairs))
        if not options.short:
            outcome.mutations = asyncio.run(noticed(seed=options.seed))
    except TooShortError as error:
        parser.error(f"--seconds: {error}")
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130
    except (RuntimeError, OSError, ImportError, ExceptionGroup) as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        print(f"the run broke off: {error or type(error).__name__}; nothing is written", file=sys.stderr)
        return 2
    write(outcome, options.out)
    print(text(outcome))
    print(f"written to {options.out}: chaos.json, chaos.html, history.jsonl")
    return 0 if not outcome.violations and all(outcome.mutations.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
