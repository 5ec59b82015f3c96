"""What a CA does, in its log before it is done."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from escalade.tiers import audit
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOG = "audit.log"
"""Its name in the CA's folder."""


@contextmanager
def noted(log: Path, clock: Callable[[], float], what: str, **about: str) -> Iterator[None]:
    """Note what is about to be done inside; when it fails, that is noted too, as `failed`.

    Raises
    ------
    SetupError
        It cannot be noted, and is not done.
    """
    try:
        audit.append(log, what, clock(), **about)
    except SetupError as error:
        raise SetupError(f"nothing was done, for it could not be logged: {error}") from error
    try:
        yield
    except BaseException as error:
        with suppress(SetupError):
            audit.append(log, "failed", clock(), act=what, **about, error=one_line(str(error)))
        raise


def one_line(text: str) -> str:
    """Return a text of one line that can be written: what a terminal of another encoding sent is escaped."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())
