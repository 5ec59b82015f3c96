"""Batches for policies whose columns are computed when they are read: `LazyBatch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import Batch
from escalade.policies.types import column
from escalade.simulations.fleet.draws import R11, TO_UNIT, bits
from escalade.simulations.fleet.jit import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NAMES = (
    "score", "posterior", "time_s", "uniform", "remaining_ms", "bytes_up", "upstream_ms", "device", "upstream_load",
)  # fmt: skip


class LazyBatch(Batch):
    """A `Batch` whose columns come from functions, each called at most once.

    What is made of it with `take` or `dataclasses.replace` is a plain `Batch`.
    """

    __slots__ = ("_made", "_makers", "_rows")

    _rows: int
    _makers: dict[str, Callable[[], Any]]
    _made: dict[str, Any]

    def __new__(cls, *args: Any, **columns: Any) -> Any:
        """Make a plain batch where all columns are given, as `dataclasses.replace` does."""
        return Batch(**columns) if columns else super().__new__(cls)

    def __init__(self, rows: int, makers: dict[str, Callable[[], Any]]) -> None:
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_makers", makers)
        object.__setattr__(self, "_made", {})

    def __len__(self) -> int:
        return self._rows

    def __reduce__(self) -> Any:
        return Batch, tuple(getattr(self, name) for name in NAMES)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a batch has no column {name!r}; there are {', '.join(NAMES)}")

    def _get(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    @property
    def read(self) -> frozenset[str]:
        """Names of the columns that were read."""
        return frozenset(self._made)


def _column(name: str) -> property:
    return property(lambda batch: batch._get(name), doc=f"The column {name}; see `Batch`.")


for _name in NAMES:
    setattr(LazyBatch, _name, _column(_name))


def repeated(value: float, rows: int, *, whole: bool = False) -> NDArray[Any]:
    """Return a column of one number, not stored `rows` times."""
    return column("", value, np.int64 if whole else np.float64, rows)


def uniforms(key: np.uint64, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the uniform number of each request."""
    out = np.empty(len(numbers))
    _uniforms(key, numbers, out)
    return out


@kernel
def _uniforms(key: Any, numbers: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = np.float64(bits(key, numbers[i]) >> R11) * TO_UNIT
