"""How much each device may ask: a token bucket for each, of which only so many are kept."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import unquote

from escalade.policies.token_bucket import TokenBucket

if TYPE_CHECKING:
    from escalade.tiers.config import DeviceRateConfig


class DeviceRates:
    """Counts the rows of every device against a bucket of its own; no clock.

    In any window of `T` seconds a device gets at most ``burst + per_s * T`` rows, whatever others do. Requests
    of every priority count: the limit is there so that one device does not live at others' cost, and one that
    calls all it sends critical is exactly who would. When there are more than `max_devices`, the one that asked
    least recently is forgotten, and begins anew with a full burst.
    """

    def __init__(self, config: DeviceRateConfig) -> None:
        self._per_s, self._burst, self._max_devices = config.per_s, config.burst, config.max_devices
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._named, self._unnamed = -inf, 0

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, device: str, rows: int, now: float) -> float:
        """Take `rows` from a device's budget and return 0, or take nothing and return in how long it would do.

        ``inf``: never; the request has more rows than the burst.
        """
        bucket = self._buckets.get(device)
        if bucket is None:
            if len(self._buckets) >= self._max_devices:
                self._buckets.popitem(last=False)
            bucket = self._buckets[device] = TokenBucket(self._per_s, self._burst)
        else:
            self._buckets.move_to_end(device)
        if bucket.spend(now, rows):
            return 0.0
        return inf if rows > self._burst else (bucket.debt_at(now) + rows - self._burst) / self._per_s

    def to_log(self, now: float) -> int:
        """Return how many refusals a line in the log stands for, 0: no line; at most one line a second."""
        self._unnamed += 1
        if now < self._named + 1.0:
            return 0
        self._named, count, self._unnamed = now, self._unnamed, 0
        return count


def host_of(peer: str) -> str:
    """Return the address without the port of a peer as gRPC names it: `ipv4:10.0.0.7:51234`, `ipv6:[::1]:51234`."""
    kind, _, rest = unquote(peer).partition(":")  # gRPC writes brackets as %5B and %5D
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
