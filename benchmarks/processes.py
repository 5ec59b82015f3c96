"""Servers as processes: started, pinned, waited for, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"serving (?:\S+ )*?((?:127\.0\.0\.1|localhost|0\.0\.0\.0):\d+)")
OUR_READY = re.compile(r'(?=.*"event": "serving").*"address": "([^"]+)"')


def all_cores() -> list[int]:
    """Return the cores this process may use; empty where they cannot be chosen."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def split_cores() -> tuple[list[int], list[int]]:
    """Return the server's core and the load generator's; no pinning with fewer than two."""
    cores = all_cores()
    return ([cores[0]], [cores[1]]) if len(cores) > 1 else ([], [])


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread, and the processes it starts meanwhile, on `cores`; empty: no change."""
    before = all_cores()
    if cores and before:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores and before:
            os.sched_setaffinity(0, before)


class ServerError(RuntimeError):
    """A server did not start; the text is the end of what it printed."""


class Server:
    """A process that prints where it serves. Use as a context manager.

    Parameters
    ----------
    ready:
        Matches the line that tells that it serves; its first group is the address.
    cores:
        Where the process and its children may run; empty: anywhere.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: re.Pattern[str] = READY,
        cores: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        self._ready, self._lines = ready, deque[str](maxlen=15)
        self._found = threading.Event()
        self._start_seconds = start_seconds
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ESCALADE__")}
        with pinned(cores):
            self._process = subprocess.Popen(  # the harness's own commands
                command,
                cwd=ROOT,
                env={**inherited, **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.address = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def __enter__(self) -> Self:
        self._found.wait(self._start_seconds)
        if not self.address:
            self.stop()
            raise ServerError("\n".join(self._lines) or f"printed nothing in {self._start_seconds:.0f} s")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, which ends its children; what of its group is left then is killed."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        if self._process.stdout and not self._reader.is_alive():
            self._process.stdout.close()

    def cpu_seconds(self) -> float:
        """Return the processor time used so far by the process and those below it; nan where /proc does not tell."""
        parents, seconds = {}, {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended meanwhile
                fields = file.read_text().rsplit(")", 1)[1].split()
                pid = int(file.parent.name)
                parents[pid] = int(fields[1])
                seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if self.pid not in seconds:
            return float("nan")
        family = {self.pid}
        while grown := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= grown
        return sum(seconds[pid] for pid in family)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.append(line.rstrip())
            if not self.address and (match := self._ready.search(line)):
                self.address = match.group(1).replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # compared, not bound
                self._found.set()
        self._found.set()


def bare_server(model: Path, cores: Sequence[int], above: Sequence[str] = ()) -> Server:
    """Start the hand-written servicer; `above`: the address and the model that it asks in its turn."""
    options = ["--above", above[0], "--above-model", above[1]] if above else []
    return Server([sys.executable, "-m", "benchmarks.bare", "--model", str(model), *options], cores=cores)


def echo_server(cores: Sequence[int]) -> Server:
    """Start the echo."""
    return Server([sys.executable, "-m", "benchmarks.bare", "--echo"], cores=cores)


def escalade_server(
    config: Mapping[str, object], folder: Path, cores: Sequence[int], module: str = "escalade.cli.main"
) -> Server:
    """Start a tier as a user does, `escalade serve`, from a mapping of its YAML's form."""
    tier = str(config["tier"])
    file = folder / f"{tier}-{len(list(folder.glob('*.yaml')))}.yaml"
    file.write_text(yaml.safe_dump({"listen": {"address": "127.0.0.1:0"}, "log": {"format": "json"}, **config}))
    command = [sys.executable, "-m", module, "serve", tier.replace("_", "-"), "--config", str(file)]
    return Server(command, ready=OUR_READY, cores=cores)
