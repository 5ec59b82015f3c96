"""The answers that are kept, in order, for those who watch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from escalade.tiers.errors import DrainingError, ForgottenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from escalade.tiers.aggregator.event import Answer


class AnswerLog:
    """At most `max_kept` answers with consecutive numbers; a watcher holds no more than its place.

    Parameters
    ----------
    answers:
        Of an earlier run.
    """

    def __init__(self, max_kept: int, answers: Sequence[Answer] = ()) -> None:
        self._max_kept = max_kept
        self._answers: dict[int, Answer] = {}
        self._news: asyncio.Future[None] | None = None
        self._closed = False
        self.last = 0
        self.watchers = 0
        self.publish(answers)

    @property
    def oldest(self) -> int:
        """The number of the oldest answer that is kept, or of the next where none is."""
        return next(iter(self._answers), self.last + 1)

    def publish(self, answers: Sequence[Answer]) -> None:
        """Append answers and tell the watchers."""
        for answer in answers:
            self._answers[answer.sequence] = answer
            self.last = answer.sequence
        while len(self._answers) > self._max_kept:
            del self._answers[next(iter(self._answers))]
        if answers:
            self._wake()

    def since(self, after: int) -> list[Answer]:
        """Return the answers with a number above `after` that are kept."""
        return [answer for answer in self._answers.values() if answer.sequence > after]

    async def watch(self, after: int) -> AsyncIterator[Answer]:
        """Yield every answer with a number above `after`, then those to come.

        Raises
        ------
        ForgottenError
            Some of them are not kept any more: the watcher was away, or too slow, for too long.
        DrainingError
            The aggregator stops: watch again, after the last number seen.
        """
        if after > self.last:
            raise ForgottenError(f"there is no answer {after} yet; the last is {self.last}")
        self.watchers += 1
        try:
            while not self._closed:
                if after + 1 < self.oldest:
                    raise ForgottenError(
                        f"answers up to {self.oldest - 1} are not kept any more; go on after {self.oldest - 1}, "
                        "and raise `max_kept` if that happens often"
                    )
                if after < self.last:
                    after += 1
                    yield self._answers[after]
                    continue
                if self._news is None:
                    self._news = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._news)
            raise DrainingError("the aggregator is stopping; watch again, after the last answer seen")
        finally:
            self.watchers -= 1

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)
