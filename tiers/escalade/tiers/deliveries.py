"""What outboxes below deliver: answered for good or not at all, and only once however often it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from escalade.tiers.answer import HIGHEST, Row
from escalade.tiers.errors import OverloadedError, UnavailableError
from escalade.tiers.outbox import DedupWindow, OutboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Set

    from escalade.tiers.answer import Answer
    from escalade.tiers.caller import Caller
    from escalade.tiers.outbox import Seen


class Window(Protocol):
    """A port: what was delivered lately. An `Inbox` remembers it over restarts, a `MemoryWindow` does not."""

    async def claim(self, device: str, id: str) -> Seen[bytes] | None:  # noqa: A002  # the wire's word
        """Return None for something new, now claimed, else what is known about it."""
        ...

    async def answered(self, device: str, id: str, answer: bytes) -> None:  # noqa: A002
        """Keep the answer for repeats."""
        ...

    async def release(self, device: str, id: str) -> None:  # noqa: A002
        """Forget a claim that came to nothing."""
        ...

    async def forget(self, devices: Set[str]) -> object:
        """Forget what came from some devices; say what that was, or nothing."""
        ...


class Deliveries:
    """Lets each delivery have its effect once.

    Parameters
    ----------
    window:
        What was delivered lately.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.repeats = 0
        """How many came again."""

    async def answer(
        self, caller: Caller, infer: Callable[[], Awaitable[Row | Answer]], encode: Callable[[Row | Answer], bytes]
    ) -> bytes:
        """Return the response to a delivery, the first one's if it was answered before.

        Raises
        ------
        OverloadedError
            The first is still being worked on.
        UnavailableError
            The answer cannot be remembered now, so it is not given: the delivery will come again.
        EscaladeError
            As `infer`.
        """
        window, name = self.window, (caller.device, caller.delivery)
        try:
            if seen := await window.claim(*name):
                self.repeats += 1
                if seen.answer is None:
                    raise OverloadedError("this delivery is being worked on; send it again in a moment")
                return seen.answer
            try:
                result = await infer()
                response = encode(result)
                if is_final(result):
                    await window.answered(*name, response)
                else:
                    await window.release(*name)
            except BaseException:
                await window.release(*name)
                raise
        except OutboxError as error:
            raise UnavailableError(f"deliveries cannot be remembered now: {error}") from error
        return response


def is_final(answer: Row | Answer) -> bool:
    """Whether asking again would give nothing better."""
    return isinstance(answer, Row) or answer.reason in HIGHEST or not answer.degraded.any()


class MemoryWindow:
    """A `Window` that forgets when the process ends: what comes again after that is worked on again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._window, self._clock = DedupWindow[bytes](), clock

    async def claim(self, device: str, id: str) -> Seen[bytes] | None:  # noqa: A002
        """See `Window`."""
        return self._window.claim(device, id, self._clock())

    async def answered(self, device: str, id: str, answer: bytes) -> None:  # noqa: A002
        """See `Window`."""
        self._window.answered(device, id, answer)

    async def release(self, device: str, id: str) -> None:  # noqa: A002
        """See `Window`."""
        self._window.release(device, id)

    async def forget(self, devices: Set[str]) -> None:
        """See `Window`."""
        self._window.forget(devices)
