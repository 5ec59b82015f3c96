"""The edge_node as a service."""

from __future__ import annotations

from typing import ClassVar

from escalade.tiers.config import TierName
from escalade.tiers.service import Service


class EdgeNode(Service):
    """The middle tier: a gateway that answers for the endpoints below it."""

    tier_name: ClassVar[TierName] = "edge_node"
