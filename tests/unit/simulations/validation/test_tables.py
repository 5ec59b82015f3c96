"""What was measured with one input under way at a time predicts what many give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from escalade.simulations.validation.measured import Case, Measured, figures
from escalade.simulations.validation.tables import Tables, predict, scenario_of
from escalade.tiers.errors import SetupError

ENDPOINT_MS, NODE_MS, SERVER_MS = 3.0, 2.0, 4.0
UPLINK_KBIT_S = 800.0


def alone(n: int = 6000) -> Measured:
    """A run whose round trips stall now and then, by 10 and 60 ms, and whose endpoints take 3 ms and a bit."""
    rng = np.random.default_rng(0)
    tier = np.arange(n) % 3
    access = np.where(rng.random(n) < 0.05, 14.0, 4.0)
    uplink = np.where(rng.random(n) < 0.05, 80.0, 20.0)
    endpoint = ENDPOINT_MS + rng.exponential(0.5, n)
    server = np.where(tier == 2, SERVER_MS, np.nan)
    node = NODE_MS + np.where(tier == 2, uplink + server, 0.0)
    hop_ms = np.stack([endpoint + np.where(tier > 0, access + node, 0.0), node, server], axis=1)
    hop_ms[tier == 0, 1] = np.nan
    return Measured(tier, rng.random(n) < 0.9, np.zeros(n, bool), hop_ms, 250.0, {})


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What three models say of four inputs: the first two tiers are sure of half each."""
    sure, unsure = [9.0, 0.0], [0.1, 0.0]
    said = np.array([sure, sure, unsure, unsure], np.float32)
    above = np.array([sure, sure, sure, unsure], np.float32)
    top = np.array([sure] * 4, np.float32)
    np.savez(tmp_path / "trace.npz", y_test=np.zeros(4, np.int64), t1_test=said, t2_test=above, t3_test=top)
    return tmp_path


def predicted(folder: Path, rate_hz: float) -> dict[str, float]:
    threshold = {"name": "Threshold", "threshold": 0.9}
    scenario = scenario_of(
        Tables.of(alone(), (0.3, 0.3)),
        Case("one", "one", rate_hz, (threshold, threshold)),
        trace="trace.npz",
        folder=folder,
        temperature=[1.0, 1.0, 1.0],
        endpoints=2,
        uplink_kbit_s=UPLINK_KBIT_S,
        simulated=20_000,
    )
    return predict(scenario)


def test_without_load_the_prediction_is_the_measurement(trace: Path) -> None:
    """Medians and tails, of every tier: a stall of a round trip comes back as rarely and as long as it was."""
    found, measured = predicted(trace, 2.0), figures(alone())
    for name in ("endpoint", "edge_node", "edge_server"):
        for q in ("p50", "p99"):
            assert found[f"{q} ms {name}"] == pytest.approx(measured[f"{q} ms {name}"], rel=0.05), (q, name)
    assert found["share edge_node"] == pytest.approx(0.25, abs=0.01)


def test_with_load_inputs_wait(trace: Path) -> None:
    """At 150 a second the endpoints are busy 45 % of the time, which the run that was measured does not show."""
    quiet, busy = predicted(trace, 2.0), predicted(trace, 150.0)
    assert busy["p99 ms endpoint"] > 1.5 * quiet["p99 ms endpoint"]
    assert busy["mean ms"] > quiet["mean ms"] + 1.0


def test_a_run_that_is_too_short_makes_no_tables() -> None:
    """It says what to do."""
    with pytest.raises(SetupError, match="raise --seconds"):
        Tables.of(alone(30), (0.3, 0.3))


def test_quantiles_of_few_answers_are_not_compared() -> None:
    """p99 of 200 answers would be the second longest of them."""
    found = figures(alone(600))
    assert np.isnan(found["p99 ms endpoint"])
    assert np.isfinite(found["p50 ms endpoint"])
