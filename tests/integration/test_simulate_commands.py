"""`escalade simulate` as people call it: real files, exit codes, one line for a mistake, nothing lost."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from escalade.cli.main import main

Captured = pytest.CaptureFixture[str]

SCENARIO = """
name: small
duration_s: 60
endpoints:
  - name: a
    count: 20
    arrivals: {kind: poisson, rate_hz: 2.0}
    deadline_ms: 500
    policy: {name: Threshold, threshold: 0.8}
edge_nodes: {count: 2}
control: {interval_s: 5}
engine: {window_s: 5}
"""
BROKEN = """
from escalade.policies import Threshold


class Broken(Threshold):
    def decide(self, batch):
        if len(batch) and batch.time_s.max() > 30:
            raise RuntimeError("the sensor is on fire")
        return super().decide(batch)
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SCENARIO)
    return str(tmp_path / "small.yaml")


def one_line(capsys: Captured, *arguments: str) -> str:
    """Run a command that cannot work; return its line."""
    assert main(["simulate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_run_prints_and_writes(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """What is printed is what is written: the hash, and a row for each tier."""
    out = tmp_path / "out"
    assert main(["simulate", "run", scenario, "--seed", "5", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    found = json.loads((out / "summary.json").read_text())
    assert found["seed"] == 5
    assert f"hash {found['hash']}" in text
    assert f"endpoint {found['latency_ms']['endpoint']['count']:>20,}".split()[1] in text
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_the_backend_does_not_matter(scenario: str, tmp_path: Path) -> None:
    """Serial and threads give the same hash, one thread or two."""
    hashes = set()
    for number, options in enumerate((["--backend", "serial"], ["--workers", "1"], ["--workers", "2"])):
        out = tmp_path / str(number)
        assert (
            main(["simulate", "run", scenario, "--set", "engine.cell_endpoints=10", *options, "--out", str(out)]) == 0
        )
        hashes.add(json.loads((out / "summary.json").read_text())["hash"])
    assert len(hashes) == 1


def test_replications_give_intervals(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """Each with the next seed; the figures of all with their mean's interval."""
    assert main(["simulate", "run", scenario, "--replications", "3", "--out", str(tmp_path)]) == 0
    assert "over 3 seeds, with 95 % intervals:" in capsys.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())
    assert [one["seed"] for one in found["replications"]] == [0, 1, 2]
    assert found["estimates"]["accuracy"]["low"] < found["accuracy"] < 1


def test_a_policy_that_raises_keeps_what_was_done(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """Exit code 1 and one line with the simulated time; the partial result and the traceback are written."""
    (tmp_path / "broken_fleet.py").write_text(BROKEN)
    mine = "endpoints.a.policy={name: 'broken_fleet:Broken', threshold: 0.8}"
    assert main(["simulate", "run", scenario, "--set", mine, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert "raised in decide at 30" in err[0]
    assert err[0].endswith("RuntimeError: the sensor is on fire")
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["simulated_s"] == 30
    assert found["requests"] > 1000
    assert "in decide" in found["failure"]["traceback"]
    assert "the sensor is on fire" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("terminal", [False, True])
def test_control_c_writes_what_there_is(tmp_path: Path, terminal: bool) -> None:
    """While it runs it says how far it is; interrupted, it ends with 130 and the files hold what was done."""
    text = SCENARIO.replace("duration_s: 60", "duration_s: 1.0e+8").replace("interval_s: 5", "interval_s: 1.0e+6")
    (tmp_path / "long.yaml").write_text(text)
    reader, writer = pty.openpty() if terminal else os.pipe()
    code = (
        "import sys; from escalade.cli.main import main; from escalade.cli.simulate import progress\n"
        "progress.LINE_S = 0.2; sys.exit(main(['simulate', 'run', 'long.yaml', '--out', 'out']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=writer,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
        text=True,
    )
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as said:
        seen = b""
        try:
            while b"requests" not in seen:
                more = said.read(4096)
                assert more, seen
                seen += more
            process.send_signal(signal.SIGINT)
            with suppress(OSError):  # how a terminal ends
                while said.read(4096):  # one that nobody reads would hold it up
                    pass
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"edge server" in seen
    assert process.returncode == 130
    assert "of 1e+08 s simulated" in out
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not found["complete"]
    assert found["requests"] > 0


def test_sweep_prints_a_table_and_writes_it(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """A row for each combination, with intervals; the same seeds for all; one marked at least."""
    grid = ["endpoints.a.policy.threshold=0.6,0.9", "edge_nodes.workers=1,2"]
    assert main(["simulate", "sweep", scenario, "--grid", *grid, "--seeds", "0-1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("threshold=0.6") == 2
    assert "\n* " in out
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert {row["endpoints.a.policy.threshold"] for row in rows} == {"0.6", "0.9"}
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert points[2]["minus_first"]["share_endpoint"]["mean"] < 0
    assert "Pareto" not in (tmp_path / "sweep.html").read_text()
    assert (tmp_path / "sweep.html").read_text().count("<svg viewBox") >= 3


def test_compare_finds_a_difference_and_none(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """A lower threshold keeps more below, surely; a scenario differs from itself by nothing at all."""
    b = ["--set-b", "endpoints.a.policy.threshold=0.5"]
    assert main(["simulate", "compare", scenario, scenario, *b, "--out", str(tmp_path)]) == 0
    (found,) = [line for line in capsys.readouterr().out.splitlines() if "share_endpoint " in line]
    assert "may be none" not in found
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [row["side"] for row in rows] == ["A"] * 3 + ["B"] * 3
    assert main(["simulate", "compare", scenario, scenario]) == 0
    assert "+0  [+0, +0]" in capsys.readouterr().out


def test_capacity_finds_endpoints_and_workers(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """More workers carry more endpoints: what is found for N endpoints is found again from its workers."""
    base = [scenario, "--set", "duration_s=20", "--slo-ms", "60", "--slo-share", "0.9", "--set", "edge_nodes.count=20"]
    assert main(["simulate", "capacity", *base, "--resolution", "0.2", "--out", str(tmp_path)]) == 0
    most = json.loads((tmp_path / "capacity.json").read_text())
    assert f"up to {most['answer']:,} endpoints" in capsys.readouterr().out
    assert main(["simulate", "capacity", *base, "--find", "server-workers", "--endpoints", str(most["answer"])]) == 0
    assert "with " in capsys.readouterr().out.splitlines()[-1]


def test_capacity_that_is_not_there_is_said(scenario: str, capsys: Captured) -> None:
    """An objective below the fastest inference cannot be kept: exit code 1."""
    assert main(["simulate", "capacity", scenario, "--slo-ms", "0.1"]) == 1
    assert "does not keep 99 % within 0.1 ms even with one endpoint" in capsys.readouterr().out


def test_capacity_without_a_limit_is_said(scenario: str, capsys: Captured) -> None:
    """What endpoints answer themselves is enough, so the search ends after three sizes."""
    options = ["--slo-ms", "50", "--slo-share", "0.3", "--set", "duration_s=5"]
    assert main(["simulate", "capacity", scenario, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith(
        "up to 80 endpoints and is not limited: the endpoints' own answers are enough, however many they are"
    )


def test_list_names_the_scenarios(capsys: Captured) -> None:
    """A line each, with what it is about."""
    assert main(["simulate", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("factory-line          Inspection")


def test_mistakes_are_one_line(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """They name file or option, key and remedy; nothing is run."""
    assert "nowhere: no such file, and no shipped scenario" in one_line(capsys, "run", "nowhere")
    assert "nowhere.yaml: no such file" in one_line(capsys, "run", "nowhere.yaml")
    assert "edge_nodes.cont: unknown key" in one_line(capsys, "run", scenario, "--set", "edge_nodes.cont=3")
    assert "rate_hz" in one_line(capsys, "run", scenario, "--set", "endpoints.a.arrivals.rate_hz=-1")
    assert "--grid x: write it as" in one_line(capsys, "sweep", scenario, "--grid", "x")
    many = [scenario, "--grid", f"edge_nodes.count={','.join(map(str, range(1, 102)))}", "--seeds", "1-100"]
    assert "101 points x 100 seeds are 10,100 runs, more than 10,000" in one_line(capsys, "sweep", *many)
    assert "--ray-address needs --backend ray" in one_line(capsys, "run", scenario, "--ray-address", "h:1")
    (tmp_path / "file").write_text("")
    assert "cannot be made" in one_line(capsys, "run", scenario, "--out", str(tmp_path / "file"))
    assert "no policy" in one_line(capsys, "run", scenario, "--set", "endpoints.a.policy.name=Nothing").lower()


def test_what_is_found_after_reading_has_its_place_too(scenario: str, capsys: Captured) -> None:
    """A policy and a table are looked for when the run begins: file and line, or the override."""
    file = Path(scenario)
    file.write_text(SCENARIO.replace("name: Threshold", "name: Treshold"))
    assert f"escalade: {file}:9: endpoints.0.policy.name: no policy 'Treshold'" in one_line(capsys, "run", scenario)
    file.write_text(SCENARIO)
    option = "scores={table: no.npz}"
    assert f"escalade: --set {option}: scores.table:" in one_line(capsys, "run", scenario, "--set", option)


def test_a_policy_that_ends_the_program_is_one_line(scenario: str, tmp_path: Path, capsys: Captured) -> None:
    """Instead of an exit code without a word."""
    (tmp_path / "leaving.py").write_text(BROKEN.replace("Broken", "Leaving").replace("RuntimeError(", "SystemExit("))
    assert main(["simulate", "run", scenario, "--set", "endpoints.a.policy.name=leaving:Leaving"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("escalade: a policy or rule ended the run with SystemExit('the sensor is on fire')")


def test_aliases_of_themselves_or_of_very_many_are_one_line(tmp_path: Path, capsys: Captured) -> None:
    """An anchor inside itself, and nine levels of nine aliases, which are 400 million nodes."""
    file = tmp_path / "odd.yaml"
    file.write_text("a: &a [*a]\nendpoints: *a\n")
    assert f"escalade: {file}:" in one_line(capsys, "run", str(file))
    levels = [
        "a: &a [x]",
        *(f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]" for below, name in pairwise("abcdefghij")),
    ]
    file.write_text("\n".join(levels))
    assert f"escalade: {file}:" in one_line(capsys, "run", str(file))


@pytest.mark.parametrize(
    "option",
    [
        ["compare", "--seeds", "a"],
        ["compare", "--seeds", "1,1"],
        ["compare", "--seeds", "1-100000000000"],
        ["compare", "--workers", "0"],
        ["run", "--seed", "-1"],
        ["run", "--seed", "99999999999999999999"],
    ],
)
def test_options_that_cannot_be_read_are_refused(scenario: str, option: list[str], capsys: Captured) -> None:
    """By the grammar, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", option[0], *[scenario] * (2 if option[0] == "compare" else 1), *option[1:]])
    assert ended.value.code == 2
    assert option[2] in capsys.readouterr().err
