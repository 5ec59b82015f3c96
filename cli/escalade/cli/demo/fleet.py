"""Start, watch and stop the processes of the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from escalade.cli.demo.interrupts import Interrupts
    from escalade.cli.demo.layout import Member

READY_SECONDS = 30.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.05


class Fleet:
    """The processes that are running now; leaving the `with` block stops them all.

    The processes stay in this one's process group, so that whoever ends the group (a closed terminal, a CI
    job that runs out of time) ends them too.

    Parameters
    ----------
    logs:
        Folder of `<name>.log`, everything that a process prints.
    interrupts:
        Asked between starts and while waiting, so that a signal ends the start of a fleet.
    """

    def __init__(self, logs: Path, interrupts: Interrupts) -> None:
        self._logs = logs
        self._interrupts = interrupts
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob("*.log"):
            old.unlink()

    def __len__(self) -> int:
        return len(self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(
        self,
        members: Sequence[Member],
        ready: Callable[[str], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start processes at once and wait until each says that it is ready.

        Parameters
        ----------
        members:
            What to start.
        ready:
            Whether the server at an address is ready; called again and again.
        environment:
            `ESCALADE__...` overrides of their configuration. Those of the caller's own environment are not
            passed on: the demo's YAML files say what runs.

        Raises
        ------
        SetupError
            One ended, or was not ready within `READY_SECONDS`; the message names its log.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ESCALADE__")}
        for member in members:
            tier = member.tier.replace("_", "-")
            command = [
                sys.executable,
                "-m",
                "escalade.cli.main",
                "serve",
                tier,
                "--config",
                str(member.config),
            ]
            self._interrupts.check()
            with self._log(member.name).open("ab") as log:
                self._running[member.name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**inherited, **(environment or {})},
                )
        self._wait_ready(members, ready)

    def check(self) -> None:
        """Raise SetupError when a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise SetupError(f"{name} ended with exit code {process.returncode}: {self._last_line(name)}")

    def stop(self, members: Sequence[Member] | None = None) -> None:
        """Terminate processes (all by default), wait for them, kill what is left after `STOP_SECONDS`."""
        names = [name for name in self._running if members is None or name in {member.name for member in members}]
        for name in names:
            self._running[name].terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for name in names:
            try:
                self._running[name].wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._running[name].kill()
                self._running[name].wait()
            del self._running[name]

    def _wait_ready(self, members: Sequence[Member], ready: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for member in members:
            while not ready(member.address):
                self._interrupts.check()
                self.check()
                if time.monotonic() > deadline:
                    said = self._last_line(member.name)
                    raise SetupError(f"{member.name} is not ready after {READY_SECONDS:.0f} s: {said}")
                time.sleep(POLL_SECONDS)
            self.check()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it printed nothing'} (see {self._log(name)})"
