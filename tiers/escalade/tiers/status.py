"""What a tier tells about itself: plain facts, for `escalade status` and whoever else asks."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinkStatus:
    """One link upward; times in seconds ago, NaN for never."""

    address: str
    state: str
    """`up`, `frozen` (connected, but silent), `refused` (nobody there), `unknown` (not asked yet)."""
    state_s: float
    breaker: str
    breaker_s: float
    latency_ms: float
    load: float
    last_failure: str = ""


@dataclass(frozen=True)
class OutboxStatus:
    """The outbox: what waits, what was lost, what was sent."""

    file: str
    depth: dict[str, int]
    in_flight: int
    bytes: int
    oldest_s: float
    evictions: dict[str, int]
    """By "reason priority"."""
    quarantined: int
    refused: int
    corrections: int
    last_correction: int
    trouble: str = ""


@dataclass(frozen=True)
class InboxStatus:
    """What came from outboxes below."""

    file: str
    items: int
    repeats: int
    trouble: str = ""


@dataclass(frozen=True)
class Status:
    """One tier at one moment; counters since it started."""

    tier: str
    device: str
    version: str
    up_s: float
    model: str
    model_sha256: str
    draining: bool
    queue: int
    max_queue: int
    load: float
    requests: dict[str, int]
    actions: dict[str, int]
    degraded: dict[str, int]
    shed: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (priority, cause)."""
    links: list[LinkStatus] = field(default_factory=list)
    outbox: OutboxStatus | None = None
    inbox: InboxStatus | None = None
