"""The edge_server as a service."""

from __future__ import annotations

from typing import ClassVar

from escalade.tiers.config import TierName
from escalade.tiers.service import Service


class EdgeServer(Service):
    """The highest tier: the best model; answers what nobody below could be trusted with."""

    tier_name: ClassVar[TierName] = "edge_server"
