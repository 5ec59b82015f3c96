"""The endpoint as a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from escalade.tiers.service import Service

if TYPE_CHECKING:
    from escalade.tiers.config import TierName


class Endpoint(Service):
    """The lowest tier: beside the sensor, microcontroller to single-board computer."""

    tier_name: ClassVar[TierName] = "endpoint"
