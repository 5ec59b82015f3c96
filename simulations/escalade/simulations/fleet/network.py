"""Links between the tiers, and what goes up and down, as a scenario writes it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from escalade.simulations.fleet.distribution import Constant, Distribution, Positive, Share
from escalade.tiers.config import BreakerConfig, Section


class Period(Section):
    """From when until when, seconds of simulated time."""

    from_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    to_s: Positive

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_s <= self.from_s:
            raise ValueError(f"to_s is {self.to_s:g}, not after from_s: {self.from_s:g}")
        return self


class UpDown(Section):
    """When something is down: listed periods, for all at once, or a Markov chain for each by itself."""

    periods: tuple[Period, ...] = ()
    """Ascending, apart from each other."""
    up_s: Positive | None = None
    """Mean time from coming up until going down, exponential; with `down_s`."""
    down_s: Positive | None = None
    """Mean time of being down, exponential."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.up_s is None) != (self.down_s is None):
            raise ValueError("up_s and down_s need each other")
        if bool(self.periods) == (self.up_s is not None):
            raise ValueError("give either periods or up_s with down_s")
        if any(b.from_s <= a.to_s for a, b in pairwise(self.periods)):
            raise ValueError("periods must ascend and not touch: sort and join them")
        return self


class RetryBudget(Section):
    """What repeats may cost a link, as in the tiers: never more than `burst` + `ratio` x messages.

    All repeats of a message are paid for when it is first sent; one that cannot be paid for gives the message up.
    """

    ratio: Share = 0.1
    """Repeats that a message earns: the tiers' default."""
    burst: Annotated[int, Field(ge=0)] = 10
    """Repeats that are kept at most, and there are at the start: the tiers' default."""


class Loss(Section):
    """Messages that are lost and sent again."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Of single transmissions."""
    retry_ms: Positive = 200.0
    """From a lost transmission to the next: Linux's least TCP retransmission timeout (TCP_RTO_MIN, 200 ms)."""
    max_retries: Annotated[int, Field(ge=0, le=16)] = 4
    """Then the message is given up: the tier below answers at its limit."""
    budget: RetryBudget | None = None
    """Default: none; TCP repeats as often as it must."""


class Link(Section):
    """The way from a tier to the next above, and back.

    Every edge node has a link of its own to its endpoints (shared by them) and one to the server. Answers need no
    bandwidth and are not lost.
    """

    latency: Distribution = Constant(ms=0.0)
    """Upward, without waiting and without transmission."""
    latency_down: Distribution | None = None
    """Of the answers; default: drawn from `latency`, by itself. A link whose round trips were measured has a
    constant here and the rest of them in `latency`."""
    bandwidth_kbit_s: Positive | None = None
    """Upward; messages go one after another. Default: no limit."""
    loss: Loss | None = None
    outages: UpDown | None = None
    """Messages wait meanwhile. One that is under way when an outage begins arrives."""
    max_waiting: Annotated[int, Field(ge=1)] | None = None
    """Messages that the sender keeps, the one in transmission among them; default: no limit."""
    when_full: Literal["evict_oldest", "refuse"] = "evict_oldest"
    """`evict_oldest`: as the outbox does. Either way the tier below answers what is not kept, degraded."""
    breaker: BreakerConfig | None = None
    """As in the tiers: a message sent while the link is down is a failure. While the breaker is open, what the
    policy escalates is answered below at once, degraded, and goes up later as in any outage."""

    @property
    def queues(self) -> bool:
        """Whether what becomes of a message depends on those before it."""
        budget = self.loss is not None and self.loss.budget is not None
        return self.bandwidth_kbit_s is not None or self.outages is not None or budget
