"""When to leave a failing tier above alone: a circuit breaker. No clock, no I/O."""

from __future__ import annotations

import random
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HURRIED = 4.0
"""A call that was given less than so many times the usual latency says nothing about the peer by being late."""


class Circuit(Enum):
    """What a breaker does with the next call."""

    CLOSED = "closed"  #: lets it pass
    OPEN = "open"  #: refuses it, until some time has passed
    HALF_OPEN = "half_open"  #: refuses it: one call is under way to find out


class Breaker:
    """Opens after failures in a row, then lets a single call pass now and again until one succeeds.

    Without it every request that wants a frozen peer waits its whole budget before it is answered below.

    Parameters
    ----------
    failures:
        So many in a row open it.
    wait_s, max_wait_s:
        How long it stays open; doubled after every failed probe, up to the most.
    uniform:
        A random number in [0, 1): waits are shortened by up to a quarter, so that many tiers below one
        server do not all probe it at the same moment.

    Examples
    --------
    >>> breaker = Breaker(failures=2, wait_s=1.0, max_wait_s=8.0, uniform=lambda: 0.0)
    >>> for now in (0.0, 0.1):
    ...     assert breaker.allows(now)
    ...     breaker.failed(now)
    >>> breaker.state.value, breaker.allows(0.5)
    ('open', False)
    >>> breaker.allows(1.2), breaker.state.value, breaker.allows(1.2)  # one probe, and only one
    (True, 'half_open', False)
    >>> breaker.succeeded(1.3, elapsed_s=0.02)
    >>> breaker.state.value
    'closed'
    """

    def __init__(
        self, *, failures: int, wait_s: float, max_wait_s: float, uniform: Callable[[], float] = random.random
    ) -> None:
        self.state = Circuit.CLOSED
        self.since: float | None = None
        """When the state was entered; None before the first change."""
        self._failures, self._wait_s, self._max_wait_s, self._uniform = failures, wait_s, max_wait_s, uniform
        self._in_a_row = 0
        self._next_wait_s = wait_s
        self._until = 0.0
        self._usual_s: float | None = None

    def ready(self, now: float) -> bool:
        """Whether `allows` would say yes."""
        return self.state is Circuit.CLOSED or (self.state is Circuit.OPEN and now >= self._until)

    def allows(self, now: float) -> bool:
        """Whether a call may be made; the caller then says how it ended, in one of the three ways below."""
        if self.state is Circuit.CLOSED:
            return True
        if not self.ready(now):
            return False
        self._enter(Circuit.HALF_OPEN, now)
        return True

    def hurried(self, waited_s: float) -> bool:
        """Whether a call that was given so long says nothing about the peer by being late."""
        return self._usual_s is not None and waited_s < HURRIED * self._usual_s

    def succeeded(self, now: float, elapsed_s: float | None = None) -> None:
        """The peer answered, in `elapsed_s`; None where it only refused: it is alive, but was not at work."""
        if elapsed_s is not None:
            self._usual_s = elapsed_s if self._usual_s is None else self._usual_s + 0.1 * (elapsed_s - self._usual_s)
        self._in_a_row, self._next_wait_s = 0, self._wait_s
        if self.state is not Circuit.CLOSED:
            self._enter(Circuit.CLOSED, now)

    def failed(self, now: float, waited_s: float | None = None) -> None:
        """The peer could not be reached, or gave no answer in the `waited_s` that it was given."""
        if self.state is Circuit.HALF_OPEN:
            self._open(now)
        elif self.state is Circuit.CLOSED and not (waited_s is not None and self.hurried(waited_s)):
            self._in_a_row += 1
            if self._in_a_row >= self._failures:
                self._open(now)

    def abandoned(self, now: float) -> None:
        """The caller gave up: nothing is known; the next call may find out."""
        if self.state is Circuit.HALF_OPEN:
            self._until = now
            self._enter(Circuit.OPEN, now)

    def silent(self, now: float) -> None:
        """The peer does not even answer when asked whether it is there: no call need find that out for a while.

        Said again and again, it keeps calls away as long as it lasts; a call under way still decides for itself.
        """
        if self.state is Circuit.HALF_OPEN:
            return
        self._until = now + self._shortened(self._max_wait_s)
        if self.state is Circuit.CLOSED:
            self._enter(Circuit.OPEN, now)

    def awake(self, now: float) -> None:
        """The peer, silent before, says that it is there: the next call may find out at once whether it works."""
        if self.state is Circuit.OPEN:
            self._until = now

    def _open(self, now: float) -> None:
        self._until = now + self._shortened(self._next_wait_s)
        self._next_wait_s = min(2 * self._next_wait_s, self._max_wait_s)
        self._enter(Circuit.OPEN, now)

    def _shortened(self, wait_s: float) -> float:
        return wait_s * (1 - self._uniform() / 4)

    def _enter(self, state: Circuit, now: float) -> None:
        self.state, self.since = state, now
