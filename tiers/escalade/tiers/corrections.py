"""Later, better answers to what was answered provisionally, for whoever wants them: in order, from where they left off.

Corrections are kept in the outbox's file, so a subscriber that was away, or a tier that restarted, loses
none of those that are still kept. Each subscriber remembers the last `seq` that it has dealt with.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from escalade.tiers.errors import EscaladeError
from escalade.tiers.outbox import OutboxError
from escalade.tiers.private import open_private, opener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.outbox import Correction as Stored
    from escalade.tiers.outbox import Outbox

log = structlog.get_logger(__name__)

LINE_START = b'{"seq": '
AGAIN_S = 1.0
"""An outbox that cannot be read, or a file that cannot be written, is tried again after so long."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A later, better answer.

    Attributes
    ----------
    seq:
        Greater than that of all corrections before it.
    device, id:
        Of the item; `id` is what the provisional answer's `kept` said.
    request_id, rows:
        The request, and which of its rows this is about.
    old, new:
        The provisional answer to these rows, and the final one.
    delay_s:
        From the one to the other.
    """

    seq: int
    device: str
    id: str
    request_id: str
    rows: tuple[int, ...]
    old: Answer
    new: Answer
    delay_s: float


class Corrections:
    """The corrections of one outbox, as a stream for each subscriber.

    Parameters
    ----------
    read:
        Decodes what was stored; UpstreamError (`bad_answer`) when it cannot.
    """

    def __init__(self, outbox: Outbox, read: Callable[[Stored], Correction]) -> None:
        self._outbox, self._read = outbox, read
        self._news = asyncio.Event()
        self._trouble = ""
        self._forgets = 0
        self._files = ThreadPoolExecutor(1, "escalade-corrections")  # one: a line that is cancelled is still written

    def announce(self) -> None:
        """There are new ones."""
        self._news.set()
        self._news = asyncio.Event()

    async def stored(self, after: int | None, *, until_now: bool = False) -> AsyncIterator[Stored]:
        """Yield what is stored after `after`, then what comes; `until_now` ends instead of waiting.

        A number greater than the last one is of another file: then all are told. None: those to come.
        """
        while True:
            news, forgets = self._news, self._forgets
            try:
                found = await self._outbox.corrections(after or 0)
            except OutboxError:
                if until_now:
                    raise
                await asyncio.sleep(AGAIN_S)
                continue
            last = self._outbox.stats().last_correction
            if after is None:
                after, found = last, []
            elif after > last:
                log.warning("corrections begin anew: the outbox is another one", after=after, last=last)
                after = 0
                continue
            for one in found:
                if self._forgets != forgets:  # it may be gone from the outbox meanwhile
                    break
                yield one
                after = one.seq
            if not found:
                if until_now:
                    return
                await news.wait()

    async def follow(self, callback: Callable[[Correction], Any], after: int | None) -> None:
        """Call back with each correction after `after`, until cancelled; what the callback raises is logged.

        What the callback returns is awaited if it can be. `after`: None for those to come.
        """
        async for stored in self.stored(after):
            try:
                result = callback(self._read(stored))
                if isawaitable(result):
                    await result
            except Exception as error:  # noqa: BLE001  # the application's own
                log.error("a subscriber of corrections failed", seq=stored.seq, error=repr(error))

    async def append_to(self, path: Path, max_bytes: int) -> None:
        """Write each correction as a line of JSON, once, until cancelled.

        A file that would grow beyond `max_bytes` loses its older half.
        """
        while True:
            await self._append(path, max_bytes, until_now=False)
            await asyncio.sleep(AGAIN_S)

    async def append_rest(self, path: Path, max_bytes: int) -> None:
        """Write those that `append_to` was not in time for; nothing can be written after."""
        await self._append(path, max_bytes, until_now=True)
        self._files.shutdown()

    async def forget(self, device: str, path: Path | None) -> int:
        """Tell nobody of what the outbox has just deleted, and leave a device's lines out of the file.

        Returns how many lines there were; OSError when the file cannot be rewritten.
        """
        self._forgets += 1
        if path is None:
            return 0
        return await asyncio.get_running_loop().run_in_executor(self._files, drop_lines, path, device)

    async def _append(self, path: Path, max_bytes: int, *, until_now: bool) -> None:
        """Go on after the file's last line; return when the file cannot be written, and say so once."""
        try:
            loop = asyncio.get_running_loop()
            after = await loop.run_in_executor(self._files, last_seq, path)
            async for stored in self.stored(after, until_now=until_now):
                line = json.dumps(as_json(self._read(stored)), allow_nan=False)
                await loop.run_in_executor(self._files, _append_line, path, line, max_bytes)
                if self._trouble:
                    log.info("corrections are written again", file=str(path))
                    self._trouble = ""
        except (OSError, ValueError, EscaladeError) as error:
            if str(error) != self._trouble:
                log.error("corrections cannot be written", file=str(path), reason=str(error))
            self._trouble = str(error)


