"""`kernel`: compiled by numba where it is installed, plain Python with the same bits where it is not.

Compiled code is kept on disk, in a folder named by a digest of this package's sources: numba itself notices only that
a kernel's own file changed, not what it took from others.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
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
    import numba as _numba
except ImportError:
    numba: Any = None
else:
    numba = _numba

COMPILED = numba is not None
"""Whether kernels are compiled; without, a request takes about a thousand times as long."""


def kernel(function: F, inlined: str = "never") -> F:
    """Compile a loop over arrays; it holds no lock while it runs."""
    if numba is None:
        return _quiet(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _FOLDER
    try:
        compiled: F = numba.njit(nogil=True, cache=_FOLDER != "", error_model="numpy", inline=inlined)(function)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def inline(function: F) -> F:
    """Compile a helper into the kernels that call it: a call would count the references of every array, each time."""
    return function if numba is None else kernel(function, "always")


if numba is None:

    def prefetch(array: Any, row: Any, column: Any) -> None:
        """Do nothing: see the compiled one."""

else:
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def prefetch(typing: Any, array: Any, row: Any, column: Any) -> Any:
        """Have a line of a matrix's row fetched from memory: it is to be changed soon."""

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind, *numbers = signature.args
            content = context.make_array(kind)(context, builder, arguments[0])
            places = [
                context.cast(builder, argument, given, numba.types.intp)
                for argument, given in zip(arguments[1:], numbers, strict=True)
            ]
            where: Any = cgutils.get_item_pointer(  # type: ignore[no-untyped-call]
                context, builder, kind, content, places
            )
            where = builder.bitcast(where, ir.IntType(8).as_pointer())
            word = ir.IntType(32)
            told = ir.FunctionType(ir.VoidType(), [where.type, word, word, word])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [where.type], told)
            builder.call(fetch, [where, word(1), word(3), word(1)])
            return context.get_dummy_value()

        return numba.types.void(array, row, column), code


def _quiet(function: F) -> F:
    def call(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):  # the hash wraps around on purpose
            return function(*arguments)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    return call  # type: ignore[return-value]


def _folder() -> str:
    """Return where compiled code is kept: in NUMBA_CACHE_DIR, else in the user's cache; "" for nowhere."""
    digest = sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    base = os.environ.get("NUMBA_CACHE_DIR") or f"{cache}/escalade"
    folder = Path(base) / f"fleet-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return ""


_FOLDER = "" if numba is None else _folder()
