"""The kinds of fault, what each is done to, and what must be noticed."""

from __future__ import annotations

from typing import NamedTuple

TIERS = ("endpoint", "edge_node", "edge_server")
LINKS = ("near", "far")
"""`near`: between endpoint and edge node; `far`: between edge node and edge server. What faults are done to."""
CELL = "cell"
"""From the endpoint straight to the edge server, for critical inputs when the near link fails; cut with it at times."""
ABOVE = {"near": "edge_node", "edge_node": "edge_node", "far": "edge_server", "edge_server": "edge_server"}
"""The tier that is out of reach while a link or a tier is out of order."""


class Kind(NamedTuple):
    """One kind of fault.

    Attributes
    ----------
    what:
        In words.
    targets:
        What it may be done to.
    seconds:
        How long it lasts at least.
    silent:
        Whoever asks gets no answer at all meanwhile: it is to be noticed, and no longer waited for.
    offline:
        Done while every link of the endpoint is cut, so that its outbox is at work.
    """

    what: str
    targets: tuple[str, ...]
    seconds: float = 4.0
    silent: bool = True
    offline: bool = False


KINDS = {
    "kill": Kind("kill -9, started again", TIERS),
    "freeze": Kind("SIGSTOP, then SIGCONT", TIERS),
    "drop_both": Kind("nothing passes either way", LINKS),
    "drop_up": Kind("nothing passes upward", LINKS),
    "drop_down": Kind("nothing passes downward", LINKS),
    "delay": Kind("300 ms more for each answer", LINKS, silent=False),
    "loss": Kind("20 % of the segments lost", LINKS, silent=False),
    "cap": Kind("4 kB/s each way", LINKS, silent=False),
    "reset": Kind("every connection is reset", LINKS),
    "garbage": Kind("random bytes instead of answers", LINKS),
    "disk_full": Kind("no space for the outbox", ("endpoint",), silent=False, offline=True),
    "disk_eio": Kind("fsync answers EIO", ("endpoint",), silent=False, offline=True),
    "clock_jump": Kind("the time of day a year ahead", ("endpoint",), silent=False, offline=True),
    "power_cut": Kind("the disk stops at once; kill -9", ("endpoint",), seconds=1.0, silent=False, offline=True),
}

KILLING = frozenset({"kill", "power_cut"})
"""Kinds that end a process, which must start again."""
DOWN = frozenset({"kill", "freeze"})
"""Kinds during which a tier does not run: an endpoint takes no requests then."""
