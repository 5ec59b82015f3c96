"""What an outbox tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

EvictionReason = Literal["age", "room", "rejected", "egress"]


class Evicted(NamedTuple):
    """An item that was kept and then given up."""

    device: str
    id: str
    reason: EvictionReason
    """`age`: it grew older than `max_age_s`; `room`: a newer or more urgent item needed its place;
    `rejected`: the tier above will never take it; `egress`: it may not leave this tier."""
    priority: str


class Forgotten(NamedTuple):
    """How much was deleted of some devices."""

    items: int
    corrections: int
    quarantined: int
    files: int
    """Damaged ones that had been moved aside: all of them, for they cannot be searched."""

    def __str__(self) -> str:
        return (
            f"{self.items} items, {self.corrections} corrections, {self.quarantined} damaged items and "
            f"{self.files} damaged files deleted"
        )


@dataclass(frozen=True)
class OutboxStats:
    """The state of an outbox at one moment; the counters outlive restarts, `refused` and `write_errors` do not."""

    depth: dict[str, int] = field(default_factory=dict)
    """Items kept, by priority, those in flight included."""
    in_flight: int = 0
    bytes: int = 0
    """As they count against `max_bytes`."""
    oldest_age_s: float = 0.0
    evictions: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (reason, priority)."""
    corrections: int = 0
    """Kept for subscribers."""
    last_correction: int = 0
    """The number of the latest one on the disk; a subscriber that stands at a greater one has seen another file."""
    corrections_dropped: int = 0
    """Too old, or one of too many."""
    quarantined: int = 0
    """Items and corrections that were set aside because they no longer were what had been stored."""
    corrupt_files: int = 0
    """Times that the whole file was moved aside."""
    refused: int = 0
    """Items for which no room might be made."""
    write_errors: int = 0
    """Times that the disk refused a group of items."""
    trouble: str = ""
    """Why nothing can be kept at the moment, in one line; empty when all is well."""

    @property
    def items(self) -> int:
        """Items kept."""
        return sum(self.depth.values())


@dataclass(frozen=True)
class InboxStats:
    """The state of an inbox at one moment; all counters but `write_errors` outlive restarts."""

    items: dict[str, int] = field(default_factory=dict)
    """Remembered, by kind; an escalation's is its answer."""
    at_work: int = 0
    """Claimed and not answered."""
    bytes: int = 0
    """As they count against `max_bytes`."""
    oldest_age_s: float = 0.0
    last_stored: int = 0
    """The number of the latest result or telemetry."""
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (reason, kind); `age`: it left the window, `room`: one of too many, or too large in all."""
    quarantined: int = 0
    corrupt_files: int = 0
    write_errors: int = 0
    trouble: str = ""
    """Why nothing can be kept at the moment, in one line; empty when all is well."""
