"""What the policy commands read and share: policies' YAML, traces, conditions, progress."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from escalade.policies import FittedPolicy, Policy, PolicyConfigError, Score, Trace, load_policy, load_score
from escalade.simulations.evaluate import Conditions
from escalade.simulations.trace_file import Split, TraceFile
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, eq=False)
class PolicyFile:
    """One ``--policy``: a mapping for all tiers, or a list of them, one a tier."""

    path: Path
    spec: dict[str, Any] | list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> PolicyFile:
        """Read a policy's YAML, or the ``policy:`` block of a tier's.

        Raises
        ------
        SetupError
            If it cannot be read or holds neither.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            raise SetupError(f"{path}{f':{mark.line + 1}' if mark else ''}: is not valid YAML") from error
        if isinstance(data, dict) and "name" not in data and "policy" in data:
            data = data["policy"]
        many = isinstance(data, list) and data and all(isinstance(one, dict) for one in data)
        if not (isinstance(data, dict) or many):
            raise SetupError(
                f"{path}: must be a mapping such as {{name: Threshold, threshold: 0.8}}, or a list of them"
            )
        folder = str(path.resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)  # for one's own module beside the file
        return cls(path, data)

    @property
    def name(self) -> str:
        """What to call it in tables."""
        own = self.path.stem if self.path.stem not in ("policy", "tier") else self.path.resolve().parent.name
        kinds = [
            str(one.get("name", "?")).rpartition(":")[2]
            for one in (self.spec if isinstance(self.spec, list) else [self.spec])
        ]
        return f"{own} ({', '.join(dict.fromkeys(kinds))})"

    def load(self, *, unfitted: bool = False) -> Policy | list[Policy]:
        """Build the policy, or one for each tier; SetupError names the file and the key."""
        if isinstance(self.spec, list):
            return [self._build(one, f"policy[{index}]", unfitted) for index, one in enumerate(self.spec)]
        return self._build(self.spec, "policy", unfitted)

    def _build(self, spec: dict[str, Any], key: str, unfitted: bool) -> Policy:
        try:
            return load_policy(spec, key=key, folder=self.path.parent, unfitted=unfitted)
        except PolicyConfigError as error:
            raise SetupError(f"{self.path}: {error}") from error


def with_score(spec: dict[str, Any], score: str | None) -> dict[str, Any]:
    """Return the mapping with `score` given to every policy in it that takes one and does not name its own.

    Raises
    ------
    SetupError
        If one names another.
    """
    if score is None:
        return spec
    changed: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            changed[name] = with_score(value, score)
        elif isinstance(value, list):
            changed[name] = [
                with_score(one, score) if isinstance(one, dict) and isinstance(one.get("name"), str) else one
                for one in value
            ]
        else:
            changed[name] = value
    if changed.get("score", score) != score:
        raise SetupError(f"--score {score}, but the policy names score {changed['score']}: leave one out")
    kind = _kind(spec)
    if kind is not None and issubclass(kind, FittedPolicy) and "score" in inspect.signature(kind).parameters:
        changed["score"] = score
    return changed


def score_of(policies: list[Policy], asked: str | None, trace: Trace | None) -> Score:
    """Return the score that policies decide on: their own, which `asked` may not contradict, else max_prob."""
    own = {name for policy in policies for name in _scores(policy)}
    if len(own) > 1:
        raise SetupError(f"the policies decide on different scores ({', '.join(sorted(own))}); judge them one by one")
    if own and asked is not None and asked not in own:
        raise SetupError(f"--score {asked}, but the policy was fitted to {own.pop()}: leave --score out, or fit again")
    name = asked or (own.pop() if own else "max_prob")
    try:
        return load_score(name, "posterior" if trace is not None and trace.logits is None else "logits", key="--score")
    except PolicyConfigError as error:
        raise SetupError(str(error)) from error


def read_trace(arguments: argparse.Namespace, split: Split) -> tuple[TraceFile, Trace]:
    """Read the split of ``--trace``; TraceError for the first thing wrong."""
    file = TraceFile.open(arguments.trace)
    temperature = arguments.temperature or 1.0
    if isinstance(temperature, tuple) and len(temperature) == 1:
        temperature = temperature[0]
    return file, file.split(split, costs=arguments.costs, temperature=temperature, tiers=arguments.tiers)


def conditions(arguments: argparse.Namespace, file: TraceFile, trace: Trace, score: Score) -> Conditions:
    """Return under which conditions the arguments and the file have the policies judged."""
    hops, rows = trace.tiers - 1, len(trace)
    if hops < 1:
        raise SetupError(f"{arguments.trace}: has one tier only: there is nothing to escalate to")
    row_bytes = file.hop_bytes("test", hops, rows)
    if arguments.bytes is not None:
        row_bytes = np.tile(_per("--bytes", arguments.bytes, hops, "hops"), (rows, 1))
    times = file.times_s("test", rows)
    if times is None or arguments.rate is not None:
        times = np.arange(rows) / (arguments.rate or 1.0)
    latency, energy = arguments.latency_ms, arguments.energy_mj
    tiers = trace.tiers
    return Conditions(
        score=score,
        seed=arguments.seed,
        row_bytes=row_bytes,
        time_s=times,
        latency_ms=_per("--latency-ms", latency, tiers) if latency else file.per_tier("latency_ms", tiers),
        energy_mj=_per("--energy-mj", energy, tiers) if energy else file.per_tier("energy_mj", tiers),
        deadline_ms=arguments.deadline_ms,
        audit=arguments.audit,
    )


@contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """Show, on a terminal and after a second, how far something is; gives what is to be told the share done.

    Without `rich` (``pip install 'escalade[demo]'``) there is none.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda share: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(title, total=None)
    timer = threading.Timer(1.0, bar.start)
    timer.daemon = True
    timer.start()
    last = time.monotonic()

    def done(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1:
            last = time.monotonic()
            bar.update(task, total=1.0, completed=share)

    try:
        yield done
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def make_folder(out: Path) -> Path:
    """Make a folder for results; SetupError if that cannot be done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--out {out}: cannot be made: {error.strerror}") from error
    return out


def _per(option: str, values: tuple[float, ...], count: int, of: str = "tiers") -> tuple[float, ...]:
    if len(values) == 1 and of == "hops":
        return values * count
    if len(values) != count:
        raise SetupError(f"{option}: there are {len(values)} numbers for {count} {of}")
    return values


def _kind(spec: dict[str, Any]) -> type[Policy] | None:
    from escalade.policies.importing import import_object
    from escalade.policies.loading import BUILT_IN

    name = str(spec.get("name"))
    found = BUILT_IN.get(name) if ":" not in name else import_object(name, "policy.name")
    return found if isinstance(found, type) and issubclass(found, Policy) else None


def _scores(policy: Policy) -> set[str]:
    """Return the names of the scores that a policy and its parts were made for."""
    found = getattr(policy, "score", None) if isinstance(policy, FittedPolicy) else None
    names = {found} if isinstance(found, str) else set()
    parts = getattr(policy, "parts", None)
    for part in parts.values() if isinstance(parts, dict) else ():
        names |= _scores(part)
    return names
