"""Keys and certificates as files: never overwritten, keys readable by their owner alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

OWNER_ONLY, EVERYBODY_READS = 0o600, 0o644


def write_new(file: Path, data: bytes, mode: int = EVERYBODY_READS) -> None:
    """Write a file that must not exist yet.

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
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace(file: Path, data: bytes, mode: int = EVERYBODY_READS) -> None:
    """Write a file in one step: who reads it sees the old or the new one; SetupError when it cannot be."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"{new}: cannot be written: {error.strerror}") from error
    write_new(new, data, mode)
    os.replace(new, file)


def read(file: Path) -> bytes:
    """Return a file's bytes; SetupError when it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error
