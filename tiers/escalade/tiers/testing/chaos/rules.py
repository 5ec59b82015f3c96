"""What a history is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.testing.chaos.history import Given

TOLERANCE = 1e-4
"""How far two runs of one model may be apart: batches of another size round otherwise."""


TIMED = frozenset({"late", "unnoticed", "waited", "no_recovery"})
"""Kinds of violation that a machine too busy to run the tiers causes by itself."""


class Violation(NamedTuple):
    """A promise that was not kept."""

    kind: str
    text: str
    requests: tuple[str, ...] = ()


class Rules(NamedTuple):
    """The promises, as numbers.

    Attributes
    ----------
    model:
        `model(tier, number)`: the posterior that the tier's model gives for input `number`.
    local_s:
        What the endpoint's own model takes.
    budget_s:
        What the endpoint is configured to spend on others: the tiers above, and its disk.
    allowance_s:
        For processes that share too few cores; part of the bound, though nobody configured it.
    notice_s, recover_s:
        How soon a silent peer is noticed, and found again after healing.
    spare_s:
        How long a silent peer may make every request wait; then the breaker spares all but a few.
    reconnect_s:
        How long the callers' own channels may take to find a restarted endpoint.
    """

    model: Callable[[str, int], NDArray[np.float32]]
    local_s: float
    budget_s: float
    allowance_s: float = 0.3
    notice_s: float = 3.0
    spare_s: float = 1.2
    recover_s: float = 5.0
    reconnect_s: float = 2.5

    @property
    def bound_s(self) -> float:
        """The longest time to an answer."""
        return self.local_s + self.budget_s + self.allowance_s


def mismatch(given: Given, posterior: NDArray[np.float32]) -> str:
    """Say how an answer differs from what its tier's model gives; empty when it does not."""
    if len(given.posterior) != len(posterior) or not np.allclose(given.posterior, posterior, atol=TOLERANCE):
        return f"not what the {given.tier}'s model gives: {_text(given.posterior)}, expected {_text(posterior)}"
    if given.label != int(np.argmax(posterior)):
        return f"label {given.label} for {_text(posterior)}"
    return ""


def _text(posterior: NDArray[np.float32] | tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in posterior)
