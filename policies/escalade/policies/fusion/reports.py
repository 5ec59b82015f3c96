"""When a node is distrusted, and what is reported of it: `HealthLimits`, `NodeReport`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from escalade.policies.fusion.reasons import Reason


class HealthLimits(BaseModel):
    """When a node is distrusted; every limit with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alarm: float = Field(default=16.0, gt=0.0, le=1000.0)
    """Evidence, in natural logarithms of odds, at which a node is distrusted. Higher: later, fewer false alarms."""
    silent_after: int = Field(default=50, ge=1)
    """Events in a row, reported by others, that a node may miss before it counts as silent."""
    min_others: int = Field(default=2, ge=1)
    """Trusted other nodes that must have reported for a node to be judged by them."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """How one node is.

    Attributes
    ----------
    node
        Its place.
    weight
        1.0 where it is trusted, else 0.0.
    reason
        Empty where nothing is wrong, else what is.
    detail
        What it is seen by, in words; may grow more exact while the fault lasts.
    since_event
        Number of the event (counted from 0 over everything observed) at which it began to count as that;
        -1 where nothing is wrong.
    """

    node: int
    weight: float
    reason: Reason
    detail: str
    since_event: int
