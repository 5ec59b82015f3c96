"""How many bytes went up: by class of data, destination and device, over restarts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from escalade.tiers.egress import DATA_CLASSES
from escalade.tiers.private import open_private, tighten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

    from escalade.tiers.egress import DataClass

log = structlog.get_logger(__name__)

OTHERS = "(others)"
"""The device of what is counted when there are as many lines as may be."""
FORGOTTEN = "(forgotten)"
"""The device of what a forgotten device sent."""
WRITE_S = 1.0
"""Between two writings of what changed; what `kill -9` or a power cut loses of the count."""


class Line(NamedTuple):
    """What was sent of one class to one destination for one device."""

    data: DataClass
    destination: str
    device: str
    messages: int
    bytes: int


class EgressLedger:
    """Counts messages as they are given to gRPC: their own bytes, without what HTTP/2, TLS and TCP add.

    Promised: never less than what left, but for the last second before a crash and for what gRPC sends again by
    itself. A message is counted once it was given to a connection, so that one that a dead peer never read is counted
    too; what a peer says of it counts for nothing. Of an edge node's live escalations the device is the node itself, as
    the tier above is told.

    Parameters
    ----------
    file:
        Where the counts outlive restarts; None: in memory alone.
    max_lines:
        Beyond, further devices are counted as `(others)`.
    """

    def __init__(self, file: Path | None = None, *, max_lines: int = 1000) -> None:
        self._file, self._max_lines = file, max_lines
        self._counts: dict[tuple[DataClass, str, str], list[int]] = {}
        self._changed, self._refused = False, ""
        self.since_s = time.time()
        """When counting began, time of day."""
        if file is not None:
            self._load(file)

    def sent(self, data: DataClass, destination: str, device: str, size: int) -> None:
        """Count a message; about 0.3 us."""
        count = self._counts.get((data, destination, device)) or self._new(data, destination, device)
        count[0] += 1
        count[1] += size
        self._changed = True

    def lines(self) -> list[Line]:
        """Return what was counted; may be called on any thread."""
        return sorted(Line(*key, *count) for key, count in self._counts.copy().items())

    def forget(self, device: str) -> int:
        """Keep the amounts of a device, and not its name; return how many lines named it.

        What was moved aside as damaged is deleted: it cannot be searched.

        Raises
        ------
        OSError
            It cannot be.
        """
        if self._file:
            for end in (".corrupt", ".part"):
                self._file.with_name(f"{self._file.name}{end}").unlink(missing_ok=True)
        named = [key for key in self._counts if key[2] == device]
        for key in named:
            messages, size = self._counts.pop(key)
            count = self._counts.setdefault((key[0], key[1], FORGOTTEN), [0, 0])
            count[0] += messages
            count[1] += size
        self._changed = self._changed or bool(named)
        return len(named)

    async def write_forever(self) -> None:
        """Write what changes, until cancelled; a disk that refuses is logged once and tried again."""
        while True:
            await asyncio.sleep(WRITE_S)
            await self.close()

    async def close(self) -> None:
        """Write what has changed; a disk that refuses is logged."""
        try:
            await asyncio.to_thread(self.write)
        except OSError as error:
            if str(error) != self._refused:
                log.error("the egress ledger cannot be written", file=str(self._file), reason=error.strerror)
            self._refused = str(error)
        else:
            self._refused = ""

    def write(self) -> None:
        """Bring the file up to date; it is whole at every moment.

        Raises
        ------
        OSError
            The disk refuses; what is counted stays in memory.
        """
        if self._file is None or not self._changed:
            return
        self._changed = False
        draft = self._file.with_name(f"{self._file.name}.part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open_private(draft, "w") as stream:
                json.dump({"since_s": self.since_s, "lines": self.lines()}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self._file)
        except OSError:
            self._changed = True
            raise

    def _new(self, data: DataClass, destination: str, device: str) -> list[int]:
        if len(self._counts) >= self._max_lines:
            device = OTHERS
        return self._counts.setdefault((data, destination, device), [0, 0])

    def _load(self, file: Path) -> None:
        tighten(file)
        try:
            self.since_s, lines = read_ledger(file)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            aside = file.with_name(f"{file.name}.corrupt")
            log.error(
                "the egress ledger cannot be read; counting anew", file=str(file), aside=str(aside), why=str(error)
            )
            if isinstance(error, ValueError):
                file.replace(aside)
            return
        for line in lines:
            self._counts[line[:3]] = [line.messages, line.bytes]


def read_ledger(file: Path) -> tuple[float, list[Line]]:
    """Return since when a ledger counts, in time of day, and its lines.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or is no ledger.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        lines = [Line(*line) for line in content["lines"]]
        since_s = float(content["since_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not an egress ledger: {error}") from error
    if not all(line.data in DATA_CLASSES and type(line.messages) is type(line.bytes) is int for line in lines):
        raise ValueError(f"{file} is not an egress ledger: a line makes no sense")
    return since_s, lines


class EgressMetrics(Collector):
    """A ledger as Prometheus families; `labels` are the tier's."""

    def __init__(self, lines: Callable[[], list[Line]], labels: dict[str, str]) -> None:
        self._lines, self._labels = lines, labels

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        names = [*self._labels, "class", "destination", "device"]
        size = CounterMetricFamily("escalade_egress_bytes", "Message bytes sent upward.", labels=names)
        messages = CounterMetricFamily("escalade_egress_messages", "Messages sent upward.", labels=names)
        for line in self._lines():
            values = [*self._labels.values(), *line[:3]]
            size.add_metric(values, line.bytes)
            messages.add_metric(values, line.messages)
        yield size
        yield messages
