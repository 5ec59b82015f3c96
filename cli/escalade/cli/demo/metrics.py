"""Read a counter from running processes, as Prometheus would."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable

    from escalade.cli.demo.layout import Member

SENT_BYTES = "escalade_upstream_sent_bytes_total"


def read_counter(address: str, name: str, timeout_s: float = 5.0) -> float:
    """Scrape `http://address/metrics` and sum a counter over its labels; 0 when it is absent."""
    with urlopen(f"http://{address}/metrics", timeout=timeout_s) as response:
        text = response.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def sent_bytes(members: Iterable[Member]) -> dict[str, float]:
    """Return by process name how many bytes it has sent to the tier above it since its start."""
    return {member.name: read_counter(member.metrics_address, SENT_BYTES) for member in members}
