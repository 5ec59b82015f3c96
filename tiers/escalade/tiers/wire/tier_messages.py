"""A tier's status, corrections and reports, from and to their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from escalade.protos.v1 import tier_pb2
from escalade.tiers.corrections import Correction
from escalade.tiers.outbox import Item
from escalade.tiers.outbox.item import REPORT_KINDS
from escalade.tiers.reports import Received
from escalade.tiers.status import InboxStatus, LinkStatus, OutboxStatus, Status
from escalade.tiers.wire.callers import NAME_BYTES
from escalade.tiers.wire.kept import kept_answer, rows_of

if TYPE_CHECKING:
    from escalade.tiers.outbox import Correction as Stored
    from escalade.tiers.outbox import Kind, Priority

PLAIN_FIELDS = (
    "tier", "device", "version", "up_s", "model", "model_sha256", "draining", "queue", "max_queue", "load",
)  # fmt: skip
LINK_FIELDS = (
    "address",
    "state",
    "state_s",
    "breaker",
    "breaker_s",
    "latency_ms",
    "load",
    "last_failure",
    "last_failure_s",
)
REPORT_FIELDS = ("device", "id", "kind", "priority", "created_s", "payload")
COUNTS = ("requests", "actions", "degraded", "shed")


def status_to_proto(status: Status) -> tier_pb2.TierStatus:
    """Return a status as a message."""
    message = tier_pb2.TierStatus(**{name: getattr(status, name) for name in (*PLAIN_FIELDS, *COUNTS)})
    for link in status.links:
        message.links.add(**{name: getattr(link, name) for name in LINK_FIELDS})
    if status.outbox:
        message.outbox.CopyFrom(tier_pb2.OutboxStatus(**vars(status.outbox)))
    if status.inbox:
        message.inbox.CopyFrom(tier_pb2.InboxStatus(**vars(status.inbox)))
    return message


def status_from_proto(message: tier_pb2.TierStatus) -> Status:
    """Return the status that a message holds."""
    outbox = inbox = None
    if message.HasField("outbox"):
        own = message.outbox
        outbox = OutboxStatus(
            file=own.file,
            depth=dict(own.depth),
            in_flight=own.in_flight,
            bytes=own.bytes,
            oldest_s=own.oldest_s,
            evictions=dict(own.evictions),
            quarantined=own.quarantined,
            refused=own.refused,
            corrections=own.corrections,
            last_correction=own.last_correction,
            trouble=own.trouble,
        )
    if message.HasField("inbox"):
        inbox = InboxStatus(message.inbox.file, message.inbox.items, message.inbox.repeats, message.inbox.trouble)
    facts: dict[str, Any] = {name: getattr(message, name) for name in PLAIN_FIELDS}
    facts |= {name: dict(getattr(message, name)) for name in COUNTS}
    return Status(
        **facts,
        links=[LinkStatus(*(getattr(link, name) for name in LINK_FIELDS)) for link in message.links],
        outbox=outbox,
        inbox=inbox,
    )


def correction_to_proto(stored: Stored) -> tier_pb2.Correction:
    """Return a stored correction as a message; the answers' bytes are passed on as they are."""
    request_id, rows = rows_of(stored.provisional)
    return tier_pb2.Correction(
        seq=stored.seq,
        device=stored.device,
        id=stored.id,
        request_id=request_id,
        rows=rows,
        provisional=stored.provisional,
        answer=stored.answer,
        delay_s=stored.delay_s,
    )


def correction_from_stored(stored: Stored, *, raw: bool = False) -> Correction:
    """Return a stored correction with its answers read.

    Parameters
    ----------
    raw:
        The model is no classifier.

    Raises
    ------
    UpstreamError
        `bad_answer` when an answer cannot be read.
    """
    return correction_from_proto(correction_to_proto(stored), raw=raw)


def correction_from_proto(message: tier_pb2.Correction, *, raw: bool = False) -> Correction:
    """Return the correction that a message holds; raises as `correction_from_stored`."""
    old, request_id, rows = kept_answer(message.provisional, rows=len(message.rows), raw=raw)
    new, _, _ = kept_answer(message.answer, rows=len(rows), raw=raw)
    return Correction(message.seq, message.device, message.id, request_id, rows, old, new, message.delay_s)


def item_to_proto(item: Item) -> tier_pb2.Report:
    """Return a result or a piece of telemetry as a message."""
    return tier_pb2.Report(**{name: getattr(item, name) for name in REPORT_FIELDS})


def received_to_proto(report: Received) -> tier_pb2.ReceivedReport:
    """Return a report of the inbox as a message."""
    message = tier_pb2.Report(**{name: getattr(report, name) for name in REPORT_FIELDS})
    return tier_pb2.ReceivedReport(seq=report.seq, report=message, age_s=report.age_s)


def received_from_proto(message: tier_pb2.ReceivedReport) -> Received:
    """Return the report that a message holds."""
    facts: dict[str, Any] = {name: getattr(message.report, name) for name in REPORT_FIELDS}
    return Received(seq=message.seq, age_s=message.age_s, **facts)


def item_from_proto(report: tier_pb2.Report) -> Item:
    """Return what was reported; ValueError when it is not a report."""
    if report.kind not in REPORT_KINDS:
        raise ValueError(f"a report is a result or telemetry, not {report.kind!r}")
    for what, name in (("device", report.device), ("id", report.id)):
        if len(name.encode()) > NAME_BYTES:
            raise ValueError(f"a report's {what} is longer than {NAME_BYTES} bytes")
    kind, priority = cast("Kind", report.kind), cast("Priority", report.priority or "bulk")
    return Item(report.device, report.id, report.payload, kind, priority, report.created_s)
