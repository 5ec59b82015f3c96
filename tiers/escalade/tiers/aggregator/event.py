"""One event, as far as it has been reported: `Event`, and `Answer`, what was made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.tiers.aggregator.observation import Observation, Raw

CAUSES = ("complete", "quorum", "settled", "deadline", "late")
"""Why an event is answered: all nodes have reported; enough have; no other can change the label; time is up;
and of a correction: a late observation."""


class State(IntEnum):
    """Of an event's life."""

    OPEN = 0
    CLOSED = 1
    """Answered, or about to be; a late observation may still correct it."""
    FINAL = 2


class Answer(NamedTuple):
    """What watchers are told of an event. Times are seconds since the epoch, by the aggregator's clock."""

    sequence: int
    event: str
    zone: str
    revision: int
    cause: str
    posterior: NDArray[np.float32]
    label: int
    score: float
    conflict: float
    reported: tuple[int, ...]
    """Places of nodes."""
    used: tuple[int, ...]
    action: str
    tier: str
    reason: str
    opened_s: float
    closed_s: float


@dataclass(slots=True, eq=False)
class Event:
    """What is known of one event."""

    key: str
    zone: str
    time_s: float
    """When it was first observed, by the corrected clock of who did."""
    opened_s: float
    """When that observation arrived."""
    opener: int
    """The node that reported it first: it is counted against that node's share."""
    present: NDArray[np.bool_]
    posteriors: NDArray[np.float32]
    """`[N, C]`; zero where nobody has reported."""
    features: NDArray[np.float32] | None = None
    ids: dict[int, str] = field(default_factory=dict)
    raws: dict[int, Raw] = field(default_factory=dict)
    state: State = State.OPEN
    due_s: float = 0.0
    """When its state changes if nothing happens."""
    label: int = -1
    """The truth, where somebody told it."""
    guess: int = -1
    """The label that was fused."""
    learnt: bool = False
    revision: int = 0
    answer: Answer | None = None
    by_keyless: bool = False
    """Whether it was found by time and zone."""

    @classmethod
    def first(
        cls, key: str, observation: Observation, place: int, *, nodes: int, classes: int, time_s: float, now: float
    ) -> Event:
        """Return an event that nobody has reported yet; `observation` is about to be added."""
        return cls(
            key,
            observation.zone,
            time_s,
            now,
            place,
            np.zeros(nodes, np.bool_),
            np.zeros((nodes, classes), np.float32),
            by_keyless=not observation.event,
        )

    def add(self, observation: Observation, place: int) -> None:
        """Take in what a node says that has not reported yet."""
        self.present[place] = True
        self.posteriors[place] = observation.posterior
        self.ids[place] = observation.id
        if observation.features is not None:
            if self.features is None:
                self.features = np.zeros((len(self.present), len(observation.features)), np.float32)
            self.features[place] = observation.features
        if observation.raw is not None:
            self.raws[place] = observation.raw
        if observation.label is not None:
            self.label = observation.label

    def places(self) -> tuple[int, ...]:
        """Return the places of the nodes that have reported."""
        return tuple(sorted(self.ids))
