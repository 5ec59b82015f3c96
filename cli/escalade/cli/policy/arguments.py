"""The grammar of `escalade policy` and `escalade record`; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

SCORES = ("max_prob", "margin", "entropy", "energy")
SPLITS = ("cal", "test")


def numbers(text: str) -> tuple[float, ...]:
    """Read ``.01,.10,1.00``: numbers of 0 or more."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as .01,.10,1.00") from None
    if not all(isfinite(value) and value >= 0 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is negative or not finite")
    return values


def share(text: str) -> float:
    """Read a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def positive(text: str) -> float:
    """Read a number above 0; ``inf`` is one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_policy(commands: Any) -> None:
    """Add `policy` and its actions."""
    policy = commands.add_parser("policy", help="fit, certify, judge and explain policies on recorded data")
    actions = policy.add_subparsers(dest="action", required=True, metavar="ACTION")

    fit = actions.add_parser("fit", help="fit a policy to the cal arrays; write DIR/policy.yaml and its state")
    _data(fit)
    _policies(fit, "the policy to fit, a mapping as in a tier's YAML")
    _out(fit, required=True)

    certify = actions.add_parser("certify", help="fit thresholds with a guarantee; exit 1 if the data cannot give it")
    _data(certify)
    _policies(certify, "default: RiskControlled", required=False)
    certify.add_argument("--alpha", type=share, metavar="A", help="accuracy that may be given up, such as 0.02")
    certify.add_argument("--delta", type=share, metavar="D", help="chance that the promise fails, such as 0.1")
    certify.add_argument(
        "--model", type=Path, action="append", default=[], metavar="FILE", help="a tier's model, lowest first"
    )
    _out(certify, required=True)

    evaluate = actions.add_parser("evaluate", help="judge a policy on the test arrays, or on a recording")
    _data(evaluate, required=False)
    _policies(evaluate, "the policy, or a list with one for each tier but the highest")
    _conditions(evaluate)
    evaluate.add_argument("--recording", type=Path, metavar="FOLDER", help="traffic that another policy decided on")
    _config(evaluate)
    evaluate.add_argument("--labels", type=Path, metavar="FILE", help="with --recording: true labels of its rows")
    evaluate.add_argument(
        "--reference", choices=("truth", "upper"), help="with --recording: what is right; default: truth where known"
    )
    _out(evaluate)

    compare = actions.add_parser("compare", help="judge several policies on the same inputs, with paired intervals")
    _data(compare)
    _policies(compare, "repeat it; the others are compared with the first")
    _conditions(compare)
    _out(compare)

    explain = actions.add_parser("explain", help="every number that led to the action on one input")
    _data(explain, required=False)
    explain.add_argument("--split", choices=SPLITS, default="test", help="of the trace; default: %(default)s")
    explain.add_argument("--row", type=int, default=0, metavar="N", help="of the trace or of --input, from 0")
    explain.add_argument("--level", type=int, metavar="L", help="only the tier at this level, 0 the lowest")
    explain.add_argument("--policy", type=Path, metavar="FILE", help="the policy's YAML")
    explain.add_argument("--input", type=Path, metavar="NPY", help="model inputs, with --config")
    explain.add_argument("--config", type=Path, metavar="FILE", help="a tier's YAML: its model, score and policy")
    explain.add_argument("--json", action="store_true", help="print JSON")


def add_record(commands: Any) -> None:
    """Add `record` and its actions."""
    record = commands.add_parser("record", help="look at what a tier has recorded, or make a trace of it")
    actions = record.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what a recording holds")
    show.add_argument("folder", type=Path, metavar="FOLDER")
    _config(show)
    show.add_argument("--rows", type=int, default=0, metavar="N", help="print the last N rows too")
    merge = actions.add_parser("merge", help="one file of all chunks, which `escalade policy` reads")
    merge.add_argument("folder", type=Path, metavar="FOLDER")
    merge.add_argument("--out", type=Path, required=True, metavar="FILE")
    merge.add_argument(
        "--labels", type=Path, metavar="FILE", help="true labels: one a line in order, or id,label; or a .npy of these"
    )
    merge.add_argument(
        "--truth", choices=("labels", "upper"), default="labels", help="upper: the tier above is taken to be right"
    )
    _config(merge)
    merge.add_argument("--test-share", type=share, default=0.5, metavar="S", help="latest rows; default: %(default)s")


def _config(parser: Any) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the tier's YAML, when its recording is encrypted")


def _data(parser: Any, *, required: bool = True) -> None:
    parser.add_argument("--trace", type=Path, required=required, metavar="FILE", help="npz: what each tier said")
    parser.add_argument("--score", choices=SCORES, help="default: the policy's own, else max_prob")
    parser.add_argument("--costs", type=numbers, metavar="C1,C2,..", help="prices of reaching each tier")
    parser.add_argument("--temperature", type=numbers, metavar="T1,..", help="divides the logits; default: 1")
    parser.add_argument("--tiers", type=int, metavar="N", help="use only the N lowest tiers of the trace")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def _policies(parser: Any, text: str, *, required: bool = True) -> None:
    parser.add_argument("--policy", type=Path, nargs="+", action="extend", required=required, metavar="YAML", help=text)


def _conditions(parser: Any) -> None:
    parser.add_argument("--bytes", type=numbers, metavar="B1,..", help="bytes that an input sends at each hop")
    parser.add_argument("--latency-ms", type=numbers, metavar="T1,..", help="time that asking each tier takes")
    parser.add_argument("--energy-mj", type=numbers, metavar="E1,..", help="energy that asking each tier takes")
    parser.add_argument("--deadline-ms", type=positive, default=inf, metavar="MS", help="time an input has")
    parser.add_argument(
        "--rate", type=positive, metavar="R", help="inputs that arrive in a second; default: as recorded, else 1"
    )
    parser.add_argument("--audit", type=share, default=0.0, metavar="S", help="share whose true label is fed back")
    parser.add_argument("--alpha", type=share, metavar="A", help="accuracy that may be given up: a line in the page")
    parser.add_argument("--delta", type=share, default=0.1, metavar="D", help="of the bound in the page")


def _out(parser: Any, *, required: bool = False) -> None:
    parser.add_argument("--out", type=Path, required=required, metavar="DIR", help="where the files are written")
