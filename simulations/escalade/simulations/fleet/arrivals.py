"""When inputs arrive at a class of endpoints, as a scenario writes it: `Arrivals`.

The rate is per device. Poisson streams of the devices of a cell are drawn as one stream with a device drawn for each
arrival, which is the same process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from escalade.simulations.fleet.distribution import NonNegative, Positive
from escalade.tiers.config import Section


class Poisson(Section):
    """Independent inputs at a constant rate."""

    kind: Literal["poisson"]
    rate_hz: Positive


class Periodic(Section):
    """One input a period, each device at a phase of its own, each late by up to `jitter_ms`, evenly."""

    kind: Literal["periodic"]
    period_ms: Positive
    jitter_ms: NonNegative = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.jitter_ms >= self.period_ms:
            raise ValueError(f"jitter_ms is {self.jitter_ms:g}: keep it below period_ms, or take kind: poisson")
        return self


class Daily(Section):
    """Poisson with a rate that is constant by pieces and repeats."""

    kind: Literal["daily"]
    rate_hz: list[NonNegative]
    """One for each piece, all of the same length."""
    day_s: Positive = 86_400.0

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.rate_hz or max(self.rate_hz) <= 0:
            raise ValueError("rate_hz needs a rate above 0")
        return self


class Bursts(Section):
    """Poisson whose rate changes between quiet and burst; all devices of a cell together.

    The lengths of both are exponential: a Markov-modulated Poisson process of two states.
    """

    kind: Literal["bursts"]
    rate_hz: NonNegative
    burst_rate_hz: Positive
    quiet_s: Positive
    """Mean length."""
    burst_s: Positive
    """Mean length."""


class Replay(Section):
    """The arrivals of a recorded trace, dealt to the devices in turn."""

    kind: Literal["replay"]
    file: Path
    """``npz`` with ``time_s_test`` (or ``time_s_cal``) ascending; see `escalade.simulations.trace_file`."""
    split: Literal["cal", "test"] = "test"
    speed: Positive = 1.0
    """2 plays it twice as fast."""


Arrivals = Annotated[Poisson | Periodic | Daily | Bursts | Replay, Field(discriminator="kind")]
