"""Ray: the same result as in one process, whoever computes it and whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from escalade.cli.main import main
from escalade.simulations.fleet import Scenario, load_scenario, simulate
from escalade.simulations.fleet import ray_backend as backend_module
from escalade.simulations.fleet.protocol import Control, ShardOutput
from escalade.simulations.fleet.ray_backend import RayBackend, RaySession
from escalade.simulations.fleet.sweep import Job, run
from escalade.tiers.errors import SetupError

pytestmark = [pytest.mark.ray, pytest.mark.alone]

POLICY = """
import numpy as np
from escalade.policies import Action, Decisions, Policy


class Sinking(Policy):
    "A threshold that falls at every interval."

    def __init__(self, threshold: float = 0.9, broken: bool = False) -> None:
        self.threshold, self.broken = threshold, broken

    def decide(self, batch):
        if self.broken and len(batch) and batch.time_s.max() > 30:
            raise RuntimeError("the sensor is on fire")
        return Decisions.of(np.where(batch.score >= self.threshold, Action.ACCEPT, Action.ESCALATE))

    def retune(self, telemetry):
        self.threshold *= 0.97
"""
SCENARIO = """
duration_s: 60
endpoints:
  - {name: a, count: 200, arrivals: {kind: poisson, rate_hz: 2.0}, policy: {name: "sinking_ray:Sinking"}}
edge_nodes: {count: 8}
links: {uplink: {latency: {kind: exponential, mean_ms: 20}, outages: {periods: [{from_s: 20, to_s: 25}]}}}
events: {rate_hz: 10, views: 2, faults: [{kind: stuck, at_s: 5}]}
control: {interval_s: 5}
engine: {cell_endpoints: 50}
"""


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    """One Ray for all tests, with two workers."""
    with RaySession(workers=2) as one:
        yield one


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """Four cells, an outage, and a policy of the user's own that lies beside the scenario and changes with time."""
    (tmp_path / "sinking_ray.py").write_text(POLICY)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return load_scenario(tmp_path / "s.yaml")


@pytest.fixture
def alone(scenario: Scenario) -> Any:
    return simulate(scenario, backend="serial")


def test_the_hash_is_that_of_one_process(session: RaySession, scenario: Scenario, alone: Any) -> None:
    """With one worker and with two, every counter too."""
    for workers in (1, 2):
        with RaySession(workers=workers) as same:  # the process has a session: it is used
            found = simulate(scenario, backend=RayBackend(same))
        assert found.backend == "ray"
        assert found.hash == alone.hash
        assert (found.stats.hist == alone.stats.hist).all()
        assert (found.stats.series == alone.stats.series).all()
        assert (found.stats.by_view == alone.stats.by_view).all()
        assert found.peak_rss_mb > alone.peak_rss_mb


class Deadly(RayBackend):
    """Kills its actor's process, as a machine that goes away, before the 4th window; and before the 9th.

    Until the 7th no checkpoint is made, then in each window.
    """

    def advance(self, control: Control, t1: int) -> list[ShardOutput]:
        window = self.windows = getattr(self, "windows", 0) + 1
        backend_module.CHECKPOINT_S = 1e9 if window < 7 else 0.0
        if window in (4, 9):
            os.kill(self.pids()[0], signal.SIGKILL)
        return super().advance(control, t1)


def test_a_worker_that_dies_changes_nothing(
    session: RaySession, scenario: Scenario, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made again from the beginning or from the last checkpoint, with policies as they were: the hash holds."""
    monkeypatch.setattr(backend_module, "CHECKPOINT_S", 1.0)  # as it is, to be put back
    with RaySession(workers=1) as one:
        deadly = Deadly(one)
        found = simulate(scenario, backend=deadly)
    assert deadly.restarts == 2
    assert deadly.windows > 9
    assert found.hash == alone.hash


def test_a_policy_that_raises_is_told_as_in_one_process(session: RaySession, scenario: Scenario) -> None:
    """At which time, for which batch, with the traceback; what was done until then is kept."""
    broken = scenario.model_copy(
        update={
            "endpoints": [
                scenario.endpoints[0].model_copy(update={"policy": {"name": "sinking_ray:Sinking", "broken": True}})
            ]
        }
    ).in_folder(scenario.folder)
    alone = simulate(broken, backend="serial")
    with RaySession(workers=1) as one:
        found = simulate(broken, backend=RayBackend(one))
    assert found.failure is not None
    assert alone.failure is not None
    assert (found.failure.time_s, found.failure.cell) == (alone.failure.time_s, alone.failure.cell)
    assert "the sensor is on fire" in found.failure.traceback
    assert found.simulated_s >= 25


def test_sweeps_are_spread(session: RaySession, scenario: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the same table as in one process."""
    file = str(scenario.folder / "s.yaml")
    grid = ["simulate", "sweep", file, "--grid", "endpoints.a.count=40,60", "--seeds", "0", "--set", "duration_s=10"]
    grid += ["--set", "links.uplink.outages=null"]
    assert main([*grid, "--backend", "serial"]) == 0
    here = capsys.readouterr().out
    assert main([*grid, "--backend", "ray"]) == 0
    assert capsys.readouterr().out == here


def test_a_job_that_fails_is_told(session: RaySession, scenario: Scenario) -> None:
    """Its own error comes out, not Ray's; one that is stopped before it began gives nothing."""
    with pytest.raises(SetupError, match="no backend"):
        list(session.map(run, [Job(0, 0, scenario, "none")]))
    assert list(session.map(run, [Job(0, 0, scenario)], lambda: True)) == []


def test_only_the_loopback_is_listened_on(session: RaySession) -> None:
    """Every socket that a process of the session listens on is bound to 127.0.0.1."""
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if session.folder not in (folder / "cmdline").read_text() and not (folder / "comm").read_text().startswith(
                "ray"
            ):
                continue
            inodes |= {os.readlink(link)[8:-1] for link in (folder / "fd").iterdir()}
        except OSError:
            continue  # ended meanwhile, or another user's
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.add(fields[1].partition(":")[0])
    assert listening
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    """One line with the pip command, exit code 2."""
    (tmp_path / "ray.py").write_text("raise ImportError('hidden')")
    ran = subprocess.run(
        [sys.executable, "-m", "escalade.cli.main", "simulate", "run", "factory-line", "--backend", "ray"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "escalade: the ray backend needs ray; in a checkout, install it with: pip install '.[sim]'"
    ]


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    """It names the address; nothing is left behind."""
    code = (
        "from escalade.simulations.fleet.ray_backend import RaySession\n"
        "from escalade.tiers.errors import SetupError\n"
        "try:\n    RaySession('127.0.0.1:9').__enter__()\nexcept SetupError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert ran.stdout.startswith("Ray: 127.0.0.1:9 cannot be had: "), ran.stderr
    assert len(ran.stdout.splitlines()) == 1
