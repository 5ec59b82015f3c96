"""What a board needs to run a tier: nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

HEAVY = {"ray", "sklearn", "scipy", "torch", "matplotlib", "onnx", "rich", "pandas", "tritonclient"}
DISTRIBUTIONS = (HEAVY - {"sklearn"}) | {"scikit-learn"}
PROJECT = Path(__file__).parents[2] / "pyproject.toml"

# structlog takes rich when it is there; a board has none.
ON_A_BOARD = """
import asyncio, json, sys
sys.modules["rich"] = None
import numpy as np
from escalade.tiers import Client, Endpoint

async def main():
    config = {"tier": "endpoint", "model": {"file": sys.argv[1], "name": "m"}, "listen": {"address": "127.0.0.1:0"}}
    async with Endpoint.from_config(config) as endpoint:
        x = np.array([[0, 9, 0, 0]], np.float32)
        labels = [int((await endpoint.infer(x)).label[0])]
        async with Client(await endpoint.listen()) as client:
            labels.append(int((await client.infer(x, model="m")).label[0]))
    loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
    print(json.dumps({"labels": labels, "loaded": sorted(loaded)}))

asyncio.run(main())
"""


def test_a_running_endpoint_loads_nothing_heavy(models: Path) -> None:
    """In a process of its own that imports the tiers, starts one, serves it and asks it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_A_BOARD, str(models / "sure.onnx")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["labels"] == [1, 1]
    assert {"escalade", "onnxruntime", "grpc"} <= set(told["loaded"])
    assert HEAVY.isdisjoint(told["loaded"])


def test_a_plain_install_names_nothing_heavy() -> None:
    """`pip install .` asks for none of them; they stand in extras."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    named = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert {"onnxruntime", "grpcio"} <= named
    assert DISTRIBUTIONS.isdisjoint(named)
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    assert any(requirement.startswith("scikit-learn") for requirement in extras)
