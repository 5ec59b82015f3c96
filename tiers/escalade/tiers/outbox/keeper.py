"""A file that is opened when it can be, tried again when it cannot, and replaced when it is damaged."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.outbox.database import Database
from escalade.tiers.outbox.errors import CorruptError, OutboxError, explained
from escalade.tiers.outbox.file import check_keys
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.salvage import drop_aside_files, finish, set_aside
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.outbox.stats import Forgotten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set
    from pathlib import Path

    from escalade.tiers.outbox.file import Kind, Synchronous
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)

SWEEP_S = 3600.0
"""Between two looks for what was set aside too long ago."""
SEALED = {"items": "payload", "corrections": "answer"}
"""Where it can be seen with which keys a file is encrypted."""
RETRY_S = 1.0
"""How long a file that cannot be opened is left alone."""


class Keeper(ABC):
    """The part of an outbox or inbox that has to do with its file; used on one thread.

    A subclass says what is kept in memory of the file's content (`_index`), what is told of it
    (`publish`), and writes in transactions of `open()`; it tells `_in_trouble` of each that failed
    and `_well` of each that did not.
    """

    def __init__(
        self,
        kind: Kind,
        path: Path,
        keep_aside_s: float,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        synchronous: Synchronous = "FULL",
        seal: Seal = UNSEALED,
    ) -> None:
        self.path, self._seal = path, seal
        self._keep_aside_s, self._sweep_at = keep_aside_s, float("-inf")
        self._kind, self._clock, self._wall, self._synchronous = kind, clock, wall, synchronous
        self._lock = FileLock(path, kind.name)
        self._database: Database | None = None
        self._counters: Counter[str] = Counter()
        """Replaced, never changed: `stats` reads them on another thread."""
        self._write_errors = 0
        self._trouble = ""
        self._retry_at = float("-inf")

    @abstractmethod
    def _index(self, database: Database, now: float) -> None:
        """Take over what a file that was just opened holds."""

    @abstractmethod
    def _deleted(self, devices: Set[str], corrections: Set[int]) -> None:
        """Let go of what is in memory of devices, and of corrections: they are on the disk no more."""

    @abstractmethod
    def publish(self) -> None:
        """Make the state visible to `stats`."""

    def open(self) -> Database:
        """Return the open file; open it first if it is time to try.

        Raises
        ------
        OutboxError
            It cannot be opened, or could not a moment ago.
        """
        if self._database is not None:
            return self._database
        now = self._clock()
        if now < self._retry_at:
            raise OutboxError(self._trouble)
        self._retry_at = now + RETRY_S
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            finish(self.path)
            if self._lock.used_before and self.path.exists() and not self.path.stat().st_size:
                self._set_aside(None, "the file is empty")
            try:
                return self._load(now)
            except CorruptError as error:
                self._set_aside(None, str(error))
                return self._load(now)
        except (OutboxError, OSError, sqlite3.Error, CorruptError) as error:
            raise self._in_trouble(error) from error

    def forget(self, devices: Set[str]) -> Forgotten:
        """Delete everything of some devices for good, damaged files too.

        Raises
        ------
        OutboxError
            Not all of it could be deleted, or overwritten; to be called again.
        """
        database = self.open()
        try:
            with self._reading(database):
                corrections = database.corrections_of(devices)
                counts = database.forget(devices, lambda: self._deleted(devices, corrections))
                return Forgotten(*counts, drop_aside_files(self.path))
        except OSError as error:
            raise self._in_trouble(error) from error
        finally:
            self.publish()

    def close(self) -> None:
        """Close the file, give up the lock."""
        if self._database is not None:
            self._database.close()
        self._database = None
        self._lock.release()

    def _load(self, now: float) -> Database:
        database = Database(self.path, self._kind, now=now, wall_s=self._wall(), synchronous=self._synchronous)
        try:
            check_keys(f"{self._kind.name} {self.path}", database.key_ids(SEALED), self._seal)
            self._index(database, now)
            self._counters = database.counters()
            database.checkpoint()
        except BaseException:
            database.close()
            raise
        self._database = database
        self._well()
        self.publish()
        return database

    def _sweep(self, database: Database, now: float) -> None:
        """Delete what was set aside as damaged when it is older than what is kept."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_S
        before_s = self._wall() - self._keep_aside_s
        try:
            database.drop_old_quarantined(before_s)
            drop_aside_files(self.path, before_s)
        except (CorruptError, sqlite3.Error, OSError) as error:
            log.warning(f"what was set aside of the {self._kind.name} cannot be deleted", reason=str(error))

    def _replace_damaged(self, database: Database, error: CorruptError) -> None:
        """Move a file aside that turned out to be damaged, and go on with what it still gives."""
        self._database = None
        try:
            self._set_aside(database, str(error))
            self._load(self._clock())
        except (OutboxError, OSError, sqlite3.Error, CorruptError) as failure:
            database.close()
            raise self._in_trouble(failure) from failure

    @contextmanager
    def _reading(self, database: Database) -> Iterator[None]:
        """Turn what the disk says into an `OutboxError`; a damaged file is replaced."""
        try:
            yield
        except CorruptError as error:
            self._replace_damaged(database, error)
            name = f"{self._kind.name} {self.path}"
            raise OutboxError(f"{name}: damaged ({error}), and replaced by what could be read") from error
        except sqlite3.Error as error:
            raise self._in_trouble(error) from error

    def _set_aside(self, damaged: Database | None, why: str) -> None:
        set_aside(self.path, self._kind, damaged, why, wall_s=self._wall(), synchronous=self._synchronous)

    def _well(self) -> None:
        if self._trouble:
            log.info(f"{self._kind.name} works again", file=str(self.path))
            self._trouble = ""

    def _in_trouble(self, error: Exception) -> OutboxError:
        """Say it once, and remember it."""
        if isinstance(error, (sqlite3.Error, OSError)):
            error = explained(error, f"{self._kind.name} {self.path}")
        elif not isinstance(error, OutboxError):
            error = OutboxError(f"{self._kind.name} {self.path}: {error}")
        if str(error) != self._trouble:
            log.error(f"{self._kind.name} cannot keep items", reason=str(error))
            self._trouble = str(error)
        self.publish()
        return error
