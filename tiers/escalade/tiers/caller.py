"""Who asks, and on what terms: what a request says beside its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from escalade.tiers.outbox.item import Priority


class Caller(NamedTuple):
    """The facts of a request that do not depend on its input.

    Attributes
    ----------
    device:
        Which device the input comes from; empty when the caller does not say.
    priority:
        `critical` is answered first and refused last.
    keeps:
        Whoever asks keeps what stays unanswered in an outbox of its own; so nobody above need.
    delivery:
        The id of an item of the caller's outbox, which is sent until it is answered: answered finally or
        not at all, and only once however often it comes. Empty for live requests.
    hops:
        How many tiers have passed it on; see `links.MOST_HOPS`.
    """

    device: str = ""
    priority: Priority = "normal"
    keeps: bool = False
    delivery: str = ""
    hops: int = 0


PLAIN = Caller()
"""A request that says nothing of the kind."""
