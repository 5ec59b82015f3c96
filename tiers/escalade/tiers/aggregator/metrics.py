"""What the aggregator counts: plain numbers where it works, Prometheus families when scraped."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from escalade.tiers.aggregator.event import CAUSES
from escalade.tiers.metrics import SECONDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from escalade.tiers.aggregator.nodes import NodeStatus

STRANGER = ""
"""The `node` label of what nodes sent that are not expected: their names could be anything."""


class AggregatorMetrics(Collector):
    """Written by the event loop alone; a scrape reads it from another thread.

    Attributes
    ----------
    answers:
        By cause: `CAUSES`.
    degraded:
        Answers that are not what the policy asked for, by reason.
    wait_s:
        From an event's first observation to its answer.
    close_s:
        From the arrival of the last needed observation to its answer on disk.
    nodes, strangers, open_events, live_events, watchers, backlog:
        Asked at a scrape.
    """

    def __init__(self) -> None:
        self.answers = dict.fromkeys(CAUSES, 0)
        self.degraded: Counter[str] = Counter()
        self.escalated = self.policy_errors = self.rule_errors = self.store_errors = 0
        self.wait_s, self.close_s, self.commit_s = Histogram(SECONDS), Histogram(SECONDS), Histogram(SECONDS)
        self.nodes: Callable[[], list[NodeStatus]] = list
        self.strangers: Callable[[], Counter[str]] = Counter
        self.gauges: dict[str, Callable[[], int]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""

        def counter(name: str, text: str, counts: dict[str, int], label: str) -> Metric:
            family = CounterMetricFamily(f"escalade_aggregator_{name}", text, labels=[label])
            for key, count in dict(counts).items():
                family.add_metric([key], count)
            return family

        def histogram(name: str, text: str, values: Histogram) -> Metric:
            family = HistogramMetricFamily(f"escalade_aggregator_{name}_seconds", text, labels=[])
            family.add_metric([], values.buckets(), values.total)
            return family

        nodes = self.nodes()
        seen = CounterMetricFamily(
            "escalade_aggregator_observations",
            "Observations by node and what became of them; node is empty for nodes that are not expected.",
            labels=["node", "outcome"],
        )
        for node in nodes:
            for outcome, count in {"accepted": node.accepted, **node.refused}.items():
                seen.add_metric([node.name, outcome], count)
        for outcome, count in self.strangers().items():
            seen.add_metric([STRANGER, outcome], count)
        yield seen
        for name, text, values in (
            ("trusted", "1: the node is fused; 0: it is not.", [node.weight for node in nodes]),
            ("reliability", "Share of the node's answers that agree.", [node.reliability for node in nodes]),
            ("skew_seconds", "How far the node's clock is behind.", [node.skew_s for node in nodes]),
        ):
            gauge = GaugeMetricFamily(f"escalade_aggregator_node_{name}", text, labels=["node"])
            for node, value in zip(nodes, values, strict=True):
                gauge.add_metric([node.name], value)
            yield gauge
        yield counter("answers", "Answers and corrections by why they were given then.", self.answers, "cause")
        yield counter("degraded", "Answers that are not what the policy asked for.", self.degraded, "reason")
        plain = {
            "escalated": self.escalated,
            "policy_error": self.policy_errors,
            "rule_error": self.rule_errors,
            "store_error": self.store_errors,
        }
        yield counter("occurrences", "What else has happened.", plain, "what")
        for name, ask in self.gauges.items():
            yield GaugeMetricFamily(f"escalade_aggregator_{name}", name.replace("_", " ").capitalize() + ".", ask())
        yield histogram("wait", "From an event's first observation to its answer.", self.wait_s)
        yield histogram("close", "From the last needed observation to the answer on disk.", self.close_s)
        yield histogram("commit", "One transaction.", self.commit_s)
