"""The links' facts as Prometheus families, one label `link` with the address."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from escalade.tiers.breaker import Circuit
from escalade.tiers.link_state import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from escalade.tiers.link_state import LinkFacts


def link_families(links: Sequence[LinkFacts], tier_labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield what is known of each link under the tier's own labels."""
    names, values = [*tier_labels, "link"], list(tier_labels.values())
    epoch_s = time.time() - time.monotonic()
    state = GaugeMetricFamily("escalade_link_state", "1 for the state that a link is in.", labels=[*names, "state"])
    since = GaugeMetricFamily(
        "escalade_link_state_since_timestamp_seconds", "When a link entered its state, Unix time.", labels=names
    )
    breaker = GaugeMetricFamily(
        "escalade_link_breaker", "1 for the state that a link's breaker is in.", labels=[*names, "state"]
    )
    calls = CounterMetricFamily("escalade_link_calls", "Calls over a link.", labels=[*names, "outcome"])
    retries = CounterMetricFamily("escalade_link_retries", "Second tries over a link.", labels=names)
    latency = GaugeMetricFamily(
        "escalade_link_latency_seconds", "Recent time of an answered call over a link.", labels=names
    )
    load = GaugeMetricFamily("escalade_link_load_ratio", "What a link's peer says of its load.", labels=names)
    for link in links:
        here = [*values, link.address]
        for one in STATES:
            state.add_metric([*here, one], float(link.state == one))
        for circuit in Circuit:
            breaker.add_metric([*here, circuit.value], float(link.breaker == circuit.value))
        for outcome, count in link.calls.items():
            calls.add_metric([*here, outcome], count)
        if link.since is not None:
            since.add_metric(here, epoch_s + link.since)
        if link.latency_ms == link.latency_ms:
            latency.add_metric(here, link.latency_ms / 1e3)
        retries.add_metric(here, link.retries)
        load.add_metric(here, link.load)
    yield from (state, since, breaker, calls, retries, latency, load)
