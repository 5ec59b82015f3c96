"""`escalade profile`: what this board takes for a model, as a hardware profile that scenarios load."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from escalade.tiers.config import TierConfig
    from escalade.tiers.profiling.power import Meter
    from escalade.tiers.profiling.profile_file import Value
    from escalade.tiers.profiling.timing import Timing

IDLE_SHARE = 0.25
"""Of the time, for which the board is left alone to see what it draws then."""
BOARD = Path("/proc/device-tree/model")


def whole_numbers(text: str) -> list[int]:
    """Read ``1,2,4``: whole numbers of 1 or more."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers of 1 or more such as 1,2,4")
    return values


def add_profile(commands: Any) -> None:
    """Add the command."""
    profile = commands.add_parser(
        "profile", help="measure what this board takes for a model, into a hardware profile for scenarios"
    )
    profile.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file, or a tier's YAML that names one")
    profile.add_argument("--out", type=Path, metavar="FILE", help="ends in .yaml; default: standard output")
    profile.add_argument(
        "--batch", type=whole_numbers, default=[1, 2, 4, 8], metavar="B1,B2", help="rows at once; default: 1,2,4,8"
    )
    profile.add_argument("--seconds", type=float, default=10.0, metavar="S", help="in all; default: %(default)s")
    profile.add_argument("--threads", type=int, metavar="N", help="onnxruntime's; default: 1, or the YAML's")
    profile.add_argument(
        "--shape", type=whole_numbers, metavar="N1,N2", help="of one row, where the model leaves it open"
    )
    profile.add_argument("--name", help="of the board; default: what the machine says")
    profile.add_argument("--idle-mw", type=float, metavar="MW", help="known power of the idle board")
    profile.add_argument("--active-mw", type=float, metavar="MW", help="known power while it computes")


def profile(arguments: argparse.Namespace) -> int:
    """Measure and write; return 0.

    Raises
    ------
    SetupError
        For what was given and cannot work, before anything is measured.
    """
    from escalade.tiers.config import LogConfig
    from escalade.tiers.logs import configure_logs
    from escalade.tiers.profiling.power import find_meter
    from escalade.tiers.profiling.profile_file import as_yaml
    from escalade.tiers.profiling.timing import time_model

    configure_logs(LogConfig(level="error"))
    config, batches = _checked(arguments)
    meter = find_meter()
    idle_mw, idle_s = float("nan"), arguments.seconds * IDLE_SHARE if meter else 0.0
    if meter:
        with meter.over() as draw:
            time.sleep(idle_s)
        idle_mw = draw.mw
    timing = asyncio.run(time_model(config, batches, arguments.seconds - idle_s, meter))
    values = _values(arguments, timing, meter, idle_mw)
    name = arguments.name or _board()
    model = f"{config.model.file.name} (sha256 {timing.sha256[:12]})"
    versions = ", ".join(f"{one} {version(one)}" for one in ("onnxruntime", "escalade"))
    about = [
        f"{model}, threads {config.model.threads}, {', '.join(timing.providers)}",
        f"{os.cpu_count()} cores, {platform.machine()}; {versions}; {time.strftime('%Y-%m-%d')}",
        "Written by `escalade profile`; a scenario names this file as `profile`.",
    ]
    text = as_yaml(name, about, timing, values)
    if arguments.out is None:
        print(text, end="")
        return 0
    arguments.out.write_text(text, encoding="utf-8")
    for line in _summary(timing, values):
        print(line)
    print(f"wrote {arguments.out}")
    return 0


def _checked(arguments: argparse.Namespace) -> tuple[TierConfig, list[int]]:
    """Return the tier to run and the batch sizes; SetupError for the first thing that cannot work."""
    from escalade.tiers.config_file import load_config
    from escalade.tiers.profiling.timing import bare_config

    for key in ("seconds", "threads", "idle_mw", "active_mw"):
        value = getattr(arguments, key)
        if value is not None and not (isfinite(value) and value > 0):
            raise SetupError(f"--{key.replace('_', '-')} {value:g}: give a number above 0")
    file, out = arguments.model, arguments.out
    if out is not None:
        if out.suffix not in (".yaml", ".yml"):
            raise SetupError(f"--out {out}: scenarios load profiles from files that end in .yaml; name it so")
        try:
            with out.open("a", encoding="utf-8") if out.exists() else tempfile.TemporaryFile(dir=out.parent):
                pass
        except OSError as error:
            raise SetupError(f"--out {out}: cannot be written: {error.strerror}; name another file") from error
    if not file.is_file():
        raise SetupError(f"{file}: no such file; give an ONNX model, or a tier's YAML")
    config = load_config(file) if file.suffix in (".yaml", ".yml") else bare_config(file, arguments.shape)
    changed: dict[str, Any] = {} if arguments.threads is None else {"threads": arguments.threads}
    if arguments.shape is not None:
        changed["input"] = config.model.input.model_copy(update={"shape": arguments.shape})
    config = config.model_copy(update={"model": config.model.model_copy(update=changed)})
    batches = sorted({1, *arguments.batch})
    return config, batches


def _values(arguments: argparse.Namespace, timing: Timing, meter: Meter | None, idle_mw: float) -> dict[str, Value]:
    from escalade.tiers.profiling.profile_file import Value
    from escalade.tiers.profiling.timing import board_mb

    def power(key: str, measured: float, when: str) -> Value:
        given = getattr(arguments, key)
        option = f"--{key.replace('_', '-')}"
        if given is not None:
            return Value(given, f"given by {option}")
        if meter is not None:
            return Value(measured, f"{meter.source}, {when}")
        return Value(measured, f"no meter that can be read (RAPL, INA sensors of hwmon): give {option}")

    return {
        "memory_mb": Value(board_mb(), "the board's: /proc/meminfo"),
        "rss_mb": Value(timing.rss_mb, "resident memory of the process that ran it, Python and onnxruntime included"),
        "idle_mw": power("idle_mw", idle_mw, "nothing running"),
        "active_mw": power("active_mw", timing.active_mw, "while the runs above went on"),
    }


def _summary(timing: Timing, values: dict[str, Value]) -> list[str]:
    p50, p99 = (float(_quantile(timing, q)) for q in (0.5, 0.99))
    lines = [f"one row: p50 {p50:.4g} ms, p99 {p99:.4g} ms over {len(timing.runs_ms[1]):,} runs"]
    if timing.each_more is not None:
        sizes = ", ".join(f"{size} in {ms:.4g} ms" for size, ms in timing.medians_ms.items())
        lines.append(f"rows at once: {sizes}: each more takes {100 * timing.each_more:.0f} % of one alone")
    active = values["active_mw"]
    if isfinite(active.number):
        lines.append(f"energy of an inference: {active.number * p50 / 1e3:.4g} mJ ({active.source})")
    else:
        lines.append(f"energy is not known: {active.source}")
    return lines


def _quantile(timing: Timing, q: float) -> float:
    import numpy as np

    return float(np.quantile(timing.runs_ms[1], q))


def _board() -> str:
    """Return what the machine calls itself: the device tree's model, or processor and system."""
    try:
        return BOARD.read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return f"{platform.machine()} {platform.system()}"
