"""What a board does: `pip install .` into an empty environment, and serve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from escalade.tiers.testing.onnx_models import scaled_identity

ROOT = Path(__file__).parents[2]
HEAVY = {"ray", "scikit-learn", "scipy", "torch", "matplotlib", "onnx", "rich", "pandas", "tritonclient"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with escalade installed from this checkout and nothing else; its bin folder."""
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(ROOT)], capture_output=True, text=True, check=False
    )
    if installed.returncode and ("No matching distribution" in installed.stderr or "Connection" in installed.stderr):
        pytest.skip(f"no package registry can be reached from here: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    return python.parent


def test_a_board_gets_no_heavy_package(board: Path) -> None:
    """No ray, no scikit-learn, no torch, no plotting library, nothing that needs them."""
    listed = subprocess.run(
        [board / "python", "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"escalade", "onnxruntime", "grpcio"} <= names
    assert not names & HEAVY


def test_the_installed_command_runs_outside_the_checkout(board: Path, tmp_path: Path) -> None:
    """The wheel holds every portion: the command checks a tier with a real model, from any folder."""
    (tmp_path / "model.onnx").write_bytes(scaled_identity(4))
    (tmp_path / "tier.yaml").write_text("tier: edge_server\nmodel: {file: model.onnx}\n")
    checked = subprocess.run(
        [board / "escalade", "config", "check", "tier.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("tier.yaml: ok: edge_server, model 'model'")


def test_the_shipped_scenarios_are_installed(board: Path, tmp_path: Path) -> None:
    """They lie in the package: the command lists them and reads one, from any folder."""
    listed = subprocess.run(
        [board / "escalade", "simulate", "list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 7
    wrong = ["simulate", "run", "factory-line", "--set", "edge_nodes.cont=1"]
    ran = subprocess.run([board / "escalade", *wrong], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "edge_nodes.cont" in ran.stderr


def test_the_demo_says_what_it_needs(board: Path, tmp_path: Path) -> None:
    """Without the extra the demo is one line with the command that installs it."""
    ran = subprocess.run(
        [board / "escalade", "demo", "--out", tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "pip install '.[demo]'" in ran.stderr
