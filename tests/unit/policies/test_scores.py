"""Softmax and the scores: numerically safe, and the same for a row as for an array."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies.scores import (
    ENERGY,
    ENTROPY,
    MARGIN,
    MAX_PROB,
    CustomScore,
    Energy,
    Score,
    posterior_one,
    softmax,
)
from escalade.policies.scores.rounding import settle, to_float32

POSTERIOR_SCORES = [MAX_PROB, MARGIN, ENTROPY]
SCORES = [*POSTERIOR_SCORES, ENERGY, Energy(2.5)]
FUNCTIONS = {"softmax": softmax} | {score.name: score.batch for score in (*POSTERIOR_SCORES, ENERGY)}


def float32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def rows(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float32]]:
    """Arrays [B, C] of float32 with 1 to 12 classes."""
    return st.integers(1, 12).flatmap(
        lambda classes: st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=1, max_size=8).map(
            lambda lists: np.array(lists, np.float32)
        )
    )


any_logits = rows(st.one_of(st.floats(-30, 30, width=32), st.floats(width=32)))
any_posterior = rows(st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 0.5, nan, inf])))
temperatures = st.one_of(st.just(1.0), st.floats(0.05, 20.0))


def bits(values: Any) -> list[int]:
    """float32 bit patterns, all nan as one."""
    array = np.atleast_1d(float32(values))
    return list(np.where(np.isnan(array), 0x7FC00000, array.view(np.int32)).tolist())


@given(logits=any_logits, temperature=temperatures)
@example(logits=float32([[inf, 0.0, inf], [-inf, -inf, -inf], [nan, inf, 0.0]]), temperature=1.0)
@example(logits=float32([[3e38, -3e38], [700.0, -700.0], [-800.0, -801.0]]), temperature=0.05)
def test_one_row_has_the_posterior_that_the_array_gives(logits: NDArray[np.float32], temperature: float) -> None:
    """The posterior of a single row of plain floats equals that of the array, bit for bit."""
    posterior = softmax(logits, temperature)
    for row, expected in zip(logits, posterior, strict=True):
        assert bits(posterior_one(row.tolist(), temperature)) == bits(expected)


@pytest.mark.parametrize("score", POSTERIOR_SCORES)
@given(posterior=any_posterior)
def test_one_row_of_a_posterior_scores_as_the_array_does(score: Score, posterior: NDArray[np.float32]) -> None:
    """The score of a single row equals that of the array, bit for bit, and is a float32 value."""
    for row, expected in zip(posterior, score.batch(posterior), strict=True):
        one = score.one(row.tolist())
        assert one == to_float32(one)
        assert bits(one) == bits(expected)


@pytest.mark.parametrize("score", [ENERGY, Energy(2.5)])
@given(logits=any_logits)
def test_one_row_of_logits_scores_as_the_array_does(score: Score, logits: NDArray[np.float32]) -> None:
    """The energy of a single row equals that of the array, bit for bit."""
    for row, expected in zip(logits, score.batch(logits), strict=True):
        assert bits(score.one(row.tolist())) == bits(expected)


@pytest.mark.parametrize(("count", "classes", "scale"), [(100_000, 10, 3.0), (500, 1000, 6.0)])
def test_many_rows_agree_to_the_last_bit(count: int, classes: int, scale: float) -> None:
    """Over a hundred thousand random rows the two forms never differ, not even in a last bit."""
    logits = np.random.default_rng(7).normal(scale=scale, size=(count, classes)).astype(np.float32)
    posterior = softmax(logits)
    ones = float32([posterior_one(row) for row in logits.tolist()])
    assert np.array_equal(ones.view(np.int32), posterior.view(np.int32))
    for score, values in ((ENTROPY, posterior), (MARGIN, posterior), (MAX_PROB, posterior), (ENERGY, logits)):
        one = np.array([score.one(row) for row in values.tolist()])
        assert np.array_equal(one, score.batch(values).astype(np.float64))


def test_a_value_too_close_to_call_is_computed_the_single_way() -> None:
    """Where the noise of the last bits could decide the rounding, the row is computed as a single one."""
    asked: list[int] = []

    def one(row: int) -> list[float]:
        asked.append(row)
        return [0.0, 9.0]

    low = np.array([[0.5, 0.25, nan], [1.0, 1.0, nan]], np.float32)
    high = np.nextafter(low, np.array([0.0, 1.0, 1.0], np.float32), where=[False, True, False], out=low.copy())
    assert bits(settle(low, high, one)) == bits([[0.5, 0.0, nan], [1.0, 9.0, nan]])
    assert asked == [1]


@given(logits=rows(st.floats(-80, 80, width=32)), temperature=temperatures)
def test_a_posterior_is_a_distribution(logits: NDArray[np.float32], temperature: float) -> None:
    """Finite logits give probabilities that sum to one and rank as the logits do."""
    posterior = softmax(logits, temperature)
    assert posterior.dtype == np.float32
    assert np.all((posterior >= 0) & (posterior <= 1))
    assert np.allclose(posterior.sum(axis=1), 1.0, atol=1e-5)
    best = logits.argmax(axis=1)
    assert np.array_equal(posterior[np.arange(len(best)), best], posterior.max(axis=1))


@given(logits=rows(st.floats(-30, 30, width=32)), nudge=st.floats(-1e-6, 1e-6))
def test_near_identical_rows_have_near_identical_scores(logits: NDArray[np.float32], nudge: float) -> None:
    """A nudge in the last digits of the logits moves no score by more than such a nudge."""
    nudged = (logits + np.float32(nudge)).astype(np.float32)
    for score in POSTERIOR_SCORES:
        assert np.allclose(score.batch(softmax(logits)), score.batch(softmax(nudged)), atol=1e-3)
    assert np.allclose(ENERGY.batch(logits), ENERGY.batch(nudged), atol=1e-4)


@given(logits=rows(st.floats(-60, 60, width=32)))
def test_softmax_is_that_of_the_textbook(logits: NDArray[np.float32]) -> None:
    """The posterior is exp(z) / sum(exp(z)) and the energy log(sum(exp(z)))."""
    weight = np.exp(logits.astype(np.longdouble))
    total = weight.sum(axis=1, keepdims=True)
    assert np.allclose(softmax(logits), weight / total, rtol=1e-6, atol=1e-38)
    assert np.allclose(ENERGY.batch(logits), np.log(total[:, 0]), rtol=1e-6, atol=1e-6)


@given(posterior=rows(st.floats(0, 1, width=32)))
def test_entropy_and_margin_are_those_of_the_textbook(posterior: NDArray[np.float32]) -> None:
    """Entropy is 1 - H / log C, margin the best less the second best."""
    assume(posterior.shape[1] > 1)
    total = posterior.astype(np.float64).sum(axis=1, keepdims=True)
    assume(bool((total > 1e-3).all()))
    p = posterior / total
    h = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)
    expected = 1 - h / np.log(p.shape[1])
    assert np.allclose(ENTROPY.batch(p.astype(np.float32)), expected, atol=1e-5)
    ordered = np.sort(p, axis=1)
    assert np.allclose(MARGIN.batch(p.astype(np.float32)), ordered[:, -1] - ordered[:, -2], atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_a_row_with_nan_is_never_sure(score: Score) -> None:
    """A row with nan anywhere in it has score -inf and leaves its neighbours alone."""
    row = [0.5, 0.25, 0.25]
    for place in range(3):
        broken = [nan if index == place else value for index, value in enumerate(row)]
        assert score.one(broken) == -inf
        assert score.batch(float32([broken, row, broken])).tolist() == [-inf, score.one(row), -inf]


@pytest.mark.parametrize(("score", "expected"), [(MAX_PROB, 1.0), (MARGIN, 1.0), (ENTROPY, 1.0)])
def test_a_one_hot_posterior_is_as_sure_as_can_be(score: Score, expected: float) -> None:
    """A one-hot posterior has the highest score there is."""
    assert score.batch(np.eye(4)).tolist() == [expected] * 4
    assert score.one([0.0, 0.0, 1.0]) == expected


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_a_uniform_posterior_is_as_unsure_as_can_be(classes: int) -> None:
    """A uniform posterior has the lowest score there is."""
    uniform = np.full((3, classes), 1 / classes, np.float32)
    assert MARGIN.batch(uniform).tolist() == [0.0] * 3
    assert np.allclose(ENTROPY.batch(uniform), 0.0, atol=1e-6)
    assert (ENTROPY.batch(uniform) >= 0.0).all()
    assert MAX_PROB.batch(uniform).tolist() == uniform[:, 0].tolist()


def test_with_one_class_there_is_nothing_to_confuse() -> None:
    """One class: its probability is max_prob and margin, and entropy is 1."""
    single = float32([[1.0], [0.25]])
    assert MAX_PROB.batch(single).tolist() == [1.0, 0.25]
    assert MARGIN.batch(single).tolist() == [1.0, 0.25]
    assert ENTROPY.batch(single).tolist() == [1.0, 1.0]
    assert softmax([[-3.0], [900.0]]).tolist() == [[1.0], [1.0]]
    assert posterior_one([-3.0]) == [1.0]


@pytest.mark.parametrize("score", SCORES)
def test_type_and_layout_of_the_input_do_not_matter(score: Score) -> None:
    """float16, float64, strided and column-major input score as the same values in float32 do."""
    logits = np.random.default_rng(3).normal(scale=3, size=(40, 6)).astype(np.float16)
    values = logits if score.needs == "logits" else softmax(logits).astype(np.float16)
    expected = score.batch(values.astype(np.float32)).tolist()
    wide = np.zeros((80, 12), np.float32)
    wide[::2, ::2] = values
    for same in (values, values.astype(np.float64), np.asfortranarray(values), wide[::2, ::2]):
        assert score.batch(same).tolist() == expected
    assert softmax(np.asfortranarray(logits)).tobytes() == softmax(logits.astype(np.float64)).tobytes()


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_input_is_left_alone(function: Any) -> None:
    """Nothing writes to the array it is given, and no rows give no scores."""
    values = np.full((3, 4), 0.25)
    values.flags.writeable = False
    function(values)
    assert len(function(np.empty((0, 4)))) == 0


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 2, 2)])
def test_a_wrong_shape_is_named(function: Any, shape: tuple[int, ...]) -> None:
    """What is not [B, C] is refused with the shape it has."""
    with pytest.raises(ValueError, match=r"shape \[B, C\] with at least one class, got \["):
        function(np.zeros(shape))


@pytest.mark.parametrize("temperature", [0.0, -1.0, nan, inf])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    """A temperature that is not positive and finite is refused."""
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        softmax([[1.0, 2.0]], temperature)
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        Energy(temperature)


def test_infinite_logits_share_the_probability() -> None:
    """Classes at +inf share the probability; -inf alone, or nan, says nothing."""
    posterior = softmax([[inf, 0.0, inf, -inf], [-inf, 2.0, -inf, -inf]])
    assert posterior.tolist() == [[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]
    assert np.isnan(softmax([[-inf, -inf], [nan, inf]])).all()
    assert all(map(isnan, posterior_one([0.0, nan])))
    assert ENERGY.batch([[inf, 0.0], [-inf, -inf], [inf, nan]]).tolist() == [inf, -inf, -inf]


def test_logits_beyond_the_range_of_exp_are_harmless() -> None:
    """Logits whose exponential overflows or vanishes give the right posterior."""
    assert softmax([[1e5, 1e5], [-1e5, -1e5], [1e300, -1e300]]).tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]
    assert posterior_one([-1e5, -1e5]) == [0.5, 0.5]
    assert ENERGY.one([-1e5, -1e5]) == to_float32(-1e5 + np.log(2))
    assert ENERGY.one([1e300, 0.0]) == inf


@settings(max_examples=30)
@given(logits=rows(st.floats(-30, 30, width=32)))
def test_a_colder_softmax_is_surer(logits: NDArray[np.float32]) -> None:
    """A temperature below 1 never lowers the highest probability, one above never raises it."""
    cold, warm, hot = (MAX_PROB.batch(softmax(logits, t)) for t in (0.5, 1.0, 2.0))
    assert (cold >= warm - 1e-6).all()
    assert (warm >= hot - 1e-6).all()


def test_a_users_function_scores_outputs_of_any_kind() -> None:
    """A user's function sees all outputs by name; nan in what it returns means not sure."""
    score = CustomScore("mine:boxes", lambda outputs: outputs["boxes"].max(axis=(1, 2)))
    boxes = np.array([[[0.1, 0.5]], [[nan, 0.5]]])
    assert score.batch({"boxes": boxes}).tolist() == [0.5, -inf]
    with pytest.raises(TypeError, match="mine:boxes needs the model's outputs by name"):
        score.one([0.5])


@pytest.mark.parametrize("result", [0.5, [[0.5]], ["sure"], None])
def test_a_users_function_must_give_a_number_a_row(result: Any) -> None:
    """A function that returns anything but one number a row is named, with what it returned."""
    with pytest.raises(ValueError, match=r"score mine:f must return one number a row, shape \[B\]; got"):
        CustomScore("mine:f", lambda outputs: result).batch({})
