"""Counters of one tier: plain numbers on the hot path, Prometheus families when scraped."""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from escalade.tiers.errors import OverloadedError
from escalade.tiers.link_metrics import link_families
from escalade.tiers.outbox.item import PRIORITIES, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from prometheus_client.core import Metric

    from escalade.tiers.answer import Answer
    from escalade.tiers.errors import EscaladeError
    from escalade.tiers.link_state import LinkFacts

SECONDS = (50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SCORES = tuple(tenth / 10 for tenth in range(1, 11))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

OUTCOMES = (
    "answered",
    "degraded",
    "invalid",
    "not_found",
    "forbidden",
    "too_large",
    "expired",
    "overloaded",
    "draining",
    "cancelled",
    "failed",
)
SHED_CAUSES = ("queue", "deadline", "rate", "displaced")
"""Why a request was refused for overload: no room, no time, its device's rate, or left for a more urgent one."""


class Histogram:
    """Counts of values up to each bound; `observe` costs a bisection and three additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus' cumulative buckets."""
        running, buckets = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets


class TierMetrics(Collector):
    """Everything a tier counts.

    Written by the event loop alone; a scrape reads it from another thread and may see a request half
    counted, never a wrong total.
    """

    def __init__(self, tier: str, model: str) -> None:
        self.labels = {"tier": tier, "model": model}
        self.requests = dict.fromkeys(OUTCOMES, 0)
        self.actions = {"accept": 0, "escalate": 0, "defer": 0, "abstain": 0}
        self.degraded: dict[str, int] = {}
        self.shed = {(priority, cause): 0 for priority in PRIORITIES for cause in SHED_CAUSES}
        self.policy_errors = 0
        self.upstream_calls: dict[str, int] = {"ok": 0}
        self.upstream_sent_bytes = 0
        self.upstream_received_bytes = 0
        self.score = Histogram(SCORES)
        self.local_s = Histogram(SECONDS)
        self.upstream_s = Histogram(SECONDS)
        self.total_s = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.queue_depth: Callable[[], int] = lambda: 0
        self.links: Callable[[], list[LinkFacts]] = list
        self.load: Callable[[], float] = lambda: 0.0

    def refused(self, error: EscaladeError, priority: Priority) -> None:
        """Count a request that ended with an error; `priority` is its class."""
        self.requests[error.outcome] += 1
        if isinstance(error, OverloadedError):
            self.shed[priority, error.cause] += 1

    def degrade(self, answer: Answer, rows: NDArray[np.bool_], reason: str) -> None:
        """Mark rows of an answer as degraded, and count them."""
        answer.degraded[rows] = True
        answer.reason = reason
        self.degraded[reason] = self.degraded.get(reason, 0) + int(np.count_nonzero(rows))

    def accepted_row(self, elapsed_s: float, score: float) -> None:
        """Count a request of one row that this tier answered with confidence: the hot path."""
        self.requests["answered"] += 1
        self.actions["accept"] += 1
        bucket = bisect_left(SECONDS, elapsed_s)
        for histogram in (self.local_s, self.total_s):
            histogram.counts[bucket] += 1
            histogram.total += elapsed_s
        if score > -inf:
            self.score.observe(score)

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        names, values = list(self.labels), list(self.labels.values())

        def counter(name: str, text: str, counts: dict[str, int], label: str) -> Metric:
            family = CounterMetricFamily(name, text, labels=[*names, label])
            for key, count in counts.items():
                family.add_metric([*values, key], count)
            return family

        def plain(name: str, text: str, count: int) -> Metric:
            family = CounterMetricFamily(name, text, labels=names)
            family.add_metric(values, count)
            return family

        def histogram(name: str, text: str, *parts: tuple[list[str], Histogram], label: str = "") -> Metric:
            family = HistogramMetricFamily(name, text, labels=[*names, *([label] if label else [])])
            for extra, part in parts:
                family.add_metric([*values, *extra], part.buckets(), part.total)
            return family

        yield counter("escalade_requests", "Requests by how they ended.", self.requests, "outcome")
        yield counter("escalade_actions", "Rows by what the policy decided.", self.actions, "action")
        yield counter("escalade_degraded_rows", "Rows answered below the wanted tier.", self.degraded, "reason")
        shed = CounterMetricFamily(
            "escalade_shed", "Requests refused for overload.", labels=[*names, "priority", "cause"]
        )
        for (priority, cause), count in self.shed.items():
            shed.add_metric([*values, priority, cause], count)
        yield shed
        yield plain("escalade_policy_errors", "Decisions that the policy failed to make.", self.policy_errors)
        yield counter("escalade_upstream_calls", "Calls to the tier above.", self.upstream_calls, "outcome")
        yield plain("escalade_upstream_sent_bytes", "Message bytes sent upward.", self.upstream_sent_bytes)
        yield plain(
            "escalade_upstream_received_bytes", "Message bytes received from above.", self.upstream_received_bytes
        )
        yield histogram("escalade_score", "Confidence of this tier's own answers.", ([], self.score))
        yield histogram(
            "escalade_latency_seconds",
            "Time of a request's parts: this tier's own work, the tier above, in all.",
            (["local"], self.local_s),
            (["upstream"], self.upstream_s),
            (["total"], self.total_s),
            label="hop",
        )
        yield histogram("escalade_batch_rows", "Rows that shared one run of the model.", ([], self.batch_rows))
        yield from link_families(self.links(), self.labels)
        depth = GaugeMetricFamily("escalade_queue_depth", "Requests in the tier now.", labels=names)
        depth.add_metric(values, self.queue_depth())
        yield depth
        load = GaugeMetricFamily("escalade_load", "How full the tier is, as its answers say.", labels=names)
        load.add_metric(values, self.load())
        yield load
