"""What an outbox writes in one transaction, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from escalade.tiers.outbox.correction import Correction, Delivered
    from escalade.tiers.outbox.errors import OutboxError
    from escalade.tiers.outbox.item import Item
    from escalade.tiers.outbox.stats import EvictionReason


@dataclass
class Batch:
    """What is to be written in one transaction."""

    puts: list[Item] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    delivered: list[Sequence[Delivered]] = field(default_factory=list)
    given_up: list[tuple[Sequence[int], EvictionReason]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.puts or self.done or self.failed or self.delivered or self.given_up)


class Written(NamedTuple):
    """What became of a batch."""

    puts: list[int | OutboxError]
    """Each item's number, or why it was not kept."""
    delivered: list[list[Correction] | OutboxError]
    """The corrections of each, or why they are not on the disk yet."""
