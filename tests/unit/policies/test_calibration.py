"""Temperature, calibration error and a threshold from labelled data."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies import (
    MAX_PROB,
    Batch,
    Threshold,
    cheapest_threshold,
    expected_calibration_error,
    fit_temperature,
    softmax,
)


def labelled(rows: int, classes: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits and labels drawn from their softmax: calibrated at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(rows, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def likelihood(logits: NDArray[Any], labels: NDArray[Any], temperature: float) -> float:
    """Mean log-likelihood of the labels."""
    z = logits / temperature
    return float((z[np.arange(len(z)), labels] - np.log(np.exp(z).sum(axis=1))).mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_the_temperature_of_the_data_is_recovered(temperature: float) -> None:
    """Logits that were multiplied by a known temperature have it taken out again."""
    logits, labels = labelled(20_000, 6, seed=1)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.2, 5.0))
def test_no_nearby_temperature_is_likelier(seed: int, scale: float) -> None:
    """The labels are at least as likely at the fitted temperature as just beside it."""
    logits, labels = labelled(60, 4, seed)
    fitted = fit_temperature(scale * logits, labels)
    best = likelihood(scale * logits, labels, fitted)
    for beside in (0.99 * fitted, 1.01 * fitted):
        assert likelihood(scale * logits, labels, beside) <= best + 1e-9


def test_scaling_repairs_the_calibration() -> None:
    """An overconfident model's calibration error falls to that of a calibrated one."""
    logits, labels = labelled(20_000, 6, seed=2)
    raw = expected_calibration_error(softmax(4 * logits), labels)
    scaled = expected_calibration_error(softmax(4 * logits, fit_temperature(4 * logits, labels)), labels)
    assert raw > 0.1
    assert scaled < 0.015


def test_temperatures_without_an_optimum_end_at_the_bounds() -> None:
    """A model that is always right gets the coldest temperature, one that tells nothing the hottest."""
    assert fit_temperature([[2.0, 0.0], [0.0, 1.0]], [0, 1]) == 0.01
    assert fit_temperature([[2.0, 0.0], [0.0, 1.0]], [1, 0]) == 100.0
    assert fit_temperature([[1.0], [3.0]], [0, 0]) == 0.01


def test_huge_logits_do_not_overflow() -> None:
    """Logits of a million are fitted as well as those of one."""
    logits, labels = labelled(5_000, 3, seed=4)
    assert fit_temperature(60.0 * logits + 1e6, labels) == pytest.approx(60.0, rel=0.1)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 2.0]], [0, 1], r"got shapes \[1, 2\] and \[2\]"),
        (np.empty((0, 3)), np.empty(0, int), r"N, C >= 1, got shapes \[0, 3\] and \[0\]"),
        ([[1.0, 2.0]], [2], "labels must be whole numbers from 0 to 1"),
        ([[1.0, 2.0]], [0.0], "labels must be whole numbers from 0 to 1"),
        ([[1.0, 2.0], [nan, 1.0]], [0, 1], "of row 1 are not all finite"),
    ],
)
def test_data_that_cannot_be_fitted_is_refused(logits: Any, labels: Any, message: str) -> None:
    """Rows, labels and values that do not fit are named."""
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(logits, labels)


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """Two bins with gaps of 0.1 and 0.3, a quarter and three quarters of the rows: 0.25."""
    posterior = [[0.6, 0.4]] * 2 + [[0.8, 0.2]] * 6
    labels = [0, 1, 0, 0, 0, 1, 1, 1]
    assert expected_calibration_error(posterior, labels) == pytest.approx(0.25)


def test_calibration_error_needs_a_bin() -> None:
    """No bins are refused."""
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        expected_calibration_error([[1.0]], [0], bins=0)


score_lists = st.lists(
    st.tuples(st.sampled_from([-inf, nan, 0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans(), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(data=score_lists, max_loss=st.sampled_from([0.0, 0.05, 0.2, 1.0]))
def test_the_cheapest_threshold_is_the_best_of_all(data: list[tuple[float, bool, bool]], max_loss: float) -> None:
    """It keeps the accuracy on the data, and every threshold that escalates less does not."""
    score, here, above = (np.array(column) for column in zip(*data, strict=True))

    def outcome(threshold: float) -> tuple[float, bool]:
        accepted = Threshold(threshold).decide(Batch.of(score)).action == 0
        accuracy = np.where(accepted, here, above).mean()
        return float((~accepted).mean()), bool(accuracy >= above.mean() - max_loss - 1e-9)

    share, kept = outcome(cheapest_threshold(score, here, above, max_loss))
    assert kept
    for other in (0.0, 0.25, 0.5, 0.75, 1.0, inf):
        other_share, other_kept = outcome(other)
        assert other_share >= share or not other_kept


def test_a_threshold_is_found_on_real_scores() -> None:
    """On a good cascade most rows are kept here and the accuracy stays within the budget."""
    logits, labels = labelled(4_000, 5, seed=5)
    posterior = softmax(logits)
    score, here = MAX_PROB.batch(posterior), posterior.argmax(axis=1) == labels
    above = np.random.default_rng(6).random(4_000) < 0.9
    threshold = cheapest_threshold(score, here, above, max_loss=0.02)
    accepted = score >= threshold
    assert 0.3 < accepted.mean() < 1.0
    assert np.where(accepted, here, above).mean() >= above.mean() - 0.02
    assert float(np.float32(threshold)) == threshold


@pytest.mark.parametrize(
    ("score", "here", "max_loss", "message"),
    [
        ([0.5], [True, False], 0.0, r"same length of at least 1, got shapes \[1\], \[2\], \[1\]"),
        ([], [], 0.0, "same length of at least 1"),
        ([0.5], [True], -0.1, "max_loss must be 0 or more, got -0.1"),
        ([0.5], [True], nan, "max_loss must be 0 or more, got nan"),
    ],
)
def test_a_threshold_needs_rows_and_a_budget(score: Any, here: Any, max_loss: float, message: str) -> None:
    """Columns of different length, no rows and a senseless budget are refused."""
    with pytest.raises(ValueError, match=message):
        cheapest_threshold(score, here, [True] * len(score), max_loss)
