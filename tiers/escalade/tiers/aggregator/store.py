"""What the aggregator keeps on disk: observations of events that are not final, answers, and what was learnt.

One connection, used by one thread at a time; a restart finds everything that `write` returned for.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import structlog

from escalade.policies.state_file import StateFileError, from_npz, to_npz
from escalade.tiers.aggregator.event import Answer
from escalade.tiers.aggregator.observation import Observation, Raw
from escalade.tiers.outbox.errors import CorruptError, OutboxError, explained
from escalade.tiers.outbox.file import OUR_IDS, File, Kind, check_keys
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.salvage import aside_name, drop_aside_files, drop_older_files
from escalade.tiers.outbox.sealing import UNSEALED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from escalade.tiers.aggregator.window import Accepted
    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)

_SCHEMA = """
CREATE TABLE observations (
    event TEXT NOT NULL, opened_s REAL NOT NULL, time_s REAL NOT NULL, keyless INTEGER NOT NULL, zone TEXT NOT NULL,
    node TEXT NOT NULL, id TEXT NOT NULL, label INTEGER, posterior BLOB NOT NULL, features BLOB,
    datatype TEXT, shape TEXT, content BLOB
);
CREATE INDEX observations_of_event ON observations (event);
CREATE TABLE answers (sequence INTEGER PRIMARY KEY, facts TEXT NOT NULL, posterior BLOB NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
WHAT = "aggregator file"
LEARNT = b"learnt"
SEALED = {"observations": "posterior", "answers": "posterior", "state": "value"}
"""Where it can be seen with which keys the file is encrypted."""
KIND = Kind(WHAT, OUR_IDS[2], {1: _SCHEMA}, "observations_of_event")


class Final(NamedTuple):
    """The observations of this event may go."""

    event: str


class Learnt(NamedTuple):
    """What was learnt so far."""

    state: dict[str, Any]


class Known(NamedTuple):
    """One observation as it was kept, with what its event began with."""

    observation: Observation
    opened_s: float
    time_s: float
    keyless: bool


class Store:
    """The open file.

    Parameters
    ----------
    nodes:
        Names by place.
    max_kept:
        Answers kept.
    seal:
        Encrypts what was observed, answered and learnt.

    Raises
    ------
    OutboxError
        It cannot be opened; one line says why.
    """

    def __init__(self, path: Path, nodes: Sequence[str], max_kept: int, seal: Seal = UNSEALED) -> None:
        self.path, self._nodes, self._max_kept, self._seal = path, list(nodes), max_kept, seal
        self._lock = FileLock(path, WHAT)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._file = self._open()
            self._connection = self._file.connection
        except (OSError, sqlite3.Error) as error:
            self._lock.release()
            raise explained(error, f"{WHAT} {path}") from error
        except BaseException:
            self._lock.release()
            raise

    def write(self, operations: Sequence[Accepted | Answer | Final | Learnt]) -> None:
        """Put all of it on the disk, in one transaction; OutboxError when that cannot be done, and nothing was."""
        finals, rows, answers = list[tuple[str]](), dict[str, list[tuple[Any, ...]]](), list[tuple[Any, ...]]()
        learnt: Learnt | None = None
        for one in operations:
            if isinstance(one, Answer):
                answers.append(self._answer_row(one))
            elif isinstance(one, Final):
                finals.append((one.event,))
                rows.pop(one.event, None)
            elif isinstance(one, Learnt):
                learnt = one
            else:
                rows.setdefault(one.event.key, []).append(_row(one, self._seal))
        connection = self._connection
        try:
            with self._file.transaction():
                connection.executemany("DELETE FROM observations WHERE event = ?", finals)
                kept = list(chain.from_iterable(rows.values()))
                connection.executemany("INSERT INTO observations VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", kept)
                if answers:
                    connection.executemany("INSERT INTO answers VALUES (?,?,?)", answers)
                    oldest = answers[-1][0] - self._max_kept
                    connection.execute("DELETE FROM answers WHERE sequence <= ?", (oldest,))
                if learnt is not None:
                    value = self._seal.seal(to_npz(learnt.state, "aggregator"), LEARNT)
                    connection.execute("INSERT OR REPLACE INTO state VALUES ('learnt', ?)", (value,))
        except (sqlite3.Error, OSError) as error:
            raise explained(error, f"{WHAT} {self.path}") from error
        except CorruptError as error:
            raise OutboxError(f"{WHAT} {self.path}: damaged ({error}); restart to begin a new one") from error

    def observations(self) -> list[Known]:
        """Return what is kept of events that are not final, oldest first."""
        rows = self._connection.execute("SELECT * FROM observations ORDER BY rowid")
        return [_known(row, self._seal) for row in rows]

    def answers(self) -> list[Answer]:
        """Return the answers that are kept, in order."""
        places = {name: place for place, name in enumerate(self._nodes)}
        rows = self._connection.execute("SELECT * FROM answers ORDER BY sequence")
        return [_answer(row, places, self._seal) for row in rows]

    def learnt(self) -> dict[str, Any] | None:
        """Return what was learnt; None where there is nothing, or nothing that can be read."""
        row = self._connection.execute("SELECT value FROM state WHERE name = 'learnt'").fetchone()
        try:
            return from_npz(self._seal.open(row[0], LEARNT))[0] if row else None
        except (StateFileError, ValueError) as error:
            log.error("what the aggregator had learnt cannot be read", file=str(self.path), error=str(error))
            return None

    def forget(self, node: str) -> str:
        """Delete a node's observations for good, and damaged files; say how many.

        The answers that it had a part in stay.

        Raises
        ------
        OutboxError
            They cannot be deleted now.
        """
        try:
            (gone,) = self._file.delete_for_good({"observations": "node"}, [node])
            files = drop_aside_files(self.path)
        except (sqlite3.Error, OSError) as error:
            raise explained(error, f"{WHAT} {self.path}") from error
        except CorruptError as error:
            raise OutboxError(f"{WHAT} {self.path}: damaged ({error}); restart to begin a new one") from error
        return f"{gone} observations and {files} damaged files deleted"

    def close(self) -> None:
        """Close the file and give up its lock."""
        self._file.close()
        self._lock.release()

    def _open(self) -> File:
        try:
            file = File(self.path, KIND)
            try:
                self._check(file)
            except BaseException:
                file.close()
                raise
            return file
        except CorruptError as error:
            aside = aside_name(self.path, time.time())
            log.error(
                "aggregator file is damaged; moved aside", file=str(self.path), aside=str(aside), error=str(error)
            )
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + end).rename(aside.with_name(aside.name + end))
            drop_older_files(self.path, KIND)
            return File(self.path, KIND)

    def _check(self, file: File) -> None:
        """Raise CorruptError for a file that is damaged or was tampered with, OutboxError for want of a key."""
        try:
            found = str(file.connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != "ok":
            raise CorruptError(found)
        check_keys(f"{WHAT} {self.path}", file.key_ids(SEALED), self._seal)
        self._connection = file.connection
        try:
            self.observations(), self.answers()
        except (ValueError, sqlite3.Error) as error:
            raise CorruptError(str(error)) from error

    def _answer_row(self, answer: Answer) -> tuple[int, bytes, bytes]:
        facts = answer._asdict()
        sequence, posterior = facts.pop("sequence"), facts.pop("posterior")
        for name in ("reported", "used"):
            facts[name] = [self._nodes[place] for place in facts[name]]
        sealed = self._seal.seal(json.dumps(facts).encode(), b"facts\0%d" % sequence)
        return sequence, sealed, self._seal.seal(posterior.astype("<f4").tobytes(), b"answer\0%d" % sequence)


def _row(one: Accepted, seal: Seal) -> tuple[Any, ...]:
    observation, event = one.observation, one.event
    raw, features = observation.raw, observation.features

    def sealed(what: str, content: bytes) -> bytes:
        return seal.seal(content, _about(what, event.key, observation.node, observation.id))

    return (
        event.key,
        event.opened_s,
        event.time_s,
        event.by_keyless,
        event.zone,
        observation.node,
        observation.id,
        observation.label,
        sealed("posterior", observation.posterior.tobytes()),
        None if features is None else sealed("features", features.tobytes()),
        *((raw.datatype, json.dumps(raw.shape), sealed("raw", raw.content)) if raw else (None, None, None)),
    )


def _known(row: tuple[Any, ...], seal: Seal) -> Known:
    """Return a stored row; ValueError when it is not what was stored."""
    event, opened_s, time_s, keyless, zone, node, name, label, posterior, features, datatype, shape, content = row

    def opened(what: str, stored: bytes) -> bytes:
        return seal.open(stored, _about(what, event, node, name))

    observation = Observation(
        node,
        name,
        event,
        zone,
        None,
        np.frombuffer(opened("posterior", posterior), np.float32),
        None if features is None else np.frombuffer(opened("features", features), np.float32),
        None if datatype is None else Raw(datatype, tuple(json.loads(shape)), opened("raw", content)),
        label,
    )
    return Known(observation, opened_s, time_s, bool(keyless))


def _about(what: str, event: str, node: str, name: str) -> bytes:
    return f"{what}\0{event}\0{node}\0{name}".encode()


def _answer(row: tuple[Any, ...], places: dict[str, int], seal: Seal) -> Answer:
    """Return a stored answer; ValueError when it is not what was stored. Facts were text in earlier versions."""
    sequence, stored, posterior = row
    content = stored.encode() if isinstance(stored, str) else stored
    facts: dict[str, Any] = json.loads(seal.open(content, b"facts\0%d" % sequence))
    for name in ("reported", "used"):
        facts[name] = tuple(places[node] for node in facts[name] if node in places)
    values = np.frombuffer(seal.open(posterior, b"answer\0%d" % sequence), np.float32)
    return Answer(sequence=sequence, posterior=values, **facts)
