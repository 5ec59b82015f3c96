"""A SQLite file that keeps what was acknowledged: opened, recognised, written in transactions.

WAL with `synchronous=FULL`: a transaction is on the disk when `transaction` returns. `locking_mode`
is EXCLUSIVE, so no other program can write the file beside us (SQLite before 3.51.3 has a bug in
resetting the WAL that takes two connections), and there is no shared-memory file.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers.outbox.database import MAX_WAL_BYTES, Synchronous, corruption_noticed, sync_folder
from escalade.tiers.outbox.errors import CorruptError, OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FileKind(NamedTuple):
    """What a file is for, and how it is known."""

    what: str
    """For errors."""
    application_id: int
    version: int
    schema: str
    own_table: str
    """Has it, hence is ours, whatever its header says."""


def open_file(path: Path, kind: FileKind, synchronous: Synchronous = "FULL") -> sqlite3.Connection:
    """Return a connection to a file of that kind, made when there is none. Any one thread may use it.

    Raises
    ------
    CorruptError
        It is no sound database.
    OutboxError
        It is sound, but not ours to use.
    sqlite3.Error
        The disk refuses.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
    try:
        with corruption_noticed():
            _set_up(connection, path, kind, synchronous)
    except BaseException:
        with suppress(sqlite3.Error):
            connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside is on the disk at the end, or nothing of it is stored."""
    with corruption_noticed():
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise


def _set_up(connection: sqlite3.Connection, path: Path, kind: FileKind, synchronous: Synchronous) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if tables and application != kind.application_id:
        named = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (kind.own_table,))
        if named.fetchone()[0]:
            raise CorruptError("the file's header is damaged")
        raise OutboxError(
            f"{kind.what} {path}: this is some other program's database; give the {kind.what} a path of its own"
        )
    if version > kind.version:
        raise OutboxError(f"{kind.what} {path}: written by a newer escalade (format {version}); update this one")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
    if not tables:
        with transaction(connection):
            for statement in kind.schema.split(";")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
            connection.execute(f"PRAGMA user_version = {kind.version}")
        sync_folder(path.parent)
