"""Durable store and forward: what could not be sent is kept on disk, in order, within bounds."""

from escalade.tiers.outbox.correction import Correction, Delivered
from escalade.tiers.outbox.dedup import DedupWindow, Seen
from escalade.tiers.outbox.errors import OutboxBusyError, OutboxError, OutboxFullError
from escalade.tiers.outbox.inbox import Inbox
from escalade.tiers.outbox.item import KINDS, PRIORITIES, Item, Kind, Leased, Priority
from escalade.tiers.outbox.order import OutboxLimits
from escalade.tiers.outbox.receiver import Stored
from escalade.tiers.outbox.stats import Evicted, EvictionReason, InboxStats, OutboxStats
from escalade.tiers.outbox.store import Outbox
from escalade.tiers.outbox.window import InboxLimits

__all__ = [
    "KINDS",
    "PRIORITIES",
    "Correction",
    "DedupWindow",
    "Delivered",
    "Evicted",
    "EvictionReason",
    "Inbox",
    "InboxLimits",
    "InboxStats",
    "Item",
    "Kind",
    "Leased",
    "Outbox",
    "OutboxBusyError",
    "OutboxError",
    "OutboxFullError",
    "OutboxLimits",
    "OutboxStats",
    "Priority",
    "Seen",
    "Stored",
]
