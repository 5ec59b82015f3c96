"""A tier's answers as observations: what `aggregate:` makes of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.aggregator.observation import Observation, Raw
from escalade.tiers.answer import Row
from escalade.tiers.config import DATATYPES
from escalade.tiers.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.tiers.aggregator.config import AggregateConfig
    from escalade.tiers.answer import Answer
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.reporter import Reporter


class Reporting:
    """Turns every answered row into an observation and hands it to the reporter.

    A row is of the event that its request names; of a request with several rows, the second is of
    `KEY/1`, the third of `KEY/2`. Without a key only requests of one row are reported: the aggregator
    finds their event by time and zone. Rows without a usable posterior are not reported, but counted.

    Parameters
    ----------
    features:
        The model whose main output is sent along; None: none.
    wall:
        The time of day.
    """

    def __init__(
        self,
        config: AggregateConfig,
        reporter: Reporter,
        features: OnnxModel | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._reporter, self._features, self._wall = config, reporter, features, wall
        self._tasks: set[asyncio.Task[None]] = set()

    def answered(self, x: NDArray[Any], answer: Row | Answer, event: str = "") -> None:
        """Report one answered request; never waits, never raises."""
        if self._config.event_key == "time":
            event = ""
        whole = answer.answer() if isinstance(answer, Row) else answer
        if whole.posterior is None or (not event and (self._config.event_key == "request" or len(whole) > 1)):
            self._reporter.counts["skipped"] += len(whole)
            return
        observed_s = self._wall() - (whole.path[0].elapsed_ms / 1e3 if whole.path else 0.0)
        if self._features is None:
            self._report(x, whole.posterior, event, observed_s, None)
        else:
            task = asyncio.create_task(self._with_features(x, whole.posterior, event, observed_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def forget(self, node: str) -> list[str]:
        """Delete what waits of a node; return a line where something may; OutboxError when it cannot be deleted."""
        gone = await self._reporter.forget(node)
        return [] if gone is None else [f"outbox {self._config.outbox}: {gone}"]

    async def close(self) -> None:
        """Report what is under way, then close the reporter."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reporter.close()

    async def _with_features(
        self, x: NDArray[Any], posterior: NDArray[np.float32], event: str, observed_s: float
    ) -> None:
        assert self._features is not None
        try:
            outputs = await asyncio.to_thread(self._features.run, x)
        except ModelError:
            self._reporter.counts["skipped"] += len(x)
            return
        rows = outputs[self._features.main].reshape(len(x), -1).astype(np.float32)
        self._report(x, posterior, event, observed_s, rows)

    def _report(
        self,
        x: NDArray[Any],
        posterior: NDArray[np.float32],
        event: str,
        observed_s: float,
        features: NDArray[np.float32] | None,
    ) -> None:
        config, reporter = self._config, self._reporter
        for row in range(len(posterior)):
            if not np.isfinite(posterior[row]).all():
                reporter.counts["skipped"] += 1
                continue
            raw = None
            if config.send == "raw":
                raw = Raw(DATATYPES[x.dtype], x.shape[1:], x[row].tobytes())
            reporter.report(
                Observation(
                    config.node,
                    reporter.next_id(),
                    f"{event}/{row}" if row else event,
                    config.zone,
                    observed_s,
                    posterior[row],
                    None if features is None else features[row],
                    raw,
                )
            )
