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
from escalade.tiers.outbox.file import OUR_IDS, File, Kind
from escalade.tiers.outbox.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from escalade.tiers.aggregator.window import Accepted

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

    Raises
    ------
    OutboxError
        It cannot be opened; one line says why.
    """

    def __init__(self, path: Path, nodes: Sequence[str], max_kept: int) -> None:
        self.path, self._nodes, self._max_kept = path, list(nodes), max_kept
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
                rows.setdefault(one.event.key, []).append(_row(one))
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
                    value = to_npz(learnt.state, "aggregator")
                    connection.execute("INSERT OR REPLACE INTO state VALUES ('learnt', ?)", (value,))
        except (sqlite3.Error, OSError) as error:
            raise explained(error, f"{WHAT} {self.path}") from error
        except CorruptError as error:
            raise OutboxError(f"{WHAT} {self.path}: damaged ({error}); restart to begin a new one") from error

    def observations(self) -> list[Known]:
        """Return what is kept of events that are not final, oldest first."""
        return [_known(row) for row in self._connection.execute("SELECT * FROM observations ORDER BY rowid")]

    def answers(self) -> list[Answer]:
        """Return the answers that are kept, in order."""
        places = {name: place for place, name in enumerate(self._nodes)}
        rows = self._connection.execute("SELECT * FROM answers ORDER BY sequence")
        return [_answer(sequence, json.loads(facts), posterior, places) for sequence, facts, posterior in rows]

    def learnt(self) -> dict[str, Any] | None:
        """Return what was learnt; None where there is nothing, or nothing that can be read."""
        row = self._connection.execute("SELECT value FROM state WHERE name = 'learnt'").fetchone()
        try:
            return from_npz(row[0])[0] if row else None
        except StateFileError as error:
            log.error("what the aggregator had learnt cannot be read", file=str(self.path), error=str(error))
            return None

    def close(self) -> None:
        """Close the file and give up its lock."""
        self._file.close()
        self._lock.release()

    def _open(self) -> File:
        try:
            file = File(self.path, KIND)
            try:
                found = str(file.connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            except sqlite3.DatabaseError as error:
                found = str(error)
            if found != "ok":
                file.close()
                raise CorruptError(found)
            return file
        except CorruptError as error:
            aside = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
            log.error(
                "aggregator file is damaged; moved aside", file=str(self.path), aside=str(aside), error=str(error)
            )
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + end).rename(aside.with_name(aside.name + end))
            return File(self.path, KIND)

    def _answer_row(self, answer: Answer) -> tuple[int, str, bytes]:
        facts = answer._asdict()
        sequence, posterior = facts.pop("sequence"), facts.pop("posterior")
        for name in ("reported", "used"):
            facts[name] = [self._nodes[place] for place in facts[name]]
        return sequence, json.dumps(facts), posterior.astype("<f4").tobytes()


def _row(one: Accepted) -> tuple[Any, ...]:
    observation, event = one.observation, one.event
    raw, features = observation.raw, observation.features
    return (
        event.key,
        event.opened_s,
        event.time_s,
        event.by_keyless,
        event.zone,
        observation.node,
        observation.id,
        observation.label,
        observation.posterior.tobytes(),
        None if features is None else features.tobytes(),
        *((raw.datatype, json.dumps(raw.shape), raw.content) if raw else (None, None, None)),
    )


def _known(row: tuple[Any, ...]) -> Known:
    event, opened_s, time_s, keyless, zone, node, name, label, posterior, features, datatype, shape, content = row
    observation = Observation(
        node,
        name,
        event,
        zone,
        None,
        np.frombuffer(posterior, np.float32),
        None if features is None else np.frombuffer(features, np.float32),
        None if datatype is None else Raw(datatype, tuple(json.loads(shape)), content),
        label,
    )
    return Known(observation, opened_s, time_s, bool(keyless))


def _answer(sequence: int, facts: dict[str, Any], posterior: bytes, places: dict[str, int]) -> Answer:
    for name in ("reported", "used"):
        facts[name] = tuple(places[node] for node in facts[name] if node in places)
    return Answer(sequence=sequence, posterior=np.frombuffer(posterior, np.float32), **facts)
