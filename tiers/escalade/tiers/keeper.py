"""What a tier promises to ask again: rows that stayed unanswered, put into its outbox."""

from __future__ import annotations

import asyncio
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from escalade.tiers.outbox.errors import OutboxError, OutboxFullError
from escalade.tiers.outbox.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.caller import Caller
    from escalade.tiers.outbox import Outbox, Priority

log = structlog.get_logger(__name__)

REQUEST_ID_CHARACTERS = 48
"""So much of a request's id goes into its item's; the whole id is kept in the provisional answer."""


class KeptWire(Protocol):
    """A port: inputs and answers as bytes that outlive the process."""

    def request(self, x: NDArray[Any], request_id: str) -> bytes:
        """Return the input of the rows."""
        ...

    def input(self, payload: bytes) -> NDArray[Any]:
        """Return the rows of a `request`; CallerError when they fit the model no longer."""
        ...

    def answer(self, answer: Answer, request_id: str = "", rows: NDArray[Any] | None = None) -> bytes:
        """Return an answer, and which rows of its request it is about."""
        ...


class NotKeptError(Exception):
    """Nothing is promised; `reason` is a key of `answer.REASONS`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Keeper:
    """Puts rows into the outbox and gives back the name by which a correction will come.

    Parameters
    ----------
    device:
        Whose the inputs are when a caller does not say.
    everything:
        Whether escalations that failed are kept, not only what the policy defers.
    wait_s:
        The longest wait for the disk.
    put:
        Called after an item was put: there is something to send.
    may_leave:
        Whether an input of a priority may ever be sent: what may not is not kept either.
    """

    def __init__(
        self,
        outbox: Outbox,
        wire: KeptWire,
        *,
        device: str,
        everything: bool,
        wait_s: float,
        put: Callable[[], None],
        may_leave: Callable[[Priority], bool],
    ) -> None:
        self._may_leave = may_leave
        self.everything, self.rows = everything, 0
        self._outbox, self._wire, self._device, self._wait_s, self._put = outbox, wire, device, wait_s, put
        self._names = count(1)
        self._run = secrets.token_hex(4)  # no two runs give one name twice
        self._late: set[asyncio.Future[int]] = set()

    async def keep(
        self, x: NDArray[Any], rows: NDArray[Any], answer: Answer, caller: Caller, request_id: str, left_s: float
    ) -> str:
        """Return the item's id once it is on the disk, at the latest in `left_s`.

        Parameters
        ----------
        x, rows, answer:
            The rows' inputs, their places in the request, and what was answered to them meanwhile.

        Raises
        ------
        NotKeptError
            It is not, or not yet: nothing may be promised.
        """
        if not self._may_leave(caller.priority):
            raise NotKeptError("egress")
        name = f"{request_id[:REQUEST_ID_CHARACTERS]}~{self._run}{next(self._names):x}"
        item = Item(
            caller.device or self._device,
            name,
            self._wire.request(x, request_id),
            priority=caller.priority,
            created_s=time.time(),
            provisional=self._wire.answer(answer, request_id, rows),
        )
        put = asyncio.ensure_future(self._outbox.put(item))
        try:
            await asyncio.wait_for(asyncio.shield(put), min(self._wait_s, left_s))
        except OutboxFullError:
            raise NotKeptError("outbox_full") from None
        except OutboxError:
            raise NotKeptError("outbox_failed") from None
        except TimeoutError:
            self._late.add(put)
            put.add_done_callback(self._came_late)
            raise NotKeptError("outbox_slow") from None
        self.rows += len(rows)
        self._put()
        return name

    def _came_late(self, put: asyncio.Future[int]) -> None:
        """An item that was put after nobody waited for it any more is sent all the same."""
        self._late.discard(put)
        if not put.cancelled() and put.exception() is None:
            self._put()
