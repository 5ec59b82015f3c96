from __future__ import annotations

from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from escalade.tiers.config import DeviceRateConfig
from escalade.tiers.rate_limit import DeviceRates, host_of

DEVICES = ("a", "b", "c")


class RateMachine(RuleBasedStateMachine):
    """Devices ask as they like; time passes, and sometimes runs back a little."""

    @initialize(per_s=st.sampled_from([0.5, 1.0, 10.0]), burst=st.integers(1, 8))
    def start(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst, self.now = per_s, burst, 1000.0
        self.rates = DeviceRates(DeviceRateConfig(per_s=per_s, burst=burst, max_devices=len(DEVICES)))
        self.alone = {one: DeviceRates(DeviceRateConfig(per_s=per_s, burst=burst)) for one in DEVICES}
        self.got: dict[str, list[tuple[float, int]]] = {one: [] for one in DEVICES}

    @rule(device=st.sampled_from(DEVICES), rows=st.integers(1, 10))
    def ask(self, device: str, rows: int) -> None:
        wait_s = self.rates.wait_s(device, rows, self.now)
        assert wait_s == self.alone[device].wait_s(device, rows, self.now)  # others cost it nothing
        assert wait_s >= 0.0
        if not wait_s:
            self.got[device].append((self.now, rows))
        if rows > self.burst:
            assert wait_s == inf

    @rule(device=st.sampled_from(DEVICES))
    def wait_as_told(self, device: str) -> None:
        if wait_s := self.rates.wait_s(device, 1, self.now):
            assert wait_s == self.alone[device].wait_s(device, 1, self.now)
            self.now += wait_s + 1e-6
            assert self.rates.wait_s(device, 1, self.now) == 0.0
        self.alone[device].wait_s(device, 1, self.now)
        self.got[device].append((self.now, 1))

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: hasattr(self, "rates"))
    @rule(device=st.sampled_from(DEVICES))
    def rest(self, device: str) -> None:
        """An idle device has its whole burst again."""
        self.now += self.burst / self.per_s + 1e-6
        assert self.rates.wait_s(device, self.burst, self.now) == 0.0
        self.alone[device].wait_s(device, self.burst, self.now)
        self.got[device].append((self.now, self.burst))

    @invariant()
    def no_window_holds_more_than_was_allowed(self) -> None:
        for got in getattr(self, "got", {}).values():
            for first in range(len(got)):
                total = 0
                for at, rows in got[first:]:
                    total += rows
                    assert total <= self.burst + self.per_s * (at - got[first][0]) + 1e-6


TestRates = RateMachine.TestCase


def test_only_so_many_devices_are_kept_and_the_one_longest_silent_is_forgotten() -> None:
    """Memory is bounded; a device that still asks is not the one that goes."""
    rates = DeviceRates(DeviceRateConfig(per_s=1, burst=1, max_devices=2))
    assert [rates.wait_s(device, 1, 0.0) for device in ("a", "b", "a", "c")] == [0.0, 0.0, 1.0, 0.0]
    assert len(rates) == 2
    assert [rates.wait_s(device, 1, 0.0) for device in ("a", "b")] == [1.0, 0.0]


def test_the_log_has_at_most_a_line_a_second_and_it_accounts_for_all() -> None:
    """A flood of refusals is no flood of lines."""
    rates = DeviceRates(DeviceRateConfig(per_s=1, burst=1))
    assert [rates.to_log(now) for now in (0.0, 0.1, 0.9, 1.0, 1.5, 3.0)] == [1, 0, 0, 3, 0, 2]


@pytest.mark.parametrize(
    ("peer", "host"),
    [("ipv4:10.0.0.7:51234", "10.0.0.7"), ("ipv6:[::1]:51234", "::1"), ("ipv6:%5B::1%5D:5", "::1"), ("unix:", "unix:")],
)
def test_a_device_that_does_not_say_its_name_is_known_by_its_address(peer: str, host: str) -> None:
    """Without the port, which changes with every connection."""
    assert host_of(peer) == host
