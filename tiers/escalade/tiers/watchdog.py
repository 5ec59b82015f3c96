"""Ends a process whose event loop stands still, for whoever supervises it to start it again."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.model import OnnxModel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

log = structlog.get_logger(__name__)

EXIT_CODE = 70
"""Of a process that ended itself (EX_SOFTWARE); 2, after which systemd does not start it again, it is not."""
TICKS = 20
"""So many ticks of the thread without a sign of life of the loop are too many."""
SAY_S = 2.0
"""So long the last words may take: what the loop hangs in may be the log."""


class Watchdog:
    """Ends the process when its event loop has not run anything for so long.

    A thread counts its own ticks, and the loop sets the count back. Time in which the whole process stands (SIGSTOP,
    a suspended machine) has no ticks and so does not count. Not noticed: native code that hangs without letting go of
    the interpreter's lock; onnxruntime lets go of it.

    Parameters
    ----------
    limit_s:
        Seconds.
    facts:
        Of the process, for its last line in the log.
    leave:
        Ends the process with an exit code, at once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit_s: float,
        *,
        facts: dict[str, str],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._loop, self._limit_s, self._facts, self._leave = loop, limit_s, facts, leave
        self._tick_s, self._silent = limit_s / TICKS, 0
        self._watched = threading.get_ident()
        self._stopped = threading.Event()
        self._beat()
        threading.Thread(target=self._watch, name="escalade-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _beat(self) -> None:
        self._silent = 0
        if not self._stopped.is_set():
            self._loop.call_later(self._tick_s, self._beat)

    def _watch(self) -> None:
        while self._silent <= TICKS:
            self._silent += 1
            time.sleep(self._tick_s)
            if self._stopped.is_set():
                return
        last_words = threading.Thread(target=self._say, daemon=True)
        last_words.start()
        last_words.join(SAY_S)
        self._leave(EXIT_CODE)

    def _say(self) -> None:
        where, model_runs = _place(sys._current_frames().get(self._watched))
        log.critical(
            "the event loop stands still; ending, to be started again",
            for_s=self._limit_s,
            where=where,
            model_runs=model_runs,
            **self._facts,
        )
        sys.stderr.flush()


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """Return where a thread is, and whether it runs a model there."""
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown"
    while frame and frame.f_code is not OnnxModel.run.__code__:
        frame = frame.f_back
    return where, frame is not None
