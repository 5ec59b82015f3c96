"""What an outbox and an inbox tell of themselves, as Prometheus families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from escalade.tiers.forwarding import Forwarding
    from escalade.tiers.outbox import InboxStats

Labels = dict[str, str]


class ForwardingMetrics(Collector):
    """The outbox's counters and gauges; `labels` are the tier's."""

    def __init__(self, forwarding: Forwarding, labels: Labels) -> None:
        self._forwarding, self._labels = forwarding, labels

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        stats, labels = self._forwarding.outbox.stats(), self._labels
        depth = {(priority,): count for priority, count in stats.depth.items()}
        yield _family(GaugeMetricFamily, "escalade_outbox_items", "Items kept.", labels, depth, "priority")
        yield _one(GaugeMetricFamily, "escalade_outbox_bytes", "Bytes kept.", labels, stats.bytes)
        yield _one(
            GaugeMetricFamily, "escalade_outbox_oldest_seconds", "Age of the oldest item.", labels, stats.oldest_age_s
        )
        yield _family(
            CounterMetricFamily,
            "escalade_outbox_evictions",
            "Items kept and then given up.",
            labels,
            stats.evictions,
            "reason",
            "priority",
        )
        for name, text, value in (
            ("kept_rows", "Rows that were promised a correction.", self._forwarding.keeper.rows),
            ("refused", "Items for which there was no room.", stats.refused),
            ("write_errors", "Times that the disk refused items.", stats.write_errors),
            ("quarantined", "Items found damaged.", stats.quarantined),
            ("corrupt_files", "Times that the file was moved aside.", stats.corrupt_files),
            ("corrections", "Corrections recorded.", stats.last_correction),
            ("corrections_dropped", "Corrections dropped, too old or too many.", stats.corrections_dropped),
        ):
            yield _one(CounterMetricFamily, f"escalade_outbox_{name}", text, labels, value)
        trouble = int(bool(stats.trouble))
        yield _one(GaugeMetricFamily, "escalade_outbox_trouble", "1 when nothing can be kept.", labels, trouble)


class InboxMetrics(Collector):
    """The inbox's."""

    def __init__(self, stats: Callable[[], InboxStats], repeats: Callable[[], int], labels: Labels) -> None:
        self._stats, self._repeats, self._labels = stats, repeats, labels

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        stats, labels = self._stats(), self._labels
        items = {(kind,): count for kind, count in stats.items.items()}
        yield _family(GaugeMetricFamily, "escalade_inbox_items", "Deliveries remembered.", labels, items, "kind")
        yield _one(GaugeMetricFamily, "escalade_inbox_bytes", "Bytes kept.", labels, stats.bytes)
        yield _one(
            CounterMetricFamily, "escalade_inbox_repeats", "Deliveries that came again.", labels, self._repeats()
        )
        yield _family(
            CounterMetricFamily,
            "escalade_inbox_dropped",
            "Deliveries forgotten.",
            labels,
            stats.dropped,
            "reason",
            "kind",
        )
        trouble = int(bool(stats.trouble))
        yield _one(GaugeMetricFamily, "escalade_inbox_trouble", "1 when nothing can be kept.", labels, trouble)


def _one(
    family: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, labels: Labels, value: float
) -> Metric:
    return _family(family, name, text, labels, {(): value})


def _family(
    family: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    labels: Labels,
    values: Mapping[Any, float],
    *more: str,
) -> Metric:
    made = family(name, text, labels=[*labels, *more])
    for extra, value in values.items():
        made.add_metric([*labels.values(), *extra], value)
    return made
