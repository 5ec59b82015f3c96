"""Tiers as processes of their own: for tests of what happens when one dies, freezes and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

STOP_SECONDS = 15.0


class TierProcess:
    """`escalade serve` as a child process, from a mapping of the form of its YAML.

    It stays in this process's group, so that whoever ends the group ends it too. `ESCALADE__...` variables
    of this process are not passed on: the mapping says what runs.

    Parameters
    ----------
    config:
        The tier; `listen.address` is a free port of the loopback unless it is given.
    folder:
        Where its YAML is written.
    environment:
        More environment variables.
    program:
        What the interpreter runs with the arguments of `escalade`.
    start_seconds:
        How long it may take to serve.

    Attributes
    ----------
    address:
        Where it serves. A later start takes the same port.
    stderr:
        The lines that it printed on standard error since the last start.

    Examples
    --------
    ::

        with TierProcess({"tier": "edge_server", "model": {"file": "digits.onnx"}}, tmp_path) as server:
            server.kill()  # and see what the tiers below answer
            server.start()
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "escalade.cli.main"),
        start_seconds: float = 30.0,
    ) -> None:
        self.tier = str(config["tier"])
        self.address = str(config.get("listen", {}).get("address", "127.0.0.1:0"))
        self.stderr: list[str] = []
        self._config, self._environment, self._start_seconds = dict(config), environment or {}, start_seconds
        self._program = list(program)
        self._file = folder / f"{self.tier}-{id(self):x}.yaml"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._printed = threading.Condition()
        self._ended = True

    @property
    def pid(self) -> int:
        """The process's id; RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"the {self.tier} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and not yet waited for."""
        return self._process is not None

    def start(self) -> str:
        """Start it, wait until it serves and return its address; RuntimeError with its last line when it does not."""
        self.launch()
        served = self.wait_for("serving")
        if served is None:
            code = self.stop()
            last = self.stderr[-1] if self.stderr else "it printed nothing"
            raise RuntimeError(f"the {self.tier} does not serve (exit code {code}): {last}")
        self.address = str(served["address"])
        return self.address

    def launch(self) -> None:
        """Start it and return at once."""
        if self._process is not None:
            raise RuntimeError(f"the {self.tier} runs already")
        listen = {**self._config.get("listen", {}), "address": self.address}
        self._file.write_text(yaml.safe_dump({**self._config, "listen": listen}, sort_keys=False))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ESCALADE__")}
        command = ["serve", self.tier.replace("_", "-"), "--config", str(self._file)]
        self.stderr, self._ended = [], False
        self._process = subprocess.Popen(
            [sys.executable, *self._program, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, **self._environment},
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def events(self) -> list[dict[str, Any]]:
        """Return what it logged since the last start, as JSON says it."""
        return [json.loads(line) for line in list(self.stderr) if line.startswith("{")]

    def wait_for(self, event: str) -> dict[str, Any] | None:
        """Return the first log entry of that name once it is there; None when the process ends without it."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [entry for entry in self.events() if entry["event"] == event]
            return bool(found) or self._ended

        with self._printed:
            self._printed.wait_for(there, self._start_seconds)
        return found[0] if found else None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Let it hang with its connections open (SIGSTOP), as a machine that swaps or a cable that is cut."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL): nothing is drained."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Ask it to stop (SIGTERM), frozen or not, and return its exit code; kill it after `STOP_SECONDS`."""
        self.thaw()
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Return its exit code once it has ended; kill it after `STOP_SECONDS`."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            raise RuntimeError(f"the {self.tier} does not run")
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        self._process = None
        return process.returncode

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as pipe:
            for line in pipe:
                with self._printed:
                    self.stderr.append(line.rstrip("\n"))
                    self._printed.notify_all()
        with self._printed:
            self._ended = True
            self._printed.notify_all()
