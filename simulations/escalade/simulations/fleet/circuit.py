"""The tiers' breaker (`escalade.tiers.breaker`) for many links at once, as arrays; a test holds that both agree.

The simulator knows one kind of failure, a link that is down when a message is sent, and knows it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import uniform
from escalade.simulations.fleet.jit import inline

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSED, OPEN, HALF_OPEN = 0, 1, 2


class Circuits(NamedTuple):
    """One breaker for each link; times in ns."""

    state: NDArray[np.int64]
    in_a_row: NDArray[np.int64]
    next_wait: NDArray[np.float64]
    until: NDArray[np.float64]
    opened: NDArray[np.int64]
    """How often: the number of the next random number."""

    @classmethod
    def closed(cls, links: int, wait: float) -> Circuits:
        """Make breakers that let everything pass."""
        return cls(
            np.zeros(links, np.int64),
            np.zeros(links, np.int64),
            np.full(links, wait),
            np.zeros(links),
            np.zeros(links, np.int64),
        )


@inline
def allows(circuits: Any, link: Any, now: Any) -> Any:
    """Whether a message may be sent now; the caller then says how it ended."""
    if circuits.state[link] == CLOSED:
        return True
    if circuits.state[link] == OPEN and now >= circuits.until[link]:
        circuits.state[link] = HALF_OPEN
        return True
    return False


@inline
def ended(circuits: Any, link: Any, now: Any, good: Any, failures: Any, wait: Any, max_wait: Any, key: Any) -> None:
    """Take note of a message that got through, or did not."""
    if good:
        circuits.in_a_row[link] = 0
        circuits.next_wait[link] = wait
        circuits.state[link] = CLOSED
        return
    if circuits.state[link] == CLOSED:
        circuits.in_a_row[link] += 1
        if circuits.in_a_row[link] < failures:
            return
    chance = uniform(key, (np.int64(link) << 32) + circuits.opened[link])
    circuits.until[link] = now + circuits.next_wait[link] * (1 - chance / 4)
    circuits.next_wait[link] = min(2 * circuits.next_wait[link], max_wait)
    circuits.opened[link] += 1
    circuits.state[link] = OPEN
