"""Meters that the kernel offers, on folders like those of `/sys`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from escalade.tiers.profiling.power import Meter, find_meter


def put(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def found(sys: Path) -> Meter:
    meter = find_meter(sys)
    assert meter is not None
    return meter


def test_a_board_without_meters_has_none(tmp_path: Path) -> None:
    """Nor one whose counters this user may not read, nor a sensor of something else."""
    assert find_meter(tmp_path) is None
    put(tmp_path / "class/powercap/intel-rapl:0", name="package-0")
    put(tmp_path / "class/hwmon/hwmon0", name="amdgpu", power1_input=5_000_000)
    assert find_meter(tmp_path) is None


def test_energy_counters_of_all_packages_are_added_over_a_wrap(tmp_path: Path) -> None:
    """Cores within a package are in its counter already."""
    whole = 1_000_000
    packages = [
        put(tmp_path / f"class/powercap/intel-rapl:{n}", energy_uj=whole - 100, max_energy_range_uj=whole)
        for n in range(2)
    ]
    put(tmp_path / "class/powercap/intel-rapl:0:0", energy_uj=0, max_energy_range_uj=whole)
    meter = found(tmp_path)
    begin = time.perf_counter()
    with meter.over() as draw:
        for one in packages:
            put(one, energy_uj=9899)  # 10,000 uJ on
    most_s = time.perf_counter() - begin
    assert draw.mw >= 20_000 / most_s / 1e3
    assert "RAPL (intel-rapl:0, intel-rapl:1)" in meter.source


@pytest.mark.parametrize(
    "files",
    [
        {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1400, "in2_label": "VDD_CPU", "in2_input": 1},
        {"in1_label": "VDD_CPU", "in1_input": 1, "curr1_input": 1, "in3_label": "VDD_IN", "in3_input": 5000}
        | {"curr3_input": 1400},
        {"power1_input": 7_000_000},
    ],
)
def test_a_rail_of_the_whole_board_tells_volts_times_amperes(tmp_path: Path, files: dict[str, object]) -> None:
    """By its name where there is one; and it comes before RAPL, which sees the processor alone."""
    put(tmp_path / "class/powercap/intel-rapl:0", energy_uj=5, max_energy_range_uj=10)
    put(tmp_path / "class/hwmon/hwmon3", name="ina3221", **files)
    meter = found(tmp_path)
    with meter.over() as draw:
        pass
    assert draw.mw == pytest.approx(7000)
    assert meter.source.startswith("INA3221")
