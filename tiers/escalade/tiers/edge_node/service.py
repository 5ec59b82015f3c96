"""The edge_node as a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from escalade.tiers.service import Service

if TYPE_CHECKING:
    from escalade.tiers.config import TierName


class EdgeNode(Service):
    """The middle tier: a gateway that answers for the endpoints below it."""

    tier_name: ClassVar[TierName] = "edge_node"
