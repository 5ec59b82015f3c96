"""Runs `escalade` with parts of it broken or deceived, as the environment says; for the chaos suite only.

A file to be run, not a module to be imported: what it replaces must be replaced before anything of `escalade` is there.

`ESCALADE_CHAOS_CLOCK`
    A file with a number of seconds by which the time of day is wrong.
`ESCALADE_CHAOS_BREAK`
    What is switched off: `breaker`, `dedup`, `fsync`.
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path
from typing import Any

LATE_COMMIT_S = 0.3


def deceive_clock(file: Path) -> None:
    """Let `time.time` be wrong by what the file says."""
    true = time.time

    def deceived() -> float:
        try:
            return true() + float(file.read_text() or 0)
        except (OSError, ValueError):
            return true()

    time.time = deceived


def without_breaker() -> None:
    """Ask a dead peer again for every request."""
    from escalade.tiers.breaker import Breaker

    def allows(self: Breaker, now: float) -> bool:
        del self, now
        return True

    Breaker.allows = allows  # type: ignore[method-assign]


def without_fsync() -> None:
    """Acknowledge before the commit, which comes late and is not synced: a kill loses what a power cut would."""
    from escalade.tiers.outbox.store import Outbox
    from escalade.tiers.outbox.writer import Writer

    made, write = Outbox.__init__, Writer.write

    def early(self: Outbox, *args: Any, **options: Any) -> None:
        made(self, *args, **(options | {"synchronous": "OFF", "acknowledge": "before_commit"}))

    def late(self: Writer, *args: Any, **options: Any) -> Any:
        time.sleep(LATE_COMMIT_S)
        return write(self, *args, **options)

    Outbox.__init__ = early  # type: ignore[method-assign]
    Writer.write = late  # type: ignore[method-assign]


def without_dedup() -> None:
    """Take every repeat for something new."""
    from escalade.tiers.outbox.dedup import DedupWindow

    def claim(self: DedupWindow[Any], *args: Any, **options: Any) -> None:
        del self, args, options

    DedupWindow.claim = claim  # type: ignore[method-assign]


BREAKS = {"breaker": without_breaker, "dedup": without_dedup, "fsync": without_fsync}


def main() -> None:
    """Break what is to be broken, then be `escalade`."""
    if clock := os.environ.get("ESCALADE_CHAOS_CLOCK"):
        deceive_clock(Path(clock))
    for name in os.environ.get("ESCALADE_CHAOS_BREAK", "").split():
        BREAKS[name]()
    runpy.run_module("escalade.cli.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
