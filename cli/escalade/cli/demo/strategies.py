"""Three ways to answer the same inputs by the same path: the endpoints' configuration, overridden."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from escalade.cli.demo.layout import of_tier
from escalade.cli.demo.metrics import sent_bytes
from escalade.cli.demo.progress import StreamProgress
from escalade.cli.demo.run import is_ready, stream
from escalade.tiers.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from escalade.cli.demo.data import Digits
    from escalade.cli.demo.fleet import Fleet
    from escalade.cli.demo.interrupts import Interrupts
    from escalade.cli.demo.layout import Member
    from escalade.cli.demo.run import Answers

STRATEGIES = ("cascade", "always_endpoint", "always_edge_server")
WARM_UP = 80
"""Calibration images sent before the measurement: then every link of the fleet is open."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What one strategy answered, and the bytes that went up: by the tier that sent them."""

    answers: Answers
    bytes_up_by_tier: dict[str, float]

    @property
    def bytes_up(self) -> float:
        """Bytes sent up over all hops."""
        return sum(self.bytes_up_by_tier.values())


def overrides(strategy: str, server: Member) -> dict[str, str]:
    """Return the environment that turns the endpoints' configuration into a strategy's."""
    if strategy == "always_endpoint":
        return {"ESCALADE__POLICY": "{name: AlwaysAccept}"}
    if strategy == "always_edge_server":
        return {
            "ESCALADE__POLICY": "{name: AlwaysEscalate}",
            "ESCALADE__UPSTREAM__ADDRESS": server.address,
            "ESCALADE__UPSTREAM__TIER": server.tier,
        }
    return {}


def measure(
    strategy: str,
    fleet: Fleet,
    members: Sequence[Member],
    digits: Digits,
    console: Console,
    interrupts: Interrupts,
) -> Measured:
    """Start the endpoints as the strategy wants them, stream the test images, stop the endpoints.

    The server and the nodes must be running.
    """
    endpoints = of_tier(members, "endpoint")
    fleet.start(endpoints, is_ready, overrides(strategy, members[0]))

    async def warm_up_and_stream() -> tuple[Answers, dict[str, float], dict[str, float]]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(endpoint.address)) for endpoint in endpoints]
            await stream(clients, digits.calibration.images[:WARM_UP])
            before = sent_bytes(members)
            with StreamProgress(console, strategy, len(digits.test)) as progress:
                answers = await stream(clients, digits.test.images, progress.answered)
            return answers, before, sent_bytes(members)

    answers, before, after = interrupts.run(warm_up_and_stream())
    fleet.check()
    fleet.stop(endpoints)
    tiers = dict.fromkeys(member.tier for member in members)
    bytes_up = {tier: sum(after[m.name] - before[m.name] for m in of_tier(members, tier)) for tier in tiers}
    return Measured(answers, bytes_up)
