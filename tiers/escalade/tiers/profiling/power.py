"""What a board draws, from whatever meter the kernel offers: `find_meter`.

- RAPL (`/sys/class/powercap/intel-rapl:*`): the processor packages' counters of microjoules; root reads them.
- INA3221, INA219 and the like (`/sys/class/hwmon`): on Jetsons the rail `VDD_IN` is the whole board. Volts and amperes,
  or watts, of the moment, looked at every `EVERY_S`.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

SYS = Path("/sys")
EVERY_S = 0.05
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "5V_IN")
"""Names of the rail through which everything comes, on Jetsons of several years."""


@dataclass(slots=True)
class Draw:
    """Mean power over a stretch of time; nan until it has ended."""

    mw: float = float("nan")


class Meter(Protocol):
    """Something that tells mean power."""

    source: str

    def over(self) -> AbstractContextManager[Draw]:
        """Return a context; what it gives holds the mean power once the block has ended."""


class Rapl:
    """Counters of energy that wrap around."""

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self.source = f"RAPL ({', '.join(sorted(one.name for one in packages))}): processor packages, not the board"

    @contextmanager
    def over(self) -> Iterator[Draw]:
        """See `Meter`."""
        draw, before, begin = Draw(), self._read(), time.perf_counter()
        yield draw
        seconds, used = time.perf_counter() - begin, 0
        for one, first, last in zip(self._packages, before, self._read(), strict=True):
            used += (last - first) % (_number(one / "max_energy_range_uj") + 1)
        draw.mw = used / seconds / 1e3

    def _read(self) -> list[int]:
        return [_number(one / "energy_uj") for one in self._packages]


class Rail:
    """A sensor of the power of the moment, sampled in a thread."""

    def __init__(self, source: str, read_mw: Callable[[], float]) -> None:
        self.source, self._read_mw = source, read_mw

    @contextmanager
    def over(self) -> Iterator[Draw]:
        """See `Meter`."""
        draw, samples, ended = Draw(), [self._read_mw()], threading.Event()

        def sample() -> None:
            while not ended.wait(EVERY_S):
                samples.append(self._read_mw())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield draw
        finally:
            ended.set()
            thread.join()
        draw.mw = sum(samples) / len(samples)


def find_meter(sys: Path = SYS) -> Meter | None:
    """Return the meter that tells most of the board, or None when there is none that this user may read."""
    for folder in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        if _text(folder / "name").startswith("ina") and (rail := _rail(folder)) is not None:
            return rail
    packages = [
        one
        for one in sorted((sys / "class" / "powercap").glob("intel-rapl:*"))
        if one.name.count(":") == 1 and _readable(one / "energy_uj") and _readable(one / "max_energy_range_uj")
    ]
    return Rapl(packages) if packages else None


def _rail(folder: Path) -> Rail | None:
    """Return the whole board's rail of one sensor, else its first."""
    labels = {_text(one): one.name.removeprefix("in").removesuffix("_label") for one in folder.glob("in*_label")}
    channel = next((labels[name] for name in WHOLE_BOARD if name in labels), "1")
    name = next((label for label, number in labels.items() if number == channel), "")
    source = " ".join(one for one in (_text(folder / "name").upper(), name, f"({folder.name})") if one)
    watts, volts, amperes = (folder / f"{kind}{channel}_input" for kind in ("power", "in", "curr"))
    if _readable(watts):
        return Rail(source, lambda: _number(watts) / 1e3)
    if _readable(volts) and _readable(amperes):
        return Rail(source, lambda: _number(volts) * _number(amperes) / 1e3)
    return None


def _readable(file: Path) -> bool:
    return _text(file).lstrip("-").isdecimal()


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
