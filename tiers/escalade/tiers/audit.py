"""An append-only log of who enrolled, who was revoked, what configuration and what model was used since when.

Every line holds the SHA-256 of the line before it, so that a line that is changed, removed or put in breaks the
chain from there on. What the chain cannot show is a cut-off end: note the last hash elsewhere (`escalade audit
verify` prints it) and compare it later.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "0" * 64
"""What stands before the first line."""
TAIL_BYTES = 64 * 1024
"""Where the last line is looked for; no line is longer."""
LONGEST = 4096
"""Characters of one value."""


class Verdict(NamedTuple):
    """What `verify` found.

    Attributes
    ----------
    entries, head:
        How many lines are good, and the hash of the last of them.
    trouble:
        What is wrong with the line behind them; empty when nothing is.
    """

    entries: int
    head: str
    trouble: str


def append(file: Path, what: str, now: float, **about: Any) -> str:
    """Append a line and return its hash once it is on the disk. Several processes may share a log.

    Parameters
    ----------
    what:
        What happened: `issued`, `revoked`, `configuration`, ...
    now:
        Seconds since the epoch.
    about:
        Of what; short values.

    Raises
    ------
    SetupError
        The log cannot be written, or its end is damaged.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise SetupError(f"{file}: cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "rb+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - TAIL_BYTES))
        lines = stream.read().splitlines(keepends=True)
        number, before = 0, FIRST
        if lines:
            last = _entry(lines[-1])
            if last is None:
                raise SetupError(f"{file}: its end is damaged; see `escalade audit verify`, and begin another")
            number, before = last["n"], last["hash"]
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        facts = {name: value if not isinstance(value, str) else value[:LONGEST] for name, value in about.items()}
        entry = {"n": number + 1, "at": at, "what": what, **facts, "before": before}
        entry["hash"] = _hash(entry)
        try:
            stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as error:
            with suppress(OSError):  # half a line would be taken for damage
                os.truncate(file, end)
            raise SetupError(f"{file}: cannot be written: {error.strerror}") from error
    return str(entry["hash"])


def last_of(file: Path, what: str) -> dict[str, Any] | None:
    """Return the last good line of a kind; None when there is none, or no log."""
    found = None
    try:
        with file.open("rb") as stream:
            for line in stream:
                entry = _entry(line)
                if entry is not None and entry.get("what") == what:
                    found = entry
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error
    return found


def has(file: Path, what: str, **about: str) -> bool:
    """Whether there is a good line of a kind that says all this; False without a log."""
    try:
        with file.open("rb") as stream:
            found = (_entry(line) for line in stream)
            return any(entry is not None and {"what": what, **about}.items() <= entry.items() for entry in found)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error


def verify(file: Path, known: str | None = None) -> Verdict:
    """Return how far the chain holds; SetupError when the file cannot be read.

    Parameters
    ----------
    known:
        A hash that was the last once: without it the end has been cut off.
    """
    entries, head, found = 0, FIRST, known in (None, FIRST)
    try:
        with file.open("rb") as stream:
            for line in stream:
                entry = _entry(line)
                if entry is None:
                    return Verdict(entries, head, f"line {entries + 1} is damaged or was changed")
                if entry["before"] != head or entry["n"] != entries + 1:
                    return Verdict(entries, head, f"a line is missing or was put in before line {entries + 1}")
                entries, head = entries + 1, entry["hash"]
                found = found or head == known
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error
    return Verdict(entries, head, "" if found else f"its end is missing: there is no line {known}")


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return a line whose hash is its own; None for any other."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(entry, dict) or not {"n", "before", "hash"} <= entry.keys():
        return None
    return entry if entry["hash"] == _hash(entry) else None


def _hash(entry: dict[str, Any]) -> str:
    plain = {name: value for name, value in entry.items() if name != "hash"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
