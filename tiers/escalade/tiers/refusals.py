"""Calls that were refused for who asked: counted, and logged with the identity, never with what was sent."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

log = structlog.get_logger(__name__)

Cause = Literal["unknown", "revoked", "expired", "role", "device"]
"""Its certificate names nobody; is on the deny-list; has ended since its handshake; its role may not; it spoke for
another device."""

KEPT = 1024
"""So many (identity, call, cause) are told apart in the log."""
QUIET_S = 10.0
"""Between two lines in the log about the same."""


class _Said(NamedTuple):
    at: float
    since: int


class Refusals(Collector):
    """Counts and logs refusals of one tier; the log has at most one line in ten seconds about the same.

    Parameters
    ----------
    expires:
        Until when the tier's own certificate is valid, seconds since the epoch.
    labels:
        The tier's, for metrics.
    """

    def __init__(self, labels: Mapping[str, str], expires: Callable[[], float], clock: Callable[[], float]) -> None:
        self.counts: dict[tuple[str, str, Cause], int] = {}
        """By method, role (empty: unknown) and cause."""
        self._labels, self._expires, self._clock = labels, expires, clock
        self._said: OrderedDict[tuple[str, str, Cause], _Said] = OrderedDict()

    def refused(self, method: str, role: str, who: str, cause: Cause) -> None:
        """Count a refusal; `who` is the identity, or what the certificate calls itself."""
        key = (method, role, cause)
        self.counts[key] = self.counts.get(key, 0) + 1
        now, about = self._clock(), (method, who, cause)
        said = self._said.get(about, _Said(-inf, 0))
        if now < said.at + QUIET_S:
            self._said[about] = _Said(said.at, said.since + 1)
            return
        if len(self._said) >= KEPT:
            self._said.popitem(last=False)
        self._said[about] = _Said(now, 0)
        self._said.move_to_end(about)
        log.warning("call refused", method=method, who=who, cause=cause, before=said.since)

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one scrape."""
        names, values = list(self._labels), list(self._labels.values())
        calls = CounterMetricFamily(
            "escalade_refused_calls", "Calls refused for who asked.", labels=[*names, "method", "role", "cause"]
        )
        for key, count in self.counts.copy().items():
            calls.add_metric([*values, *key], count)
        yield calls
        expires = GaugeMetricFamily(
            "escalade_certificate_expires_seconds", "When the tier's own certificate ends, Unix time.", labels=names
        )
        expires.add_metric(values, self._expires())
        yield expires
