from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from escalade.policies import load_policy, load_score
from escalade.policies.fusion import load_rule
from escalade.tiers.aggregator.aggregator import Aggregator
from escalade.tiers.aggregator.checks import Checks
from escalade.tiers.aggregator.config import AggregatorConfig
from escalade.tiers.aggregator.event import Answer
from escalade.tiers.aggregator.fusing import Fusing
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.aggregator.store import Store
from escalade.tiers.outbox.sealing import UNSEALED, Seal
from escalade.tiers.testing.fakes import ManualClock

TODAY_S = 1_800_000_000.0
NODES = ("n0", "n1", "n2")
CLASSES = 3
SURE = (0.9, 0.8, 0.7)
"""How sure each node is of what it says: different, so that there are no ties."""


def posterior(label: int, sure: float = 0.9, classes: int = CLASSES) -> Any:
    p = np.full(classes, (1 - sure) / (classes - 1), np.float32)
    p[label] = sure
    return p


def saw(
    node: str, event: str, label: int = 0, *, name: str = "1", sure: float | None = None, **fields: Any
) -> Observation:
    sure = SURE[NODES.index(node)] if sure is None and node in NODES else sure or 0.9
    fields.setdefault("posterior", posterior(label, sure))
    fields.setdefault("observed_s", None)
    return Observation(node, name, event, fields.pop("zone", ""), **fields)


class Served:
    """An aggregator on a manual clock and a real file, which can be restarted."""

    def __init__(self, folder: Path, clock: ManualClock | None = None, seal: Seal = UNSEALED, **config: Any) -> None:
        self.seal = seal
        config = {"nodes": list(NODES), "rule": {"name": "MeanProbability", "health": False}, **config}
        self.config = AggregatorConfig.model_validate(config).in_folder(folder)
        self.clock = clock or ManualClock(1000.0)
        self.started_at = TODAY_S - self.clock.now
        self.tier: Any = None
        self.open()

    def open(self) -> None:
        config = self.config
        fusing = Fusing(
            load_rule(config.rule),
            nodes=len(config.nodes),
            classes=config.classes or CLASSES,
        )
        checks = Checks(config, fusing.classes, fusing.feature_size)
        self.store = Store(config.file, config.nodes, config.max_kept, self.seal)
        score = None if config.score == "agreement" else load_score(config.score, "posterior")
        self.aggregator = Aggregator(
            config,
            fusing.classes,
            checks,
            fusing,
            self.store,
            load_policy(config.policy),
            score,
            tier=self.tier,
            clock=self.clock,
            wall=lambda: self.started_at + self.clock.now,
            uniform=lambda: 0.5,
        )
        self.fusing = fusing

    async def pass_ms(self, milliseconds: float) -> None:
        """Let time pass, deadline by deadline, as timers would."""
        end = self.clock.now + milliseconds / 1e3
        window = self.aggregator.window
        while (due_s := window.next_due_s()) is not None and due_s - self.started_at <= end:
            self.clock.now = max(self.clock.now, due_s - self.started_at)
            self.aggregator.tick()
        self.clock.now = end
        await self.settle()

    async def settle(self) -> None:
        """Wait until everything is on the disk and was told."""
        await self.aggregator.flush()

    async def reasons(self, observations: Sequence[Observation], **more: Any) -> list[str]:
        return [verdict.reason for verdict in await self.aggregator.observe(observations, **more)]

    def answers(self) -> list[Answer]:
        return list(self.aggregator.answers.since(0))

    async def restart(self, *, crash: bool = False) -> None:
        """Stop and start again; a crash writes nothing more."""
        if crash:
            await self.settle()  # what was acknowledged is on the disk; what was learnt since need not be
            if self.aggregator._timer is not None:
                self.aggregator._timer[1].cancel()
            self.store.close()
        else:
            await self.aggregator.close()
        self.open()


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)
