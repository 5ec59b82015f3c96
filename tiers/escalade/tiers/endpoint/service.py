"""The endpoint as a service."""

from __future__ import annotations

from typing import ClassVar

from escalade.tiers.config import TierName
from escalade.tiers.service import Service


class Endpoint(Service):
    """The lowest tier: beside the sensor, microcontroller to single-board computer."""

    tier_name: ClassVar[TierName] = "endpoint"
