"""What a tier makes of models that must not serve."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.tiers.config import ModelConfig
from escalade.tiers.errors import SetupError
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing import nasty_models as nasty
from escalade.tiers.testing.onnx_models import mlp, scaled_identity

QUICK = {"timeout_s": 20.0}
NASTY: dict[str, tuple[Callable[[], bytes], str, dict[str, float]]] = {
    "endless loop": (nasty.endless_loop, "did not end within 1.5 s in its self-test", {"timeout_s": 1.5}),
    "memory bomb when loaded": (nasty.bomb_when_loaded, "needs more than 512 MiB", QUICK),
    "memory bomb when run": (nasty.bomb_when_run, "needs more than 100 MiB", {"memory_mb": 100.0}),
    "NaN weights": (nasty.nan_weights, "answers NaN to every input", QUICK),
    "unknown operator": (nasty.unknown_operator, "No Op registered for Frobnicate", QUICK),
    "external weights": (lambda: nasty.external_weights("weights.bin"), "keeps its weights in other files", QUICK),
    "external weights elsewhere": (lambda: nasty.external_weights("/etc/passwd"), "weights in other files", QUICK),
    "one row whatever": (nasty.one_row_whatever, r"does not take 2 rows at once: it answers \[1, 8\]", QUICK),
    "one row's shape": (nasty.fails_on_two, "does not take 2 rows at once: .*Reshape", QUICK),
    "not ONNX": (lambda: b"PK\3\4 hello", "is not an ONNX model that onnxruntime can load", QUICK),
    "empty": (lambda: b"", "is not an ONNX model that onnxruntime can load", QUICK),
    "cut off": (lambda: scaled_identity(4)[:-20], "is not an ONNX model that onnxruntime can load", QUICK),
}


def load(folder: Path, content: bytes, **settings: Any) -> OnnxModel:
    file = folder / "model.onnx"
    file.write_bytes(content)
    return OnnxModel(ModelConfig.model_validate({"file": file, **settings}))


@pytest.mark.parametrize("name", NASTY)
def test_a_model_that_must_not_serve_is_refused_with_what_it_did(name: str, tmp_path: Path) -> None:
    """One line that names the key, the file and what happened; this process is none the worse."""
    build, what, limits = NASTY[name]
    with pytest.raises(SetupError, match=what) as refused:
        load(tmp_path, build(), self_test=limits)
    message = str(refused.value)
    assert message.startswith(f"model.file: {tmp_path / 'model.onnx'} ")
    assert "\n" not in message


def test_weights_in_the_working_directory_are_not_found_even_untested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime would take them from there: a file that nobody hashed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    with pytest.raises(SetupError, match="not an ONNX model"):
        load(tmp_path, nasty.external_weights("weights.bin"), self_test=False)
    with pytest.raises(SetupError, match="keeps its weights in other files"):
        load(tmp_path, nasty.external_weights("weights.bin"))


def test_nan_for_some_inputs_is_no_reason(tmp_path: Path) -> None:
    """A model that divides by its input's mean makes NaN of zeros, and serves."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1]),
        helper.make_node("Div", ["input", "mean"], ["logits"]),
    ]
    assert load(tmp_path, nasty._model(nodes)).classes == 4


def test_the_steps_stand_between_the_inputs_and_the_model(tmp_path: Path) -> None:
    """The model is tried with what it will be fed: a callers' row of 8 by 8 bytes becomes 16 numbers."""
    steps = [{"mean_pool": 2}, {"scale": 0.01}, {"flatten": True}]
    content = mlp([np.ones((16, 3))], [np.zeros(3)])
    model = load(tmp_path, content, input={"shape": [8, 8], "dtype": "UINT8", "steps": steps})
    assert model.classes == 3


def test_what_has_passed_once_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes, or other limits, are."""
    load(tmp_path, scaled_identity(4, 3.25))
    started: list[Any] = []
    run = subprocess.run

    def counted(*args: Any, **kwargs: Any) -> Any:
        started.append(args)
        return run(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", counted)
    load(tmp_path, scaled_identity(4, 3.25))
    assert len(started) == 0
    load(tmp_path, scaled_identity(4, 3.5))
    load(tmp_path, scaled_identity(4, 3.25), self_test={"memory_mb": 300})
    load(tmp_path, scaled_identity(4, 3.75), self_test=False)
    assert len(started) == 2


def test_a_test_that_cannot_be_made_is_an_error_that_says_how_to_go_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing serves untested unless it was asked for."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(SetupError, match=r"could not be tested.*No such file.*self_test: false"):
        load(tmp_path, scaled_identity(4, 1.125))
