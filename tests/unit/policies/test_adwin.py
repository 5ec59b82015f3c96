"""Noticing that a mean has changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies.adwin import Adwin


def alarms(adwin: Adwin, values: np.ndarray) -> list[int]:
    return [number for number, value in enumerate(values.tolist()) if adwin.add(value)]


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_without_change_is_left_alone(seed: int) -> None:
    """Ten thousand values of one kind give no alarm."""
    assert not alarms(Adwin(), np.random.default_rng(seed).beta(4, 1, 10_000))


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_a_shift_is_noticed_soon_and_the_old_values_go(shift: float) -> None:
    """A shift of a standard deviation is seen within 100 values; soon the window has the new mean."""
    rng, adwin = np.random.default_rng(0), Adwin()
    assert not alarms(adwin, rng.normal(0.5, 0.2, 3000))
    assert alarms(adwin, rng.normal(0.5 + shift, 0.2, 1000))[0] < 100
    assert adwin.size < 1500
    assert adwin.mean == pytest.approx(0.5 + shift, abs=0.05)


@given(st.lists(st.floats(-1, 1), max_size=300))
def test_the_window_holds_the_latest_values(values: list[float]) -> None:
    """Its size and mean are those of as many of the latest values, whatever was cut."""
    adwin = Adwin(delta=0.3, every=1)
    for value in values:
        adwin.add(value)
    assert adwin.size <= len(values)
    if adwin.size:
        assert adwin.mean == pytest.approx(np.mean(values[-adwin.size :]), abs=1e-9)


def test_memory_grows_with_the_logarithm_of_the_window() -> None:
    """A window of 5,000 values is kept in less than 70 sums."""
    adwin = Adwin()
    alarms(adwin, np.random.default_rng(0).random(5000))
    assert adwin.size == 5000
    assert len(adwin.state()) < 70


@pytest.mark.parametrize("values", [0, 1, 7, 1000])
def test_a_copy_from_the_state_goes_on_exactly_alike(values: int) -> None:
    """It raises the same alarms at the same values, and ends in the same state, bit for bit."""
    rng, one, other = np.random.default_rng(0), Adwin(), Adwin()
    alarms(one, rng.random(values))
    other.load(one.state())
    assert other.state().tobytes() == one.state().tobytes()
    more = rng.normal(0.8, 0.1, 500)
    assert alarms(one, more) == alarms(other, more)
    assert other.state().tobytes() == one.state().tobytes()


@pytest.mark.parametrize(
    "state",
    [
        np.zeros(3),
        np.zeros((1, 3)),
        np.array([[1.0, 0, 0], [0.0, 0, 0], [-1.0, 0, 0]]),
        np.array([[0.0, 0, 0]] * 6 + [[-1.0, 0, 0]]),
        np.array([[0.5, 0, 0], [-1.0, 0, 0]]),
        np.array([[0.0, np.nan, 0], [-1.0, 0, 0]]),
    ],
)
def test_a_state_that_cannot_be_is_refused(state: np.ndarray) -> None:
    """Wrong shapes, orders and values are not taken over."""
    with pytest.raises(ValueError, match="Adwin"):
        Adwin().load(state)


@pytest.mark.parametrize("parameters", [{"delta": 0.0}, {"delta": 1.0}, {"every": 0}])
def test_parameters_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Adwin(**parameters)  # type: ignore[arg-type]
