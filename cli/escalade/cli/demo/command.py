"""The whole run: train, export, calibrate, start, stream three strategies, stop, report."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from escalade.cli.demo import calibrate, data, export, report, train
from escalade.cli.demo.fleet import Fleet
from escalade.cli.demo.interrupts import Interrupts
from escalade.cli.demo.layout import of_tier, plan, write_config
from escalade.cli.demo.picture import draw
from escalade.cli.demo.recording import agreement, record, save
from escalade.cli.demo.run import is_ready
from escalade.cli.demo.strategies import STRATEGIES, measure
from escalade.simulations.replay import replay
from escalade.tiers.errors import EscaladeError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

RESULTS = ("summary.json", "demo.png", "recorded.npz")
"""Removed at the start, so that what is found after a run is of that run."""

EXTRA = {"matplotlib": "matplotlib", "onnx": "onnx", "rich": "rich", "sklearn": "scikit-learn"}


def run_demo(out: Path, *, seed: int = 0) -> int:
    """Run the demo; write models, YAML files, logs, `summary.json`, `recorded.npz` and `demo.png` into `out`.

    Parameters
    ----------
    out:
        Folder for everything that is written; made if missing, files of an earlier run are replaced.
    seed:
        Of the split and of the training.

    Returns
    -------
    int
        0 when all went well; 2, with one line on standard error, when it cannot run (a missing extra, a
        folder that cannot be written, a process that does not start); 1 when a request failed; 128 + n when
        signal n ended it. In every case all processes that it started have ended.
    """
    return guarded(out, RESULTS, lambda interrupts: _run(out, seed, interrupts))


def guarded(out: Path, results: Sequence[str], run: Callable[[Interrupts], None]) -> int:
    """Run a demo into `out`, whose `results` are removed first; return its exit code, as `run_demo` does."""
    try:
        require_extra()
        _require_writable(out, results)
        with Interrupts() as interrupts:
            run(interrupts)
    except KeyboardInterrupt as interrupt:
        print("escalade demo: interrupted; nothing is left running", file=sys.stderr)
        return getattr(interrupt, "exit_code", 130)
    except SetupError as error:
        print(f"escalade demo: {error}", file=sys.stderr)
        return 2
    except (EscaladeError, OSError) as error:
        print(f"escalade demo: {error} (see {out / 'logs'})", file=sys.stderr)
        return 1
    return 0


def _run(out: Path, seed: int, interrupts: Interrupts) -> None:
    from rich.console import Console

    console, started = Console(highlight=False), time.monotonic()

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, markup=False)

    digits = data.load(seed)
    models = train.train(digits.train, seed, interrupts.check)
    files = export.export(models, out / "models", digits.calibration)
    calibration = calibrate.calibrate(
        {tier: export.logits(tier, file, digits.calibration.images) for tier, file in files.items()},
        digits.calibration.labels,
    )
    sizes = ", ".join(f"{_words(tier)} {model.parameters:,}" for tier, model in models.items())
    limits = ", ".join(f"{_words(tier)} {limit:.3f}" for tier, limit in calibration.threshold.items())
    say(f"trained on {len(digits.train)} digits: {sizes} parameters")
    say(f"calibrated on {len(digits.calibration)} others: thresholds {limits}")

    members = plan(out)
    for member in members:
        write_config(member, calibration)
    with Fleet(out / "logs", interrupts) as fleet:
        for tier in ("edge_server", "edge_node"):
            fleet.start(of_tier(members, tier), is_ready)
        say(f"streaming {len(digits.test)} held-out digits through {len(members)} processes")
        measured = {strategy: measure(strategy, fleet, members, digits, console, interrupts) for strategy in STRATEGIES}

    cascade, top = measured["cascade"], measured["always_edge_server"]
    recording = record(files, calibration, digits.test, cascade, top)
    save(out / "recorded.npz", recording, cascade.answers)
    draw(out / "demo.png", recording, calibration, measured)
    same = agreement(replay(recording, calibration.policies()), cascade.answers)
    strategies = {
        name: report.summarise(one.answers, digits.test.labels, one.bytes_up) for name, one in measured.items()
    }
    interrupts.check()
    seconds = time.monotonic() - started
    report.write(out / "summary.json", strategies, processes=len(members), seconds=seconds)
    say("")
    for line in report.table(strategies):
        say(line, style="" if line.startswith(" ") else "bold")
    say("")
    say(report.verdict(strategies))
    say(f"Replay of the same policies gives the same tier and answer for {same} of {len(recording)} digits.")
    for name, one in measured.items():
        if late := int(one.answers.degraded.sum()):
            say(f"note: {late} answers of {name} are degraded: the tier above gave none in time")
    say(f"{seconds:.0f} s; summary.json, demo.png, configurations and logs are in {out}")


def _words(tier: str) -> str:
    return tier.replace("_", " ")


def require_extra(modules: Iterable[str] | None = None) -> None:
    """Raise SetupError, with what to install, unless those modules of the demo's extra are there."""
    missing = [EXTRA[module] for module in modules or EXTRA if importlib.util.find_spec(module) is None]
    if missing:
        raise SetupError(f"needs {', '.join(missing)}; in a checkout, install it with: pip install '.[demo]'")


def _require_writable(out: Path, results: Sequence[str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for result in results:
            (out / result).unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write into {out}: {error.strerror}; name another folder with --out") from error
