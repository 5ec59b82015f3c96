"""`escalade simulate validate`: what the simulator predicts beside what real tiers on this machine do."""

from __future__ import annotations

import json
import os
import platform
import resource
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.cli.demo import calibrate, data, export, train
from escalade.cli.demo.command import require_extra
from escalade.cli.demo.interrupts import Interrupts
from escalade.cli.policy.inputs import PolicyFile
from escalade.cli.simulate.command import warn, writable
from escalade.cli.simulate.real_tiers import ENDPOINTS, UPLINK_KBIT_S, RealFleet
from escalade.simulations.fleet import check
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.strict_json import plain
from escalade.simulations.validation import report
from escalade.simulations.validation.compare import Outcome, met
from escalade.simulations.validation.measured import Case, figures
from escalade.simulations.validation.tables import Tables, predict, scenario_of
from escalade.tiers.config import LogConfig
from escalade.tiers.config_file import parse_config
from escalade.tiers.errors import EscaladeError, SetupError
from escalade.tiers.logs import configure_logs
from escalade.tiers.profiling.timing import time_model

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from escalade.cli.demo.calibrate import Calibration
    from escalade.simulations.fleet import Scenario

CASES = {
    "thresholds": "the demo's thresholds",
    "lower": "lower thresholds",
    "budget": "a budget of a quarter",
    "top": "everything to the top",
    "thresholds-2x": "the demo's thresholds, twice the load",
    "top-2x": "everything to the top, twice the load",
}
"""That ship, by the name on the command line."""
MEASURING = (0.97, 0.9)
"""Thresholds of the run that the tables are taken from: every tier answers often."""
MEASURING_RUNS = 2
"""How many times as long it takes as another run."""
BATCHES, BATCH_SECONDS = (1, 2, 4, 8), 1.0
QUIET = 0.1
"""Processors that other programs may keep busy before it is said."""


def validate(arguments: argparse.Namespace) -> int:
    """Measure, predict, run for real, compare, write; return 0 when all targets hold, 1 when one is missed.

    Raises
    ------
    SetupError
        For what was given and cannot work, before anything is started.
    """
    require_extra(("onnx", "sklearn"))
    out = writable(arguments.out)
    for option, count in (("model_ms", 3), ("delay_ms", 2)):
        if len(getattr(arguments, option)) != count:
            raise SetupError(f"--{option.replace('_', '-')}: give {count} numbers with commas between")
    configure_logs(LogConfig(level="error"))
    own = [PolicyFile.read(file) for file in arguments.policy]
    for one in own:
        one.load()
        _pair(one)
    _chosen(arguments.cases, own)
    with Interrupts() as interrupts, tempfile.TemporaryDirectory() as name:
        run = _Validation(arguments, own, Path(name), interrupts)
        try:
            outcomes, tables = run.outcomes()
        except SetupError:
            raise
        except EscaladeError as error:
            raise SetupError(f"a real run failed: {error}; is the load too high? lower --rate-hz") from error
        about, found = run.others(), {"settings": run.settings(), "environment": _environment()}
        for line in [about, *report.verdict(outcomes)]:
            print(line)
        if out is not None:
            _write(out, about, outcomes, {**found, "tables": tables.as_data(), "others": about})
            print(f"wrote {out / 'validation'}.json, .md and .html")
    return 0 if met(outcomes) else 1


