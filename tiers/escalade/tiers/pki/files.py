"""Keys and certificates as files: never overwritten, keys readable by their owner alone, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from escalade.tiers.durable import sync_folder
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER_ONLY, EVERYBODY_READS = 0o600, 0o644
LOCK_S = 30.0
"""How long another process's act is waited for; it takes some milliseconds."""
_LOOK_S = 0.01


def write_new(file: Path, data: bytes, mode: int = EVERYBODY_READS) -> None:
    """Write a file that must not exist yet; it is on the disk on return, or not there.

    Raises
    ------
    SetupError
        It exists, or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise SetupError(f"{file} exists and is not overwritten; name another, or move it away") from None
    except OSError as error:
        raise SetupError(f"{file}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise SetupError(f"{file}: cannot be written: {error.strerror}") from error


def replace(file: Path, data: bytes, mode: int = EVERYBODY_READS) -> None:
    """Write a file in one step: who reads it sees the old or the new one; SetupError when it cannot be."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(6)}.new")
    write_new(new, data, mode)
    try:
        new.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise SetupError(f"{file}: cannot be written: {error.strerror}") from error


def read(file: Path) -> bytes:
    """Return a file's bytes; SetupError when it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads from changing what is in a folder. Not to be nested.

    Raises
    ------
    SetupError
        The folder cannot be written, or another process changes it for longer than `LOCK_S`.
    """
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, OWNER_ONLY)
    except OSError as error:
        raise SetupError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        until = time.monotonic() + LOCK_S
        while not _taken(handle):
            if time.monotonic() > until:
                raise SetupError(f"{folder}: another process has been changing it for {LOCK_S:g} s; end that one")
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
