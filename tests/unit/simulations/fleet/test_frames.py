"""A result as tables."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import polars
import pytest

from escalade.simulations.fleet import FleetResult, frames, parse_scenario, simulate
from escalade.tiers.errors import ConfigError

SCENARIO = {
    "duration_s": 4,
    "control": {"interval_s": 1},
    "endpoints": [
        {
            "name": "sensor",
            "count": 5,
            "profile": {"service": {"kind": "constant", "ms": 2}, "battery": {"capacity_mwh": 100}},
            "arrivals": {"kind": "poisson", "rate_hz": 20},
        }
    ],
}


@pytest.fixture(scope="module")
def result() -> FleetResult:
    return simulate(parse_scenario(SCENARIO), backend="serial", keep_requests=True)


def test_polars_makes_the_frames_where_it_is_installed(result: FleetResult) -> None:
    """Five tables; what they count is what the result counts."""
    found = frames(result)
    assert {type(one) for one in found.values()} == {polars.DataFrame}
    assert set(found) == {"tiers", "hops", "series", "requests", "devices"}
    assert found["tiers"]["answers"].sum() == result.answered
    assert dict(found["tiers"].select("tier", "share").iter_rows()) == result.share
    assert found["series"]["arrived"].sum() == result.requests
    assert found["requests"].height == result.requests
    assert found["devices"].height == 5


def test_the_accuracies_of_the_tiers_are_that_of_the_run(result: FleetResult) -> None:
    """Weighted by their answers; a tier that answered nothing has none."""
    tiers = frames(result, "arrays")["tiers"]
    some = tiers["answers"] > 0
    assert np.average(tiers["accuracy"][some], weights=tiers["answers"][some]) == pytest.approx(result.accuracy)
    silent = simulate(parse_scenario(SCENARIO | {"edge_nodes": {"policy": {"name": "AlwaysAccept"}}}))
    assert np.isnan(frames(silent, "arrays")["tiers"]["accuracy"][2])


def test_without_a_library_the_tables_are_arrays(result: FleetResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same columns, as NumPy arrays of one length a table."""
    real = frames(result)

    def missing(name: str) -> Any:
        return None

    monkeypatch.setattr(sys.modules["escalade.simulations.fleet.frames"], "find_spec", missing)
    plain = frames(result)
    for name, table in plain.items():
        assert list(table) == real[name].columns
        assert {len(column) for column in table.values()} == {real[name].height}
    with pytest.raises(ConfigError, match="polars is not installed: pip install polars, or take 'arrays'"):
        frames(result, "polars")


def test_an_unknown_library_is_refused(result: FleetResult) -> None:
    """With the names there are."""
    with pytest.raises(ConfigError, match="no library 'dask'; there are polars, pandas and arrays"):
        frames(result, "dask")  # type: ignore[arg-type]
