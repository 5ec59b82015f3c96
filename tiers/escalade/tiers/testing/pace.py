"""A slower board on this machine: preprocessing steps that wait, so that a tier's model takes the time it would there.

Waiting costs no processor: several tiers on one machine then do not slow each other down, as boards do not.
`custom: escalade.tiers.testing.pace:hold_9000us` holds one row 9 ms, and each further one of a batch for `EACH_MORE` of
that.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

EACH_MORE = 0.3


def held(ms: float) -> str:
    """Return the name of the step that holds a row so long, as a configuration writes it.

    >>> held(9.0)
    'escalade.tiers.testing.pace:hold_9000us'
    """
    return f"{__name__}:hold_{round(ms * 1e3)}us"


def __getattr__(name: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the step of that name."""
    found = re.fullmatch(r"hold_(\d+)us", name)
    if not found:
        raise AttributeError(name)
    row_s = int(found[1]) / 1e6

    def hold(x: NDArray[Any]) -> NDArray[Any]:
        time.sleep(row_s * (1 + EACH_MORE * (len(x) - 1)))
        return x

    return hold
