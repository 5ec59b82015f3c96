"""A SQLite file of ours: made, recognised, upgraded; one connection, used by one thread.

WAL with `synchronous=FULL`: a transaction is on the disk when `transaction` returns. `locking_mode`
is EXCLUSIVE, so no other program can write the file beside us (SQLite before 3.51.3 has a bug in
resetting the WAL that takes two connections), and there is no shared-memory file.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from escalade.tiers.durable import sync_folder
from escalade.tiers.outbox.errors import CorruptError, OutboxError, is_corrupt
from escalade.tiers.outbox.sealing import KEY_ID_BYTES, MAGIC, Seal
from escalade.tiers.private import make_private, tighten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

Synchronous = Literal["FULL", "NORMAL", "OFF"]

MAX_WAL_BYTES = 8 * 1024 * 1024
PAGE_BYTES = 16 * 1024
"""Of files made from now on: less work and less space than SQLite's 4 KiB for items of some kilobytes."""
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""SQLite's default, which counts pages."""
_SCHEMAS = {
    1: """
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, since_s REAL NOT NULL, rank INTEGER NOT NULL,
    kind INTEGER NOT NULL, created_s REAL NOT NULL, checksum INTEGER NOT NULL,
    device BLOB NOT NULL, id BLOB NOT NULL, provisional BLOB NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE attempts (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE runs (run INTEGER PRIMARY KEY, opened_wall_s REAL NOT NULL);
CREATE TABLE quarantined (
    seq INTEGER PRIMARY KEY, wall_s REAL, rank, kind, created_s, checksum, device, id, provisional, payload
);
CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
""",
    2: """
CREATE TABLE IF NOT EXISTS corrections (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, since_s REAL NOT NULL, created_s REAL NOT NULL,
    delay_s REAL NOT NULL, checksum INTEGER NOT NULL,
    device BLOB NOT NULL, id BLOB NOT NULL, provisional BLOB NOT NULL, answer BLOB NOT NULL
);
""",
}
"""What each version of the format added."""

OUR_IDS = (0x45534F42, 0x45534942, 0x45534147)
"""SQLite's `application_id` of every kind of file that escalade makes."""

Statement = tuple[str, tuple[Any, ...]]
"""SQL and its values."""


class Kind(NamedTuple):
    """What a file is for, and how it is known."""

    name: str
    application_id: int
    schemas: dict[int, str] = _SCHEMAS
    """What each version of its format added."""
    own_table: str = "quarantined"
    """Has it, hence is ours, whatever its header says."""


OUTBOX, INBOX = Kind("outbox", OUR_IDS[0]), Kind("inbox", OUR_IDS[1])
"""The tables are the same, so that one code reads, rescues and ages both."""


class File:
    """An open file with our tables.

    Parameters
    ----------
    synchronous:
        Anything but FULL loses acknowledged items in a power cut: for tests that must see that.
    upgrade:
        Whether a file of an earlier format becomes one of this format.

    Raises
    ------
    CorruptError
        It is no sound database.
    OutboxError
        It is sound, but not ours to use.
    sqlite3.Error
        The disk refuses.
    """

    def __init__(self, path: Path, kind: Kind, *, synchronous: Synchronous = "FULL", upgrade: bool = True) -> None:
        self.path, self._kind = path, kind
        make_private(path)
        tighten(path.with_name(f"{path.name}-wal"))
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
        try:
            with corruption_noticed():
                self._set_up(synchronous, upgrade)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close; what the WAL holds goes into the file if that is possible, and else stays in the WAL."""
        with suppress(sqlite3.Error):
            self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on the disk at the end, or nothing of it is stored."""
        with corruption_noticed():
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
                raise

    def run(self, statements: list[Statement]) -> None:
        """Run statements in one transaction; all of it is on the disk at the end, or nothing."""
        if len(statements) == 1:  # is a transaction of its own
            with corruption_noticed():
                self.connection.execute(*statements[0])
        else:
            with self.transaction():
                for statement in statements:
                    self.connection.execute(*statement)

    def delete_for_good(
        self, columns: Mapping[str, str], names: Iterable[str], deleted: Callable[[], None] = lambda: None
    ) -> list[int]:
        """Delete, of each table, the rows that have one of the names in a column; return how many of each.

        What was deleted is overwritten, here and where earlier deletions left it in the file. `deleted` is called when
        the rows are gone, whether or not the disk then has the room that overwriting takes.
        """
        values, gone = (json.dumps(sorted(names)),), list[int]()
        before = self.connection.execute("PRAGMA secure_delete").fetchone()[0]
        self.connection.execute("PRAGMA secure_delete = ON").fetchall()
        try:
            with self.transaction():
                for table, column in columns.items():
                    query = f"DELETE FROM {table} WHERE CAST({column} AS TEXT) IN (SELECT value FROM json_each(?))"
                    gone.append(self.connection.execute(query, values).rowcount)
            deleted()
            with corruption_noticed():
                self.connection.execute("VACUUM")
        finally:
            self.connection.execute(f"PRAGMA secure_delete = {before}").fetchall()
        self.checkpoint()
        return gone

    def key_ids(self, columns: Mapping[str, str]) -> set[bytes]:
        """Return the ids of the keys that the contents of columns, each by its table, are sealed with."""
        found = set[bytes]()
        values = (len(MAGIC) + 1, KEY_ID_BYTES, len(MAGIC), MAGIC)
        with corruption_noticed():
            for table, column in columns.items():
                query = f"SELECT DISTINCT substr({column}, ?, ?) FROM {table} WHERE substr({column}, 1, ?) = ?"
                found |= {key_id for (key_id,) in self.connection.execute(query, values)}
        return found

    def checkpoint(self) -> None:
        """Bring everything into the main file and empty the WAL."""
        with corruption_noticed():
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _set_up(self, synchronous: Synchronous, upgrade: bool) -> None:
        connection = self.connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version, tables = (
            connection.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        name, latest = f"{self._kind.name} {self.path}", max(self._kind.schemas)
        if tables and application != self._kind.application_id:
            named = "SELECT count(*) FROM sqlite_master WHERE name = ?"
            if application not in OUR_IDS and connection.execute(named, (self._kind.own_table,)).fetchone()[0]:
                raise CorruptError("the file's header is damaged")
            raise OutboxError(
                f"{name}: this is some other program's database; give the {self._kind.name} a path of its own"
            )
        if tables and version < 1:
            raise CorruptError("the file's header is damaged")
        if version > latest:
            raise OutboxError(f"{name}: written by a newer escalade (format {version}); update this one")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # without effect on a file that has tables
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BYTES // page_bytes}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
        if version < latest and (upgrade or not tables):
            with self.transaction():
                for schema in (self._kind.schemas[number] for number in range(version + 1, latest + 1)):
                    for statement in schema.split(";")[:-1]:
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self._kind.application_id}")
                connection.execute(f"PRAGMA user_version = {latest}")
            sync_folder(self.path.parent)


def check_keys(name: str, key_ids: Iterable[bytes], seal: Seal) -> None:
    """Raise OutboxError for a file that needs a key which is not there: nothing in it may be taken for damaged."""
    unknown = sorted(key_id.hex() for key_id in key_ids if not seal.knows(key_id))
    if unknown:
        raise OutboxError(
            f"{name}: encrypted with a key that at_rest.key_source does not have ({', '.join(unknown)}); "
            "put it back there"
        )


@contextmanager
def corruption_noticed() -> Iterator[None]:
    """Turn what SQLite says of a damaged file into `CorruptError`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_corrupt(error) or "no such table" in str(error):
            raise CorruptError(str(error)) from error
        raise
