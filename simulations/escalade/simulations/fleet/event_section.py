"""What a scenario says of events that several edge nodes see: `Events`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from escalade.simulations.fleet.distribution import NonNegative, Positive, Share
from escalade.tiers.config import Section

MOST_VIEWS = 16


class ViewFault(Section):
    """What breaks one view of an event; the node's own requests are not touched."""

    kind: Literal["stuck", "noisy", "dead"]
    """`stuck`: sure of one class, whatever is there; `noisy`: sure of any, by chance; `dead`: reports nothing."""
    view: Annotated[int, Field(ge=0)] = 0
    """The place in its group of nodes, from 0."""
    share: Share = 1.0
    """Of the groups in which it breaks, each drawn by chance."""
    at_s: NonNegative = 0.0
    to_s: Positive | None = None
    """When it is repaired; default: never."""

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_s is not None and self.to_s <= self.at_s:
            raise ValueError(f"to_s is {self.to_s:g}, not after at_s: {self.at_s:g}")
        return self


class Events(Section):
    """Events that several edge nodes see, each by itself, and an aggregator at the server fuses.

    The nodes of a cell are dealt into groups of `views` consecutive ones; a rest that fills no group sees no events.
    An event is of one group, evenly drawn: all its nodes see it at once, and each infers its view when a worker is
    free, among the requests of the cascade. What it says goes up the link as any message. Every group has an
    aggregator of its own, with a rule of its own: it closes an event as the tiers' does with `early_close: false`
    when all, or a quorum, have reported, or at its deadline, and takes what is late for a correction. It takes no
    worker's time.
    """

    rate_hz: Positive
    """Of the whole fleet; Poisson."""
    views: Annotated[int, Field(ge=2, le=MOST_VIEWS)]
    """Nodes that see an event."""
    rule: dict[str, Any] = Field(default={"name": "MeanProbability"})
    """As the tiers' `aggregator.rule`, its default too: behind a health check, unless `health: false`."""
    table: Path | None = None
    """``npz`` with logits ``z_test [views, N, C]`` and labels ``y_test [N]``, as `escalade fusion` takes it. Default:
    made up by accuracy; objects that are hard are hard for all views."""
    accuracy: Share | Annotated[list[Share], Field(min_length=2)] = 0.8
    """Of a single view, or of each, where there is no table. 0.8: assumed, as `scores.accuracy`."""
    classes: Annotated[int, Field(ge=2, le=1000)] = 10
    """Where there is no table."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Where there is no table."""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """So many views are enough; default, as in the tiers: all."""
    deadline_ms: Positive = 200.0
    """As in the tiers: from the first report's arrival; then the event is answered with what there is."""
    late_ms: NonNegative = 2000.0
    """As in the tiers: after its answer, so long a late report may correct it."""
    bytes_up: Annotated[int, Field(ge=0)] = 64
    """Of one posterior: ten classes in float32, and a header."""
    faults: tuple[ViewFault, ...] = ()

    @model_validator(mode="after")
    def _of_its_views(self) -> Self:
        if self.quorum is not None and self.quorum > self.views:
            raise ValueError(f"a quorum of {self.quorum} of {self.views} views is never met; lower `quorum`")
        if isinstance(self.accuracy, list) and len(self.accuracy) != self.views:
            raise ValueError(f"accuracy has {len(self.accuracy)} entries for {self.views} views; give one for each")
        for fault in self.faults:
            if fault.view >= self.views:
                raise ValueError(f"a fault of view {fault.view}: the views are 0 to {self.views - 1}")
        return self
