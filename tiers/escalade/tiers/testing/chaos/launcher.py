"""Runs `escalade` with parts of it switched off, to see that the checker notices; for the chaos suite only.

`ESCALADE_CHAOS_BREAK` names them, separated by spaces: `breaker`, `dedup`, `fsync`.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from escalade.tiers.outbox.item import Item

LATE_COMMIT_S = 0.3


def without_breaker() -> None:
    """Ask a dead peer again for every request."""
    from escalade.tiers.breaker import Breaker

    def allows(self: Breaker, now: float) -> bool:
        del self, now
        return True

    Breaker.allows = allows  # type: ignore[method-assign]


def without_fsync() -> None:
    """Acknowledge at once, commit late and do not sync: a kill then loses what otherwise a power cut would."""
    from escalade.tiers.outbox.store import Outbox
    from escalade.tiers.outbox.writer import Writer

    made, put, write = Outbox.__init__, Outbox.put, Writer.write
    under_way = set[asyncio.Task[int]]()

    def unsynced(self: Outbox, *args: Any, **options: Any) -> None:
        made(self, *args, **(options | {"synchronous": "OFF"}))

    async def early(self: Outbox, item: Item) -> int:
        task = asyncio.create_task(put(self, item))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        return 0

    def late(self: Writer, *args: Any, **options: Any) -> Any:
        time.sleep(LATE_COMMIT_S)
        return write(self, *args, **options)

    Outbox.__init__ = unsynced  # type: ignore[method-assign]
    Outbox.put = early  # type: ignore[method-assign]
    Writer.write = late  # type: ignore[method-assign]


def without_dedup() -> None:
    """Take every repeat for something new, and store it again."""
    from escalade.tiers.outbox.dedup import DedupWindow
    from escalade.tiers.outbox.window import Window

    def nothing(self: object, *args: Any, **options: Any) -> None:
        del self, args, options

    DedupWindow.claim = nothing  # type: ignore[method-assign]
    Window.find = nothing  # type: ignore[method-assign]


BREAKS = {"breaker": without_breaker, "dedup": without_dedup, "fsync": without_fsync}


def main() -> None:
    """Switch off what is to be switched off, then be `escalade`."""
    for name in os.environ.get("ESCALADE_CHAOS_BREAK", "").split():
        BREAKS[name]()
    runpy.run_module("escalade.cli.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
