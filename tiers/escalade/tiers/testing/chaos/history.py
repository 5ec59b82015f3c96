"""What happened in a run, as it was seen from outside: a list of events, a line of JSON for each.

Times are seconds since the traffic's start, on the recorder's monotonic clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Request(NamedTuple):
    """An input was sent to the endpoint."""

    id: str
    device: str
    priority: str
    number: int
    """Its place in the run; the input is a function of it."""
    sent_s: float


class Given(NamedTuple):
    """An answer to one row, as its caller or a correction tells it."""

    label: int
    tier: str
    posterior: tuple[float, ...]


class Answered(NamedTuple):
    """The endpoint answered."""

    id: str
    at_s: float
    given: Given
    degraded: bool
    reason: str
    path: tuple[str, ...]
    """The tiers that took part."""
    kept: str
    """The item under which the endpoint keeps the input; empty when it does not say that it does."""


class Failed(NamedTuple):
    """The endpoint gave no answer."""

    id: str
    at_s: float
    error: str
    """Its class in `escalade.tiers.errors`."""
    text: str


class Corrected(NamedTuple):
    """A correction stands in the endpoint's file."""

    seq: int
    device: str
    item: str
    request_id: str
    old: Given
    new: Given
    delay_s: float


class Streamed(NamedTuple):
    """A correction came through the stream, to a subscriber that goes on after the last one when it breaks."""

    seq: int
    device: str
    item: str


class Effect(NamedTuple):
    """A delivered item had its effect at a tier above; in the order of the effects there."""

    tier: str
    device: str
    item: str


class Fault(NamedTuple):
    """Something was broken, from then to then; `stop_s` is when all of it was whole again."""

    kind: str
    target: str
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.stop_s - self.start_s


class Stall(NamedTuple):
    """The recorder itself was not run for `late_s` until `at_s`: what it measured meanwhile is late by as much."""

    at_s: float
    late_s: float


@dataclass
class History:
    """One run."""

    requests: list[Request] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    corrections: list[Corrected] = field(default_factory=list)
    streamed: list[Streamed] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write a line for each event."""
        with file.open("w") as out:
            for kind, name in _LISTS.items():
                for event in getattr(self, name):
                    out.write(json.dumps({"event": kind.__name__.lower(), **_plain(event)}) + "\n")

    @classmethod
    def read(cls, file: Path) -> History:
        """Return what `write` wrote; ValueError for anything else."""
        kinds = {kind.__name__.lower(): (kind, name) for kind, name in _LISTS.items()}
        history = cls()
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                fields = json.loads(line)
                kind, name = kinds[fields.pop("event")]
                getattr(history, name).append(kind(**{key: _typed(key, value) for key, value in fields.items()}))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}: not an event of a history: {error}") from error
        return history


_LISTS: dict[Any, str] = {
    Request: "requests",
    Answered: "answers",
    Failed: "failures",
    Corrected: "corrections",
    Streamed: "streamed",
    Effect: "effects",
    Fault: "faults",
    Stall: "stalls",
}


def _plain(event: Any) -> dict[str, Any]:
    return {key: value._asdict() if isinstance(value, Given) else value for key, value in event._asdict().items()}


def _typed(key: str, value: Any) -> Any:
    if key in ("given", "old", "new"):
        return Given(value["label"], value["tier"], tuple(value["posterior"]))
    return tuple(value) if key == "path" else value