class _Validation:
    """One run of the command."""

    def __init__(
        self, arguments: argparse.Namespace, own: Sequence[PolicyFile], folder: Path, interrupts: Interrupts
    ) -> None:
        self._arguments, self._own, self._folder, self._interrupts = arguments, own, folder, interrupts
        self._load_before, self._busy_before, self._began = os.getloadavg()[0], _busy_s(), time.monotonic()

    def outcomes(self) -> tuple[list[Outcome], Tables]:
        """Do everything, printing each case as it is done."""
        fleet, calibration = self._prepared()
        cases = _cases(self._arguments, calibration, self._own)
        print(f"{len(cases)} cases; measuring service times and links, one input at a time", flush=True)
        tables = self._measured(fleet)
        scenarios = [self._scenario(tables, case, calibration) for case in cases]
        warn([f"{case.title}: {text}" for case, one in zip(cases, scenarios, strict=True) for text in check(one)])
        print(report.HEAD_LINE)
        found = []
        for case, scenario in zip(cases, scenarios, strict=True):
            found.append(self._outcome(fleet, case, scenario))
            print("\n".join(report.lines(found[-1])), flush=True)
        return found, tables

    def settings(self) -> dict[str, Any]:
        """Return what was asked for."""
        given = self._arguments
        return {
            "seconds": given.seconds,
            "rate_hz": given.rate_hz,
            "endpoints": ENDPOINTS,
            "model_ms": ",".join(f"{one:g}" for one in given.model_ms),
            "delay_ms": ",".join(f"{one:g}" for one in given.delay_ms),
            "uplink_kbit_s": UPLINK_KBIT_S,
        }

    def others(self) -> str:
        """Say how much else ran on this machine since the start."""
        wall_s, cores = time.monotonic() - self._began, os.cpu_count() or 1
        busy = (_busy_s() - self._busy_before) / wall_s
        disturbed = "; that disturbs latencies: repeat it on a quiet machine" if busy > QUIET else ""
        load = f"load average {self._load_before:.2f} at the start, {os.getloadavg()[0]:.2f} at the end"
        if busy != busy:
            return f"{load}, with {cores} processors"
        return f"other programs kept {max(0.0, busy):.2f} of {cores} processors busy ({load}){disturbed}"

    def _prepared(self) -> tuple[RealFleet, Calibration]:
        digits = data.load(0)
        models = train.train(digits.train, 0, self._interrupts.check)
        files = export.export(models, self._folder / "models", digits.calibration)
        self._interrupts.check()
        logits = {tier: export.logits(tier, file, digits.calibration.images) for tier, file in files.items()}
        calibration = calibrate.calibrate(logits, digits.calibration.labels)
        said: dict[str, Any] = {
            f"t{level + 1}_test": export.logits(tier, files[tier], digits.test.images)
            for level, tier in enumerate(TIERS)
        }
        np.savez(self._folder / "trace.npz", y_test=digits.test.labels, **said)
        given = self._arguments
        imports = [one.path.resolve().parent for one in self._own]
        fleet = RealFleet(
            self._folder, calibration, digits.test, given.model_ms, given.delay_ms, imports, self._interrupts.check
        )
        return fleet, calibration

    def _measured(self, fleet: RealFleet) -> Tables:
        each_more = []
        for level in (1, 2):
            config = parse_config({**fleet.config(level, "127.0.0.1:0"), "metrics": None}, base=self._folder)
            timing = self._interrupts.run(time_model(config, BATCHES, min(BATCH_SECONDS, self._arguments.seconds)))
            assert timing.each_more is not None
            each_more.append(timing.each_more)
        low, high = ({"name": "Threshold", "threshold": limit} for limit in MEASURING)
        run = self._interrupts.run(fleet.alone((low, high), MEASURING_RUNS * self._arguments.seconds, 0))
        return Tables.of(run, (each_more[0], each_more[1]))

    def _scenario(self, tables: Tables, case: Case, calibration: Calibration) -> Scenario:
        return scenario_of(
            tables,
            case,
            trace="trace.npz",
            folder=self._folder,
            temperature=[calibration.temperature[tier] for tier in TIERS],
            endpoints=ENDPOINTS,
            uplink_kbit_s=UPLINK_KBIT_S,
        )

    def _outcome(self, fleet: RealFleet, case: Case, scenario: Scenario) -> Outcome:
        predicted = predict(scenario, lambda: self._interrupts.received is not None)
        self._interrupts.check()
        seeds = (1,) if self._arguments.once else (1, 2)
        runs = [
            self._interrupts.run(fleet.loaded(case.policies, case.rate_hz, self._arguments.seconds, seed))
            for seed in seeds
        ]
        again = None if self._arguments.once else figures(runs[1])
        degraded = sum((Counter(one.reasons) for one in runs), Counter[str]())
        return Outcome(case, len(runs[0]), degraded, predicted, figures(runs[0]), again)


def _cases(arguments: argparse.Namespace, calibration: Calibration, own: Sequence[PolicyFile]) -> list[Case]:
    """Return what is run."""
    rate = arguments.rate_hz

    def thresholds(endpoint: float, node: float) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"name": "Threshold", "threshold": endpoint}, {"name": "Threshold", "threshold": node}

    usual = thresholds(calibration.threshold["endpoint"], calibration.threshold["edge_node"])
    up: dict[str, Any] = {"name": "AlwaysEscalate"}
    budgeted = {"name": "Budgeted", "policy": usual[0], "share": 0.25, "burst": 2}
    policies = {
        "thresholds": (1, usual),
        "lower": (1, thresholds(0.7, 0.4)),
        "budget": (1, (budgeted, usual[1])),
        "top": (1, (up, up)),
        "thresholds-2x": (2, usual),
        "top-2x": (2, (up, up)),
    }
    shipped = [Case(key, CASES[key], times * rate, pair) for key, (times, pair) in policies.items()]
    chosen = _chosen(arguments.cases, own)
    mine = [Case(one.path.stem, one.name, rate, _pair(one)) for one in own]
    return [one for one in shipped + mine if one.key in chosen]


def _chosen(names: str | None, own: Sequence[PolicyFile]) -> list[str]:
    """Return the keys of cases that are asked for, default all; SetupError for one that there is not."""
    known = [*CASES, *(one.path.stem for one in own)]
    keys = known if names is None else names.split(",")
    for key in keys:
        if key not in known:
            raise SetupError(f"--cases: there is no {key!r}; there are {', '.join(known)}")
    return keys


def _pair(file: PolicyFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a user's policies of endpoint and edge node, their states' files as absolute paths."""
    given = file.spec if isinstance(file.spec, list) else [file.spec, file.spec]
    if len(given) != 2:
        raise SetupError(
            f"{file.path}: lists {len(given)} policies; give two, of endpoint and edge node, or one for both"
        )
    first, second = (
        {**one, "state": str((file.path.parent / one["state"]).resolve())} if "state" in one else one for one in given
    )
    return first, second


def _busy_s() -> float:
    """Return how long processors were busy with other programs since some time, s; nan where it is not told."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return float("nan")
    user, nice, system, _, _, irq, softirq, steal = (int(one) for one in fields[:8])
    whole_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return whole_s - sum(one.ru_utime + one.ru_stime for one in own)


def _environment() -> dict[str, str]:
    libraries = ("escalade", "grpcio", "onnxruntime", "numpy")
    return {
        "processors": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def _write(out: Path, about: str, outcomes: Sequence[Outcome], found: dict[str, Any]) -> None:
    settings, environment = found["settings"], found["environment"]
    said = [", ".join(f"{key} {value}" for key, value in one.items()) for one in (environment, settings)]
    data = plain(report.as_data(outcomes, **found))
    (out / "validation.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (out / "validation.md").write_text(
        report.markdown([f"{one}  " for one in (*said, about)], outcomes), encoding="utf-8"
    )
    (out / "validation.html").write_text(report.render([*said, about], outcomes, settings), encoding="utf-8")
