"""A time of day that jumps, for one process: a small library in C, preloaded into it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

YEAR_S = 365 * 24 * 3600
_SOURCE = Path(__file__).with_name("clock.c")


class WrongClock:
    """The time of day of a process, wrong by what it was last set to; monotonic clocks are right.

    Attributes
    ----------
    missing:
        Why that is not possible here; empty when it is.
    environment:
        What the process is to be started with.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        library = folder / "clock.so"
        self.missing = _built(library)
        self.environment: dict[str, str] = {}
        if not self.missing:
            self.environment = {"ESCALADE_CHAOS_CLOCK": str(self._file), "LD_PRELOAD": str(library)}

    def set(self, seconds: int) -> None:
        """Let it be wrong by so much from now on."""
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(handle, struct.pack("q", seconds), 0)
        os.close(handle)


def _built(library: Path) -> str:
    """Compile the library; return why not."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return "needs Linux and a C compiler `cc`"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"cc: {made.stderr.strip().splitlines()[-1]}" if made.returncode else ""
