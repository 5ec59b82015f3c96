"""One process at a time: a lock file beside the outbox that names its owner."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from escalade.tiers.outbox.errors import OutboxBusyError, explained

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """Held from `acquire` to `release`, or to the process's end, however it ends.

    The file stays: it is the lock on it that counts, and the pid in it is for people.

    Parameters
    ----------
    path:
        What is locked; the lock file is `PATH.lock`.
    what:
        What it is called.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._name = path.with_name(f"{path.name}.lock"), f"{what} {path}"
        self._what = what
        self._file: int | None = None
        self.used_before = False
        """Whether an outbox was opened here before."""

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutboxBusyError
            Another process holds it.
        OutboxError
            The folder cannot be written.
        """
        import fcntl  # not on Windows

        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise explained(error, self._name) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(file, 32, 0).decode(errors="replace").strip()
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise OutboxBusyError(
                    f"{self._name}: process {pid or 'unknown'} has it open; "
                    f"stop that process, or give this tier an {self._what} of its own"
                ) from None
            raise explained(error, self._name) from error
        try:
            self.used_before = os.fstat(file).st_size > 0
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # a full disk: the lock holds all the same
            if not self.used_before:
                os.close(file)
                raise explained(error, self._name) from error
        self._file = file

    def release(self) -> None:
        """Give the lock up."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
