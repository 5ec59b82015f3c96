"""Distributions of times, as a scenario writes them: `Distribution`.

Measured times are ``quantiles``; `escalade.simulations.fleet.quantiles` turns every kind into a table that draws are
looked up in, so the engine knows but one kind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from escalade.tiers.config import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Constant(Section):
    """Always the same."""

    kind: Literal["constant"] = "constant"
    ms: NonNegative


class Exponential(Section):
    """Memoryless: what Erlang's formulas assume."""

    kind: Literal["exponential"]
    mean_ms: Positive


class Uniform(Section):
    """Any time of a range, equally likely."""

    kind: Literal["uniform"]
    low_ms: NonNegative
    high_ms: NonNegative

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high_ms < self.low_ms:
            raise ValueError(f"high_ms is {self.high_ms:g}, below low_ms: swap them")
        return self


class Lognormal(Section):
    """Skewed to the right, as latencies are; given by two of its quantiles."""

    kind: Literal["lognormal"]
    p50_ms: Positive
    p99_ms: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p99_ms < self.p50_ms:
            raise ValueError(f"p99_ms is {self.p99_ms:g}, below p50_ms: swap them")
        return self


class Quantiles(Section):
    """Measured: the time that a share of all stays below, linear in between."""

    kind: Literal["quantiles"]
    share: list[Share]
    """Ascending, from 0 to 1: the least time stands at 0, the longest at 1."""
    ms: list[NonNegative]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.share) != len(self.ms) or len(self.ms) < 2:
            raise ValueError(f"{len(self.share)} share and {len(self.ms)} ms: give equally many, at least 2")
        if self.share[0] != 0.0 or self.share[-1] != 1.0:
            raise ValueError("share must go from 0 to 1: give the least time at 0 and the longest at 1")
        if any(b <= a for a, b in pairwise(self.share)):
            raise ValueError("share must ascend")
        if any(b < a for a, b in pairwise(self.ms)):
            raise ValueError("ms must ascend with share")
        return self


Distribution = Annotated[Constant | Exponential | Uniform | Lognormal | Quantiles, Field(discriminator="kind")]
