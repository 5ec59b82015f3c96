"""What can be wrong with an outbox. All are `TierError`s: nothing was promised, and the tier keeps answering.

::

    TierError
     └── OutboxError             the item could not be kept: disk full, read-only folder, I/O error, closed
          ├── OutboxFullError    no room for it that may be made
          └── OutboxBusyError    another process has the outbox; the message names its pid
"""

from __future__ import annotations

import errno
import sqlite3

from escalade.tiers.errors import TierError

_READ_ONLY = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class OutboxError(TierError):
    """The outbox cannot keep an item now; the message is one line: what, where and what to do."""


class OutboxFullError(OutboxError):
    """Everything that might make room is more urgent than the item, in flight, or not enough."""


class OutboxBusyError(OutboxError):
    """Another process has this outbox open."""


class CorruptError(Exception):
    """The file is no sound SQLite database; raised and handled inside the outbox."""


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is damaged."""
    return _code(error) in _CORRUPT


def explained(error: sqlite3.Error | OSError, name: str) -> OutboxError:
    """Return one line on what the disk refused to what is called `name`."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return OutboxError(f"{name}: the disk is full; free some space or lower its max_mb")
        return OutboxError(f"{name}: {error.strerror or error}; check the folder and its rights")
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return OutboxError(f"{name}: the disk is full; free some space or lower its max_mb")
    if code in _READ_ONLY:
        return OutboxError(f"{name}: cannot be written ({error}); check the folder, its rights and its mount")
    if code == sqlite3.SQLITE_IOERR:
        return OutboxError(f"{name}: the disk fails ({error}); see the kernel's log")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutboxBusyError(f"{name}: another program, for example sqlite3, has it open; close it there")
    return OutboxError(f"{name}: {error}")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
