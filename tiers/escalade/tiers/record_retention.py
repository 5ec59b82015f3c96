"""What goes of a recording: chunks that are too old, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)


def drop_old(sizes: dict[Path, int], last_s: float) -> None:
    """Remove the chunks that were last written before a time of day, from the disk and from `sizes`."""
    for file in list(sizes):
        try:
            if file.stat().st_mtime < last_s:
                file.unlink()
                del sizes[file]
        except FileNotFoundError:
            del sizes[file]
        except OSError as error:
            log.warning("an old recording cannot be removed", file=str(file), reason=error.strerror)
