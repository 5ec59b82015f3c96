"""An outbox that no tier is running on: looked at, copied out, its quarantine emptied."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.outbox.correction import from_row as correction_from_row
from escalade.tiers.outbox.database import Database
from escalade.tiers.outbox.errors import CorruptError, OutboxError, explained
from escalade.tiers.outbox.file import OUTBOX
from escalade.tiers.outbox.item import Item, Leased, from_row
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.salvage import aside_files, drop_aside_files, finish
from escalade.tiers.outbox.stats import Forgotten

if TYPE_CHECKING:
    from collections.abc import Iterator, Set
    from pathlib import Path

    from escalade.tiers.outbox.correction import Correction
    from escalade.tiers.outbox.file import Kind


class Damaged(NamedTuple):
    """A row that is not what was stored; its columns as they are."""

    seq: int
    columns: tuple[Any, ...]


class Offline:
    """A stopped tier's outbox, or inbox. Made by `offline`; nothing is evicted or repaired by looking."""

    def __init__(self, path: Path, database: Database, kind: Kind) -> None:
        self.path, self._database, self.kind = path, database, kind

    def items(self) -> Iterator[Leased | Damaged]:
        """Yield every item in the order in which it would be sent, of an inbox in which it came."""
        known, bad = self._database.known()
        by_rank = self.kind == OUTBOX
        for entry in sorted(known, key=lambda entry: (entry.rank if by_rank else 0, entry.seq)):
            row = self._database.rows([entry.seq])[entry.seq]
            try:
                yield Leased(entry.seq, from_row(row), entry.attempts, entry.age_s)
            except ValueError:
                yield Damaged(entry.seq, row)
        for seq, row in self._database.rows(bad).items():
            yield Damaged(seq, row)

    def quarantined(self) -> Iterator[tuple[int, Item | None, tuple[Any, ...]]]:
        """Yield rows that were set aside: number, the item if it can be read all the same, columns."""
        for row in self._database.quarantined():
            yield row[0], _forgiving(row), row

    def corrections(self) -> Iterator[Correction]:
        """Yield every sound correction that is kept, oldest first."""
        after = -1
        while rows := self._database.corrections(after, 256):
            for row in rows:
                with suppress(ValueError):
                    yield correction_from_row(row)
            after = rows[-1][0]

    def aside_files(self) -> list[Path]:
        """Return damaged files that were moved aside."""
        return aside_files(self.path)

    def counters(self) -> dict[str, int]:
        """Return evictions (`evicted.REASON.PRIORITY`), `quarantined` items and `corrupt_files`, ever."""
        return dict(self._database.counters())

    def forget(self, devices: Set[str]) -> Forgotten:
        """Delete everything of some devices, and overwrite it with what is kept."""
        return Forgotten(*self._database.forget(devices), drop_aside_files(self.path))

    def drop_quarantine(self) -> tuple[int, int]:
        """Delete what was set aside; return how many items and how many files."""
        return self._database.drop_quarantined(), drop_aside_files(self.path)


@contextmanager
def offline(path: Path, kind: Kind = OUTBOX) -> Iterator[Offline]:
    """Open an outbox, or an inbox, that no process has open.

    Raises
    ------
    OutboxError
        There is none, a process has it open, or it cannot be read.
    """
    if not path.exists() and not path.with_name(f"{path.name}.new").exists():
        raise OutboxError(f"{kind.name} {path}: no such file")
    lock = FileLock(path, kind.name)
    lock.acquire()
    try:
        finish(path)
        database = Database(path, kind, now=time.monotonic(), wall_s=time.time())
        try:
            yield Offline(path, database, kind)
        finally:
            database.close()
    except BrokenPipeError:  # the caller's own: whoever reads what it prints has seen enough
        raise
    except CorruptError as error:
        raise OutboxError(
            f"{kind.name} {path}: damaged ({error}); the tier moves it aside when it starts, and keeps what it can read"
        ) from error
    except (sqlite3.Error, OSError) as error:
        raise explained(error, f"{kind.name} {path}") from error
    finally:
        lock.release()


def _forgiving(row: tuple[Any, ...]) -> Item | None:
    """Read a row whatever its checksum says."""
    try:
        return Item(str(row[5], "utf-8", "replace"), str(row[6], "utf-8", "replace"), row[8], provisional=row[7])
    except (TypeError, ValueError):
        return None
