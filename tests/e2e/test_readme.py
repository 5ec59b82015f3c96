"""The README tells the truth: its commands run, its code runs, its figures are the committed ones."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.alone  # they share one run of the demo with test_demo.py


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
ELSEWHERE = {
    "make demo": "test_demo.py runs the command of that target",
    "make test": "is what runs this test",
    "pip install .": "test_install.py",
    "escalade demo multi-view": "test_multi_view.py",
}


@pytest.fixture(scope="module")
def place(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout after `make demo`."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(demo_folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def test_the_first_command_stands_in_the_first_twenty_lines() -> None:
    """A reader sees at once what to type."""
    assert "make demo" in README.splitlines()[:20]


def test_make_demo_runs_the_command_that_is_tested() -> None:
    """The target and the test of the demo run the same command."""
    shown = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "escalade demo --out runs/demo" in shown


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in ELSEWHERE])
def test_every_command_runs(place: Path, command: str) -> None:
    """As it stands, in a checkout after the demo; a service is stopped once it serves."""
    words = shlex.split(command)
    given = {}
    while "=" in words[0]:
        key, _, value = words.pop(0).partition("=")
        given[key] = value.replace(":8001", ":0")  # that port may be taken where the tests run
    process = subprocess.Popen(
        words, cwd=place, env={**environment(), **given}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        if words[:2] == ["escalade", "serve"]:
            assert process.stderr is not None
            seen = ""
            while '"serving"' not in seen:
                line = process.stderr.readline()
                assert line, f"it ended before it served: {seen}"
                seen += line
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out + err


def test_the_python_example_runs(place: Path) -> None:
    """The in-process endpoint answers, here with nobody above it."""
    (example,) = [block for block in blocks("python") if "Endpoint.from_config" in block]
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=place, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^\[\d\] \['endpoint'\] \[0\.\d+\]", ran.stdout, re.M), ran.stdout


def test_the_client_example_runs(place: Path) -> None:
    """tritonclient asks an endpoint of the demo and reads the answer's facts."""
    (example,) = [block for block in blocks("python") if "tritonclient" in block]
    config = (place / "runs" / "demo" / "endpoint-0.yaml").read_text()
    address = re.search(r"listen: \{address: '([^']+)'", config)
    assert address
    endpoint = subprocess.Popen(
        ["escalade", "serve", "endpoint", "--config", "runs/demo/endpoint-0.yaml"],
        cwd=place,
        env=environment(),
        text=True,
        stderr=subprocess.PIPE,
    )
    try:
        assert endpoint.stderr is not None
        while '"serving"' not in (line := endpoint.stderr.readline()):
            assert line
        code = example.replace("127.0.0.1:8001", address[1])
        ran = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "[b'endpoint']" in ran.stdout
        assert "endpoint=" in ran.stdout
    finally:
        endpoint.terminate()
        endpoint.communicate(timeout=30)


def test_the_policy_commands_print_what_they_say(tmp_path: Path) -> None:
    """On the public trace, where it is: every line that the README shows."""
    data = Path(os.environ.get("ESCALADE_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "traces" / "fashion.npz").is_file():
        pytest.skip("needs the public traces: set ESCALADE_DATA to their folder")
    (tmp_path / "fashion.npz").symlink_to(data / "traces" / "fashion.npz")
    (tmp_path / "risk.yaml").write_text("{name: RiskControlled, alpha: 0.02}")
    _, _, rest = README.partition("```\n$ escalade policy")
    block = "$ escalade policy" + rest.partition("```")[0]
    for part in block.split("$ ")[1:]:
        command, *lines = part.splitlines()
        ran = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        for line in lines:
            assert line in ran.stdout + ran.stderr


def test_the_fleet_example_prints_what_it_says(tmp_path: Path) -> None:
    """Every line but the first, which says how long it took."""
    command = "escalade simulate run smart-cameras --out runs/cameras"
    shown = README.partition(f"{command}\n```\n\n```\n")[2].partition("```")[0].splitlines()
    assert len(shown) > 5
    ran = subprocess.run(
        shlex.split(command), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[1 : len(shown)] == shown[1:]


def test_the_policy_example_is_the_shipped_one_and_keeps_the_rules() -> None:
    """The README shows examples/my_policy.py, of about twenty lines, and check_policy passes it."""
    source = (ROOT / "examples" / "my_policy.py").read_text()
    assert source.split('"""\n', 1)[1].strip() in README
    (check,) = [block for block in blocks("python") if "check_policy(" in block]
    ran = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT / "examples", capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_policy_example_is_loaded_from_beside_a_tiers_yaml(place: Path, tmp_path: Path) -> None:
    """`my_policy:CarefulClasses` is found next to the YAML and serves."""
    (spec,) = [block for block in blocks("yaml") if "my_policy" in block]
    (tmp_path / "my_policy.py").write_text((ROOT / "examples" / "my_policy.py").read_text())
    model = (place / "runs" / "demo" / "models" / "endpoint.onnx").resolve()
    base = (place / "runs" / "demo" / "endpoint-0.yaml").read_text()
    text = re.sub(r"^policy:.*$", spec.strip(), base, flags=re.M).replace("models/endpoint.onnx", str(model))
    (tmp_path / "tier.yaml").write_text(text)
    checked = subprocess.run(
        [BIN / "escalade", "config", "check", "tier.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "my_policy:CarefulClasses" in checked.stdout


def test_every_link_leads_somewhere() -> None:
    """Files and folders that the documents point to exist."""
    for document in [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} points to {target}"
