"""`escalade profile`, from a model's file to a scenario that runs with what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from escalade.cli.main import main
from escalade.simulations.fleet import load_scenario, simulate
from escalade.simulations.fleet.compiled import World
from escalade.tiers.testing.onnx_models import mlp, scaled_identity

SCENARIO = """
duration_s: 60
endpoints: [{name: cam, count: 5, profile: board.yaml, arrivals: {kind: poisson, rate_hz: 1}}]
edge_nodes: {profile: board.yaml, batching: {max_batch: 4}}
edge_servers: {profile: board.yaml, batching: {max_batch: 4, each_more: 0.9}}
"""
ON_A_BOARD = """
import json, sys
sys.modules["rich"] = None  # structlog takes it when it is there; a board has none
from escalade.cli.main import main
code = main(["profile", sys.argv[1], "--seconds", "0.1", "--batch", "1,2", "--out", sys.argv[2]])
heavy = {"ray", "numba", "sklearn", "onnx", "pandas", "matplotlib", "rich"}
print(json.dumps([code, sorted(heavy & {name.partition(".")[0] for name, one in sys.modules.items() if one})]))
"""


def test_a_measured_board_is_what_a_scenario_runs_with(tmp_path: Path) -> None:
    """Service times, the gain from batches and powers; and nothing heavy is loaded to measure them."""
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(400, 700)), rng.normal(size=(700, 10))]
    (tmp_path / "m.onnx").write_bytes(mlp(layers, [np.zeros(700), np.zeros(10)]))
    board = tmp_path / "board.yaml"
    command = [sys.executable, "-c", ON_A_BOARD, str(tmp_path / "m.onnx"), str(board)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert "one row: p50" in done.stdout
    text = board.read_text()
    assert "each_more: " in text
    (tmp_path / "fleet.yaml").write_text(SCENARIO)
    scenario = load_scenario(tmp_path / "fleet.yaml")
    profile = scenario.endpoints[0].profile
    assert not isinstance(profile, str)
    assert profile.rss_mb is not None
    world = World.of(scenario)
    assert (world.edge.each_more, world.server.each_more) == (profile.each_more, 0.9)
    p50_ms = float(done.stdout.partition("p50 ")[2].split()[0])
    assert simulate(scenario).latency_ms(0)["p50"] == pytest.approx(p50_ms, rel=0.1)  # type: ignore[arg-type]


def test_powers_that_are_given_come_with_their_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Onto standard output without --out; a tier's YAML may stand for the model."""
    (tmp_path / "m.onnx").write_bytes(scaled_identity(4, 1.0))
    (tmp_path / "tier.yaml").write_text("tier: endpoint\nmodel: {file: m.onnx, threads: 2}\n")
    options = ["--seconds", "0.05", "--batch", "1", "--idle-mw", "2700", "--active-mw", "6400", "--name", "a board"]
    assert main(["profile", str(tmp_path / "tier.yaml"), *options]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# a board\n")
    assert "idle_mw: 2700  # given by --idle-mw" in text
    assert "threads 2" in text
    assert "# each_more: not known; only one batch size was run" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere.onnx"], "nowhere.onnx: no such file; give an ONNX model"),
        (["text.onnx"], "text.onnx is not an ONNX model"),
        (["two.onnx"], "has 2 inputs"),
        (["m.onnx", "--seconds", "0"], "--seconds 0: give a number above 0"),
        (["m.onnx", "--threads", "0"], "--threads 0: give a number above 0"),
        (["m.onnx", "--active-mw", "nan"], "--active-mw nan: give a number above 0"),
        (["m.onnx", "--out", "nowhere/p.yaml"], "--out nowhere/p.yaml: cannot be written"),
        (["m.onnx", "--out", "p.txt"], "end in .yaml"),
        (["m.onnx", "--shape", "7"], "does not run through"),
        (["open.onnx"], "give it with --shape"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do about it, exit code 2, and no file."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(scaled_identity(4, 1.0))
    Path("text.onnx").write_text("not a model")
    kinds = onnx.TensorProto.FLOAT
    rows = [onnx.helper.make_tensor_value_info(name, kinds, ["n", 4]) for name in "abc"]
    wide = [onnx.helper.make_tensor_value_info(name, kinds, ["n", "width"]) for name in "ac"]
    graphs = {
        "two.onnx": onnx.helper.make_graph([onnx.helper.make_node("Add", ["a", "b"], ["c"])], "g", rows[:2], rows[2:]),
        "open.onnx": onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["c"])], "g", wide[:1], wide[1:]),
    }
    for name, graph in graphs.items():
        opset = [onnx.helper.make_opsetid("", 17)]
        Path(name).write_bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    assert main(["profile", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert said in err
    assert not list(tmp_path.glob("p.*"))
