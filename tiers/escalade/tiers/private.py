"""Files that nobody but the tier's own user may read: inputs, answers, names of devices, tokens."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OWNER_ONLY = 0o600
OTHERS = 0o007


def open_private(file: Path, mode: str) -> IO[str]:
    """Open a text file to write (`w`, `x`, `a`), made with mode 0600; one that is there is tightened, see `tighten`."""
    tighten(file)
    return open(file, mode, encoding="utf-8", opener=opener)


def make_private(file: Path) -> None:
    """See that a file is there, and `tighten` it; what hinders is left to whoever opens it next."""
    with suppress(OSError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
    tighten(file)


def opener(file: str, flags: int) -> int:
    """Open for `open`: what is made is for its owner alone."""
    return os.open(file, flags, OWNER_ONLY)


def tighten(*files: Path) -> None:
    """Close files that everybody may read to all but their owner, where they are ours.

    One that only its group may read besides is left: somebody meant that.
    """
    for file in files:
        with suppress(OSError):
            if file.stat().st_mode & OTHERS:
                file.chmod(OWNER_ONLY)