def as_json(correction: Correction) -> dict[str, Any]:
    """Return a correction as a line of a file says it."""
    return {
        "seq": correction.seq,
        "device": correction.device,
        "id": correction.id,
        "request_id": correction.request_id,
        "rows": list(correction.rows),
        "old": _plain(correction.old),
        "new": _plain(correction.new),
        "delay_s": round(correction.delay_s, 3),
    }


def last_seq(path: Path) -> int:
    """Return the `seq` of the file's last whole line, 0 without one; a line that a crash cut short is cut off.

    Raises
    ------
    ValueError
        The file holds something else; it is not touched.
    """
    try:
        with path.open("r+b") as file:
            size = start = file.seek(0, os.SEEK_END)
            tail = b""
            while start and tail.count(b"\n") < 2:
                start = max(0, start - 65_536)
                file.seek(start)
                tail = file.read(size - start)
            whole = tail[: tail.rfind(b"\n") + 1]
            torn = tail[len(whole) :]
            lines = whole.splitlines()
            seq = _seq_of(lines[-1]) if lines else 0
            if seq is None or not (torn.startswith(LINE_START[: len(torn)])):
                raise ValueError("it is not a file of corrections; name another in outbox.corrections")
            if torn:
                file.truncate(start + len(whole))
            return seq
    except FileNotFoundError:
        return 0


def _seq_of(line: bytes) -> int | None:
    try:
        found = json.loads(line)
        return int(found["seq"]) if line.startswith(LINE_START) else None
    except (ValueError, KeyError, TypeError):
        return None


def rewrite(path: Path, lines: Iterable[str]) -> None:
    """Replace a file's lines; it is whole at every moment, and as open to others as it was."""
    draft = path.with_name(f"{path.name}.part")
    with open_private(draft, "w") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def drop_lines(path: Path, device: str) -> int:
    """Leave out a device's lines of a file; return how many there were, 0 where there is no file."""
    path.with_name(f"{path.name}.part").unlink(missing_ok=True)  # of a crash
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    kept = [line for line in lines if _device_of(line) != device]
    if len(kept) < len(lines):
        rewrite(path, kept)
    return len(lines) - len(kept)


def _device_of(line: str) -> object:
    try:
        return json.loads(line).get("device")
    except (ValueError, AttributeError):  # cut short by a crash
        return None


def _append_line(path: Path, line: str, max_bytes: int) -> None:
    if path.exists() and path.stat().st_size + len(line) >= max_bytes:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rewrite(path, lines[len(lines) // 2 :])
    with open(path, "a", encoding="utf-8", opener=opener) as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _plain(answer: Answer) -> dict[str, Any]:
    plain: dict[str, Any] = {"tier": answer.tier, "score": numbers(answer.score)}
    if answer.label is not None:
        plain["label"] = answer.label.tolist()
    if answer.posterior is not None:
        plain["posterior"] = [numbers(row) for row in answer.posterior]
    if answer.outputs is not None:
        plain["outputs"] = {name: _nested(array) for name, array in answer.outputs.items()}
    if answer.reason:
        plain["reason"] = answer.reason
    return plain


def numbers(row: NDArray[Any]) -> list[float | None]:
    """Return numbers as JSON has them: six places, null for what is none."""
    return [round(value, 6) if math.isfinite(value) else None for value in row.astype(np.float64).tolist()]


def _nested(array: NDArray[Any]) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    return numbers(array) if array.ndim == 1 else [_nested(part) for part in array]
