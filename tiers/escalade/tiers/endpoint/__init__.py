"""The lowest tier: beside the sensor, microcontroller to single-board computer."""

from escalade.tiers.endpoint.service import Endpoint

__all__ = ["Endpoint"]
