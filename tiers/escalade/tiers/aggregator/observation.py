"""What a node reports, and what becomes of it: `Observation`, `Verdict`, and the catalogue of refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Status = Literal[
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "DEADLINE_EXCEEDED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
]

REFUSALS: dict[str, Status] = {
    "unknown_node": "NOT_FOUND",
    "tenant": "PERMISSION_DENIED",
    "key": "INVALID_ARGUMENT",
    "posterior": "INVALID_ARGUMENT",
    "classes": "INVALID_ARGUMENT",
    "features": "INVALID_ARGUMENT",
    "raw": "INVALID_ARGUMENT",
    "label": "INVALID_ARGUMENT",
    "skew": "FAILED_PRECONDITION",
    "future": "OUT_OF_RANGE",
    "expired": "DEADLINE_EXCEEDED",
    "duplicate": "ALREADY_EXISTS",
    "repeated": "ALREADY_EXISTS",
    "full": "RESOURCE_EXHAUSTED",
    "too_many": "RESOURCE_EXHAUSTED",
    "store": "UNAVAILABLE",
    "egress": "FAILED_PRECONDITION",
    "too_large": "INVALID_ARGUMENT",
}
"""Why an observation was not taken, and the status that its verdict has."""

TRY_AGAIN: frozenset[Status] = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
"""What is worth another try; everything else will not change, and the sender forgets the observation."""

MAX_KEY = 200
"""Characters of a key, a zone or an observation's id."""


class Raw(NamedTuple):
    """One input as a node's model took it."""

    datatype: str
    shape: tuple[int, ...]
    content: bytes


class Observation(NamedTuple):
    """One node's view of one event.

    `event` is empty where time and zone tell; `observed_s` is of the node's clock, None when it does not
    say. `posterior` and `features` are float32, in whatever length the node sent them.
    """

    node: str
    id: str
    event: str
    zone: str
    observed_s: float | None
    posterior: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
    raw: Raw | None = None
    label: int | None = None


class Verdict(NamedTuple):
    """What became of one observation; `reason` is empty where it was accepted, else a key of `REFUSALS`."""

    reason: str = ""
    message: str = ""
    event: str = ""

    @property
    def status(self) -> Status:
        """The gRPC status."""
        return REFUSALS[self.reason] if self.reason else "OK"

    @property
    def settled(self) -> bool:
        """Whether the sender is done with the observation: taken, or never to be."""
        return self.status not in TRY_AGAIN


class RefusalError(Exception):
    """Raised inside the aggregator for one observation; becomes its verdict."""

    def __init__(self, reason: str, message: str, event: str = "") -> None:
        super().__init__(message)
        self.verdict = Verdict(reason, message, event)


def is_name(text: Any) -> bool:
    """Whether a key, zone or id is one that can be kept and shown: short, and printable."""
    return isinstance(text, str) and len(text) <= MAX_KEY and text.isprintable()
