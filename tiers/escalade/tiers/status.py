"""What a tier tells about itself: plain facts, for `escalade status` and whoever else asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from escalade.tiers.link_state import LinkFacts
    from escalade.tiers.outbox import Inbox, Outbox


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
    last_failure_s: float = nan


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
    shed: dict[str, int] = field(default_factory=dict)
    """Refused for load, by "priority cause"."""
    links: list[LinkStatus] = field(default_factory=list)
    outbox: OutboxStatus | None = None
    inbox: InboxStatus | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON has it: null for what is not known yet."""
        links = [{name: _or_null(value) for name, value in vars(link).items()} for link in self.links]
        return {**asdict(self), "links": links}


def link_status(facts: LinkFacts, now: float) -> LinkStatus:
    """Return a link's facts with its times as seconds ago."""
    return LinkStatus(
        address=facts.address,
        state=facts.state,
        state_s=nan if facts.since is None else now - facts.since,
        breaker=facts.breaker,
        breaker_s=nan if facts.breaker_since is None else now - facts.breaker_since,
        latency_ms=facts.latency_ms,
        load=facts.load,
        last_failure=facts.reason,
        last_failure_s=nan if facts.failed_at is None else now - facts.failed_at,
    )


def outbox_status(outbox: Outbox) -> OutboxStatus:
    """Return an outbox's state."""
    stats = outbox.stats()
    return OutboxStatus(
        file=str(outbox.path),
        depth=stats.depth,
        in_flight=stats.in_flight,
        bytes=stats.bytes,
        oldest_s=stats.oldest_age_s,
        evictions={" ".join(names): count for names, count in stats.evictions.items()},
        quarantined=stats.quarantined,
        refused=stats.refused,
        corrections=stats.corrections,
        last_correction=stats.last_correction,
        trouble=stats.trouble,
    )


def inbox_status(inbox: Inbox, repeats: int) -> InboxStatus:
    """Return an inbox's state; `repeats`: deliveries that came again."""
    stats = inbox.stats()
    return InboxStatus(str(inbox.path), sum(stats.items.values()), repeats, stats.trouble)


def _or_null(value: str | float) -> str | float | None:
    return None if isinstance(value, float) and not isfinite(value) else value
