"""A new model is run in a process of its own, with little memory and little time, before it serves."""

from __future__ import annotations

import hashlib
import io
import json
import math
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers import model_trial
from escalade.tiers.config import DTYPES
from escalade.tiers.errors import ConfigError
from escalade.tiers.preprocess import build_pipeline

if TYPE_CHECKING:
    from escalade.tiers.config import ModelConfig, SelfTestConfig

WEIGHT_COPIES = 3
"""The file as it was read, parsed, and laid out for running: counted beside `memory_mb`."""
PASSED_KEPT = 256

_passed: set[str] = set()


def self_test(content: bytes, config: ModelConfig) -> None:
    """Return when a model loads and runs within `model.self_test`; it is what then has to be loaded, byte for byte.

    It runs on the CPU, on zeros and on random inputs of the configured shape, after the configured steps, of one row
    and of several. What has passed once in this process is not run again. Blocks for the time that it takes.

    Raises
    ------
    ConfigError
        What the model did: NaN whatever the input, no end, too much memory, a crash, another number of rows than it
        was given, weights in further files, an operator that is not known, no ONNX at all.
    """
    limits = config.self_test
    if limits is None:
        return
    task = _task(content, config, limits)
    digest = hashlib.sha256(task).hexdigest()
    if digest in _passed:
        return
    fault, text = _run(task, limits)
    if fault:
        raise ConfigError(f"{config.file} {_sentence(fault, text, limits)}", key="model.file")
    if len(_passed) >= PASSED_KEPT:
        _passed.clear()
    _passed.add(digest)


def _task(content: bytes, config: ModelConfig, limits: SelfTestConfig) -> bytes:
    feeds = [_as_npy(feed) for feed in _feeds(config)]
    head = {
        "memory_bytes": int(limits.memory_mb * 2**20) + WEIGHT_COPIES * len(content),
        "cpu_s": math.ceil(limits.timeout_s) + 1,
        "output": config.output,
        "rows": config.output_kind != "raw",
        "feeds": [len(feed) for feed in feeds],
        "content_bytes": len(content),
    }
    return b"".join((json.dumps(head).encode(), b"\n", *feeds, content))


def _feeds(config: ModelConfig) -> list[Any]:
    """Return inputs as the model gets them, where the configuration tells their shape; else none: the model tells."""
    row = config.input.shape
    if row is None or -1 in row:
        return []
    prepare = build_pipeline(config.input.steps, np.dtype(np.float32))
    try:
        arrived = model_trial.plausible(row, DTYPES[config.input.datatype or "FP32"])
        return arrived if prepare is None else [prepare(x) for x in arrived]
    except Exception:  # noqa: BLE001  # no such size, or a user's step: the tier's own first run says what is wrong
        return []


def _as_npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _run(task: bytes, limits: SelfTestConfig) -> tuple[str, str]:
    """Return what went wrong and in which words; empty when nothing did."""
    command = [sys.executable, "-P", str(Path(model_trial.__file__))]
    try:
        ran = subprocess.run(command, input=task, capture_output=True, timeout=limits.timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return "time", ""
    except OSError as error:
        return "start", error.strerror or str(error)
    with suppress(ValueError):
        verdict = json.loads(ran.stdout)
        return verdict.get("fault", ""), verdict.get("text", "")
    if ran.returncode == -signal.SIGXCPU:
        return "time", ""
    if ran.returncode < 0:
        return "crash", signal.Signals(-ran.returncode).name
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return "start", lines[-1] if lines else f"exit code {ran.returncode}"


def _sentence(fault: str, text: str, limits: SelfTestConfig) -> str:
    if fault == "load":
        if "External data" in text or "external data" in text:
            return "keeps its weights in other files; save it as one file"
        return f"is not an ONNX model that onnxruntime can load: {text}"
    return {
        "time": f"did not end within {limits.timeout_s:g} s in its self-test: it has an endless loop, or needs more; "
        "set model.self_test.timeout_s",
        "memory": f"needs more than {limits.memory_mb:g} MiB for two rows in its self-test; "
        "if that is meant to be, set model.self_test.memory_mb",
        "nan": "answers NaN to every input of its self-test: its weights are broken, or model.input.steps are missing",
        "rows": f"does not take {model_trial.SEVERAL} rows at once: {text}; "
        "export it with a dynamic first dimension throughout, or with one fixed to 1",
        "crash": f"ended onnxruntime with {text} in its self-test, which has {limits.memory_mb:g} MiB; do not use it, "
        "or set model.self_test.memory_mb if it needs more",
        "start": f"could not be tested before it serves: {text}; set `self_test: false` to go without",
    }[fault]
