"""The edge_server as a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from escalade.tiers.service import Service

if TYPE_CHECKING:
    from escalade.tiers.config import TierName


class EdgeServer(Service):
    """The highest tier: the best model; answers what nobody below could be trusted with."""

    tier_name: ClassVar[TierName] = "edge_server"
