"""The whole run: train, fit, start five processes, show the digits, freeze a camera, report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from escalade.cli.demo import data
from escalade.cli.demo.command import guarded
from escalade.cli.demo.fleet import Fleet
from escalade.cli.demo.multi_view import models, report
from escalade.cli.demo.multi_view.layout import RULE_FILE, plan
from escalade.cli.demo.multi_view.stream import stream
from escalade.cli.demo.multi_view.views import CALIBRATION_LOOKS, NAMES, frozen, look
from escalade.cli.demo.run import is_ready

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.cli.demo.interrupts import Interrupts

RESULTS = ("summary.json", "multi-view.png", "aggregator.db", "aggregator.db-wal", "aggregator.db.lock")
TRAIN_LOOKS = 6


def run_multi_view(out: Path, *, seed: int = 0) -> int:
    """Run the demo; write models, YAML files, logs, `summary.json` and `multi-view.png` into `out`.

    Returns
    -------
    int
        As `run_demo`.
    """
    return guarded(out, RESULTS, lambda interrupts: _run(out, seed, interrupts))


def _run(out: Path, seed: int, interrupts: Interrupts) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console, started = Console(highlight=False), time.monotonic()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    digits = data.load(seed)
    training = look(digits.train, seed + 1, TRAIN_LOOKS)
    calibration = look(digits.calibration, seed + 2, CALIBRATION_LOOKS)
    files = models.train(training, out / "models", seed, interrupts.check)
    models.fit_rule(files, calibration, out / RULE_FILE)
    single = (models.posteriors(files, calibration).argmax(axis=2) == calibration.labels[:, None]).mean(axis=0)
    best, second = (int(view) for view in np.argsort(-single)[:2])
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(NAMES, single, strict=True))
    say(f"four views of {len(digits.calibration)} digits, each alone: {shares}")

    test = look(digits.test, seed + 3)
    count, at = len(test.labels), len(test.labels) // 2
    test = frozen(test, best, at)
    server, *nodes = plan(out)
    with Fleet(out / "logs", interrupts) as fleet:
        fleet.start([server], is_ready)
        fleet.start(nodes, is_ready)
        say(f"showing {count} others to {len(nodes)} edge nodes; {NAMES[best]}, the best, freezes after {at}")
        bar = Progress(TextColumn("digits"), BarColumn(), console=console, disable=not console.is_terminal)
        with bar:
            task = bar.add_task("", total=count)
            streamed = interrupts.run(stream(server, nodes, test, lambda done: bar.update(task, completed=done)))

    found = report.right(streamed, test.labels, best, second)
    rows = report.accuracies(found, at)
    report.draw(out / "multi-view.png", found, at, NAMES[best])
    interrupts.check()
    seconds = time.monotonic() - started
    report.write(out / "summary.json", rows, streamed, at, seconds)
    say("")
    for line in report.table(rows, at, count):
        say(line)
    say("")
    for line in report.node_lines(streamed.nodes):
        say(line)
    left_out = np.flatnonzero(~streamed.used[at:, best])
    if len(left_out):
        say(f"{NAMES[best]} was left out from its digit {left_out[0] + 1} after the fault on.")
    say(f"{seconds:.0f} s; summary.json, multi-view.png, configurations and logs are in {out}")
