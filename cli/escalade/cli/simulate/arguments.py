"""The grammar of `escalade simulate`; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from escalade.cli.policy.arguments import numbers, positive, share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

BACKENDS = ("threads", "serial", "ray")
MODEL_MS = "what endpoint, node and server are made to take for an input, as slower boards; 0: as fast as they are"
DELAY_MS = "one way of the access link and of the uplink"
MOST_SEEDS = 10_000
SEEDS_END = 2**63
FINDABLE = ("endpoints", "server-workers", "edge-workers")


def seeds(text: str) -> tuple[int, ...]:
    """Read ``0,1,2`` or ``0-9``."""
    first, dash, last = text.partition("-")
    try:
        found: Sequence[int] = range(int(first), int(last) + 1) if dash else [int(one) for one in text.split(",")]
    except ValueError:
        found = []
    if dash and found and found[-1] - found[0] >= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} are more than {MOST_SEEDS:,} seeds")
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= SEEDS_END:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds such as 0,1,2 or 0-9")
    return tuple(found)


def seed(text: str) -> int:
    """Read a whole number from 0 to 2 ** 63 - 1."""
    if not text.isdecimal() or int(text) >= SEEDS_END:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2 ** 63 - 1")
    return int(text)


def count(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def add_simulate(commands: Any) -> None:
    """Add `simulate` and its actions."""
    simulate = commands.add_parser("simulate", help="simulate a fleet that a scenario describes")
    actions = simulate.add_subparsers(dest="action", required=True, metavar="ACTION")

    run = actions.add_parser("run", help="run a scenario; write figures, time series and a page that opens offline")
    _scenario(run)
    run.add_argument("--seed", type=seed, metavar="N", help="default: the scenario's")
    run.add_argument("--replications", type=count, default=1, metavar="R", help="runs with seeds N, N+1, ..: intervals")
    _backend(run)
    _out(run)

    sweep = actions.add_parser("sweep", help="run a grid over any keys, with paired seeds and the Pareto front")
    _scenario(sweep)
    sweep.add_argument(
        "--grid", nargs="+", action="extend", required=True, metavar="KEY=V1,V2", help="every combination is run"
    )
    _seeds(sweep)
    _backend(sweep)
    _out(sweep)

    compare = actions.add_parser("compare", help="two scenarios on the same seeds: paired differences with intervals")
    compare.add_argument("a", metavar="A", help="a scenario's file, or a shipped one's name")
    compare.add_argument("b", metavar="B", help="the other; it may be the same, with --set-b")
    _set(compare)
    compare.add_argument("--set-b", action="append", default=[], metavar="KEY=VALUE", help="of B alone")
    _seeds(compare)
    _backend(compare)
    _out(compare)

    capacity = actions.add_parser(
        "capacity", help="how many endpoints until an objective breaks, or workers to keep it"
    )
    _scenario(capacity)
    capacity.add_argument("--slo-ms", type=positive, required=True, metavar="MS", help="time until the answer")
    capacity.add_argument(
        "--slo-share",
        type=share,
        default=0.99,
        metavar="S",
        help="of answers in time, not degraded; default: %(default)s",
    )
    capacity.add_argument("--find", choices=FINDABLE, default="endpoints", help="default: %(default)s")
    capacity.add_argument("--endpoints", type=count, metavar="N", help="in all: where to begin, or to find workers for")
    capacity.add_argument(
        "--resolution", type=share, default=0.02, metavar="S", help="of the number of endpoints; default: %(default)s"
    )
    capacity.add_argument("--seed", type=seed, metavar="N", help="default: the scenario's")
    _backend(capacity)
    _out(capacity)

    validate = actions.add_parser(
        "validate", help="run real tiers on this machine and compare them with what the simulator predicts"
    )
    validate.add_argument("--seconds", type=positive, default=40.0, metavar="S", help="of each real run, about")
    validate.add_argument("--cases", metavar="C1,C2", help="default: all; an unknown name lists them")
    validate.add_argument(
        "--policy",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="one of your own as a case, by its file's name",
    )
    validate.add_argument("--once", action="store_true", help="do not run every case again to see what a run is worth")
    validate.add_argument(
        "--rate-hz", type=positive, default=25.0, metavar="R", help="inputs a second at each endpoint; default: 25"
    )
    validate.add_argument(
        "--model-ms", type=numbers, default=(9.0, 4.0, 6.0), metavar="E,N,S", help=MODEL_MS + "; default: 9,4,6"
    )
    validate.add_argument(
        "--delay-ms", type=numbers, default=(2.0, 15.0), metavar="A,U", help=DELAY_MS + "; default: 2,15"
    )
    _out(validate)

    actions.add_parser("list", help="the scenarios that ship")


def _scenario(parser: Any) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a file, or the name of one that ships")
    _set(parser)


def _set(parser: Any) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in edge_nodes.count=20"
    )


def _seeds(parser: Any) -> None:
    parser.add_argument("--seeds", type=seeds, default=(0, 1, 2), metavar="N1,N2|N1-N2", help="default: 0,1,2")


def _backend(parser: Any) -> None:
    parser.add_argument("--backend", choices=BACKENDS, default="threads", help="the result is the same on all")
    parser.add_argument("--workers", type=count, metavar="N", help="threads or Ray workers; default: one a processor")
    parser.add_argument("--ray-address", metavar="A", help="of a Ray cluster; default: a session on this machine alone")


def _out(parser: Any) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files are written")
