"""Ctrl-C and termination: nothing that the demo started may outlive it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import FrameType, TracebackType
    from typing import Any, Self, TypeVar

    T = TypeVar("T")

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A signal ended the run.

    Attributes
    ----------
    exit_code:
        128 plus the signal's number, as a shell reports it.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Interrupts:
    """Inside the `with` block, a signal is noted and acted upon only where the code asks for it.

    So it can never fall between the start of a process and its entry into the list of what to stop, nor into
    the stopping itself. `check` and `run` raise Interrupted once a signal has come; leaving the block does
    when nothing else did.

    Attributes
    ----------
    received:
        The first signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._cancel: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raise Interrupted when a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; a signal cancels it and comes out as Interrupted."""

        async def cancellable() -> T:
            task = asyncio.create_task(main)
            self._cancel = (asyncio.get_running_loop(), task)
            if self.received is not None:  # it came before there was a task to cancel
                task.cancel()
            try:
                return await task
            finally:
                self._cancel = None

        try:
            return asyncio.run(cancellable())
        except asyncio.CancelledError:
            self.check()
            raise

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup: stays ignored
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return
        self.received = number
        if self._cancel:
            loop, task = self._cancel
            loop.call_soon_threadsafe(task.cancel)
