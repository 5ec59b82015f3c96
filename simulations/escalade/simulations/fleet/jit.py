"""`kernel`: compiled by numba where it is installed, plain Python with the same bits where it is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

NO_NUMBA = "ESCALADE_NO_NUMBA"
"""Set in the environment to run without numba though it is installed: for tests."""

try:
    if os.environ.get(NO_NUMBA):
        raise ImportError(NO_NUMBA)
    import numba
except ImportError:
    numba = None

COMPILED = numba is not None
"""Whether kernels are compiled; without, a request takes about a thousand times as long."""


def kernel(function: F) -> F:
    """Compile a loop over arrays; it holds no lock while it runs, and is kept on disk for the next process."""
    if numba is None:
        return _quiet(function)
    try:
        compiled: F = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep it: neither beside the source nor in the user's cache
        compiled = numba.njit(nogil=True)(function)
    return compiled


def inline(function: F) -> F:
    """Compile a helper that kernels call: of numbers and at most one or two arrays, since each costs a count."""
    return function if numba is None else kernel(function)


def _quiet(function: F) -> F:
    def call(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):  # the hash wraps around on purpose
            return function(*arguments)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    return call  # type: ignore[return-value]
