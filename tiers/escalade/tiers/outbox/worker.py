"""Group commit: what is asked while the thread is at work is served together when it is free again."""

from __future__ import annotations

import asyncio
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_GROUP = 256
"""Most requests served together."""


class Request(NamedTuple):
    """What one caller asked."""

    what: str
    argument: Any
    answer: asyncio.Future[Any]


Answers = list[tuple["asyncio.Future[Any]", Any]]
"""What to tell whom; an exception is raised there."""


class GroupThread:
    """A thread that serves the callers of one event loop in groups.

    Parameters
    ----------
    name:
        Of the thread, and in messages.
    serve:
        Called on the thread with a group and a list to put the answers in; what it returns is called on
        the loop after they were told. When it raises, whoever has no answer gets the exception. The last
        request is "close".
    abandon:
        Called on the thread instead, when the loop has ended without a `close`.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[list[Request], Answers], Callable[[], None] | None],
        abandon: Callable[[], None],
        max_group: int = MAX_GROUP,
    ) -> None:
        self._name, self._serve, self._abandon, self._max_group = name, serve, abandon, max_group
        self._incoming: list[Request] = []
        self._requests: SimpleQueue[list[Request]] = SimpleQueue()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def ask(self, what: str, argument: Any = None) -> asyncio.Future[Any]:
        """Return what will be the answer.

        Raises
        ------
        OutboxError
            Closed.
        """
        if self._closed:
            raise OutboxError(f"{self._name}: closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        answer: asyncio.Future[Any] = self._loop.create_future()
        if not self._incoming:
            self._loop.call_soon(self._hand_over)
        self._incoming.append(Request(what, argument, answer))
        return answer

    def tell(self, answers: Answers, then: Callable[[], None] | None = None) -> None:
        """Answer callers; from the thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_settle, answers, then)

    async def close(self) -> None:
        """Serve what was asked before, refuse what comes after, end the thread."""
        if not self._closed and self._thread is not None:
            closing = self.ask("close")
            self._closed = True
            await closing
            self._thread.join()
        self._closed = True

    def _hand_over(self) -> None:
        """Give the thread at once what was asked in one turn of the loop."""
        incoming, self._incoming = self._incoming, []
        self._requests.put(incoming)

    def _work(self) -> None:
        """Serve until closed; runs on the thread."""
        waiting: list[Request] = []
        while True:
            if not waiting:
                waiting = self._requests.get()
            while not self._requests.empty():
                waiting += self._requests.get()
            group, waiting = waiting[: self._max_group], waiting[self._max_group :]
            answers: Answers = []
            then = None
            try:
                then = self._serve(group, answers)
            except Exception as error:  # noqa: BLE001  # a fault of ours must not leave anyone waiting
                answered = {id(answer) for answer, _ in answers}
                answers += [(request.answer, error) for request in group if id(request.answer) not in answered]
            try:
                self.tell(answers, then)
            except RuntimeError:  # the loop is gone, and with it everyone who waited
                self._abandon()
                return
            if group[-1].what == "close":
                return


def _settle(answers: Answers, then: Callable[[], None] | None) -> None:
    """Answer the callers; runs on the loop."""
    for answer, result in answers:
        if answer.done():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
    if then is not None:
        then()
