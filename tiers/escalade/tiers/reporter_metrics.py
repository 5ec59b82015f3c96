"""What a node's reporter counts, as Prometheus families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from escalade.tiers.reporter import Reporter


class ReporterMetrics(Collector):
    """Read from a reporter when scraped."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        family = CounterMetricFamily(
            "escalade_reports", "Observations by what became of them at the aggregator.", labels=["outcome"]
        )
        for outcome, count in dict(self._reporter.counts).items():
            family.add_metric([outcome], count)
        yield family
        kept = self._reporter.kept
        yield GaugeMetricFamily("escalade_reports_kept", "Observations that wait in the outbox now.", kept)
