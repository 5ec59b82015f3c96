"""What a device is made of: `HardwareProfile`, and the profiles that ship.

A measured board is a file that `escalade profile` writes; a scenario names it in place of a built-in.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from escalade.simulations.fleet.distribution import Distribution, Lognormal, NonNegative, Positive, Share
from escalade.tiers.config import Section


class Battery(Section):
    """A store of energy that is not charged again; the device is dead from the very moment it is empty."""

    capacity_mwh: Positive
    """Milliwatt hours: 3.7 V times mAh."""
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Devices start between (1 - spread) and 1 times the capacity, evenly: assumed, 0 for new ones."""


class Thermal(Section):
    """Throttling by what was computed lately.

    At every control interval a device's heat becomes ``keep * heat + busy share of the interval``. At `hot` it
    throttles, its inferences take `slowdown` times as long, until the heat is at `cool`.
    """

    keep: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Assumed: time constant of ten control intervals."""
    hot: Positive = 8.0
    """Heat at which throttling starts; a device always busy settles at 1 / (1 - keep)."""
    cool: NonNegative = 6.0
    slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Assumed. A Raspberry Pi 4 goes from 1500 to 750 MHz or lower above 80 C (Raspberry Pi documentation)."""


class Trigger(Section):
    """A cheap sensor that wakes the device: it sleeps in between and computes only what passed."""

    pass_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the arrivals that the trigger lets through; the others cost nothing but its power."""
    wake_ms: NonNegative = 0.0
    """From the trigger until the device computes; not when it is still awake."""
    awake_ms: NonNegative = 0.0
    """So long it stays awake after an inference."""
    power_mw: NonNegative = 0.0
    """Of the sensor, always on."""


class HardwareProfile(Section):
    """One kind of board."""

    service: Distribution
    """Time of one inference of the tier's model, alone on the board."""
    each_more: Share | None = None
    """What each further input of a batch takes, as a share of one alone; used where the scenario's `batching` has
    none. Measured by `escalade profile`."""
    memory_mb: Positive | None = None
    """The board's. Nothing is computed from it."""
    rss_mb: Positive | None = None
    """What a tier with its model takes of it, measured by `escalade profile`. Nothing is computed from it."""
    idle_mw: NonNegative = 0.0
    """While awake or asleep and not computing."""
    active_mw: NonNegative = 0.0
    """While computing."""
    radio_nj_per_byte: NonNegative = 0.0
    """Of sending one byte."""
    radio_uj_per_message: NonNegative = 0.0
    """Of sending one message, whatever its size: waking the radio."""
    battery: Battery | None = None
    thermal: Thermal | None = None
    trigger: Trigger | None = None


PROFILES: dict[str, HardwareProfile] = {
    # Keyword spotting on STM32 L4R5ZI takes 182 ms in MLPerf Tiny v0.5's reference results (Banbury et al. 2021);
    # powers and Bluetooth LE energy (about 0.15 uJ a bit with headers) are assumed orders of magnitude.
    "mcu": HardwareProfile(
        service=Lognormal(kind="lognormal", p50_ms=182.0, p99_ms=190.0),
        memory_mb=0.64,
        idle_mw=0.05,
        active_mw=60.0,
        radio_nj_per_byte=1200.0,
        radio_uj_per_message=50.0,
    ),
    # 2.7 W idle, 6.4 W with all cores busy: Raspberry Pi documentation, "Typical power requirements", model 4B.
    # Service: assumed, a MobileNet-like CNN at 96 px. Wi-Fi: 100 nJ a byte assumed.
    "raspberry_pi_4": HardwareProfile(
        service=Lognormal(kind="lognormal", p50_ms=9.0, p99_ms=16.0),
        memory_mb=4096,
        idle_mw=2700.0,
        active_mw=6400.0,
        radio_nj_per_byte=100.0,
        thermal=Thermal(),
    ),
    # Power modes of 7 to 15 W: NVIDIA Jetson Orin Nano data sheet. Service: assumed.
    "jetson_orin_nano": HardwareProfile(
        service=Lognormal(kind="lognormal", p50_ms=4.0, p99_ms=7.0), memory_mb=8192, idle_mw=5000.0, active_mw=15000.0
    ),
    # All assumed: one accelerator of a small on-premise server.
    "server": HardwareProfile(
        service=Lognormal(kind="lognormal", p50_ms=6.0, p99_ms=12.0), memory_mb=65536, idle_mw=120e3, active_mw=350e3
    ),
}
"""By name; service times that are not measured are assumptions, to be replaced by `escalade profile`."""
