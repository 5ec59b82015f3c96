from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from escalade.tiers.preprocess import StepSpec, build_pipeline, import_callable

FLOAT = np.dtype(np.float32)
STEPS: TypeAdapter[list[Any]] = TypeAdapter(list[StepSpec])
PIXELS = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)


def prepare(x: NDArray[Any], *steps: dict[str, Any], dtype: np.dtype[Any] = FLOAT) -> NDArray[Any]:
    """Run the steps as a tier's YAML would name them."""
    pipeline = build_pipeline(STEPS.validate_python(list(steps)), dtype)
    assert pipeline is not None
    return pipeline(x)


def test_no_steps_cost_nothing() -> None:
    """There is no function to call at all."""
    assert build_pipeline([], FLOAT) is None


def test_scale_multiplies() -> None:
    """Bytes become floats first: nothing wraps around."""
    np.testing.assert_array_equal(prepare(PIXELS, {"scale": 2}), PIXELS.astype(np.float32) * 2)


def test_normalize_takes_one_number_or_one_for_each_channel() -> None:
    """Channels are the row's first axis."""
    mean, std = [1.0, 2.0, 3.0], [2.0, 4.0, 8.0]
    channels = (PIXELS - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(prepare(PIXELS, {"normalize": {"mean": mean, "std": std}}), channels, rtol=1e-6)
    np.testing.assert_allclose(prepare(PIXELS, {"normalize": {"mean": 5, "std": 2}}), (PIXELS - 5.0) / 2, rtol=1e-6)


def test_mean_pool_averages_squares() -> None:
    """Over the last two axes, whatever stands before them."""
    pooled = prepare(PIXELS, {"mean_pool": 2})
    assert pooled.shape == (2, 3, 2, 2)
    assert pooled[1, 2, 1, 0] == PIXELS[1, 2, 2:4, 0:2].mean()
    assert prepare(PIXELS[:, 0], {"mean_pool": 4}).ravel().tolist() == PIXELS[:, 0].mean(axis=(1, 2)).tolist()


@pytest.mark.parametrize("x", [PIXELS[:, :, :3], PIXELS.reshape(2, -1)[:, :5], PIXELS.reshape(2, -1)])
def test_mean_pool_refuses_what_does_not_divide(x: NDArray[Any]) -> None:
    """The message has the size; a flat row has no squares."""
    with pytest.raises(ValueError, match=r"mean_pool 3 needs rows.*divide by 3, got \("):
        prepare(x, {"mean_pool": 3})


def test_shapes_change_row_by_row() -> None:
    """Reshape, flatten and transpose leave the batch axis alone."""
    assert prepare(PIXELS, {"reshape": [48]}).shape == (2, 48)
    assert prepare(PIXELS, {"reshape": [6, -1]}).shape == (2, 6, 8)
    assert prepare(PIXELS, {"flatten": True}).tolist() == PIXELS.reshape(2, -1).tolist()
    assert prepare(PIXELS[:, 0, 0, 0], {"flatten": True}).shape == (2, 1)
    turned = prepare(PIXELS, {"transpose": [1, 2, 0]})
    assert turned.tolist() == PIXELS.transpose(0, 2, 3, 1).tolist()


def test_steps_run_in_their_order() -> None:
    """Pool, then scale, then flatten."""
    done = prepare(PIXELS, {"mean_pool": 4}, {"scale": 0.5}, {"flatten": True})
    assert done.tolist() == (PIXELS.mean(axis=(2, 3)) / 2).tolist()


@given(
    st.lists(
        st.sampled_from(
            [
                {"scale": 0.5},
                {"normalize": {"mean": 1, "std": 2}},
                {"mean_pool": 1},
                {"transpose": [1, 0, 2]},
                {"transpose": [0, 1, 2]},
                {"reshape": [3, 4, 4]},
                {"reshape": [4, 3, 4]},
            ]
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([np.float32, np.float16, np.float64, np.int64]),
    st.integers(1, 3),
)
def test_whatever_the_steps_the_model_gets_its_type_and_the_caller_keeps_its_array(
    steps: list[dict[str, Any]], dtype: type[np.generic], rows: int
) -> None:
    """Contiguous, of the model's dtype, the same rows; the input is never changed, and each row alone is the same."""
    x = np.tile(PIXELS, (2, 1, 1, 1))[:rows]
    before = x.copy()
    x.flags.writeable = False
    done = prepare(x, *steps, dtype=np.dtype(dtype))
    assert done.dtype == dtype
    assert done.flags.c_contiguous
    assert len(done) == rows
    np.testing.assert_array_equal(x, before)
    for row in range(rows):
        np.testing.assert_array_equal(done[row], prepare(x[row : row + 1], *steps, dtype=np.dtype(dtype))[0])


def test_a_step_of_the_users_own_is_called_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """`custom: my_module:crop`; what it returns goes on."""
    module = types.ModuleType("my_steps")
    module.crop = lambda x: x[:, :, 1:3, 1:3]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_steps", module)
    done = prepare(PIXELS, {"custom": "my_steps:crop"}, {"scale": 1})
    assert done.tolist() == PIXELS[:, :, 1:3, 1:3].tolist()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"blur": 2}, "exactly one key of: scale, normalize"),
        ({"scale": 1, "flatten": True}, "exactly one key"),
        ({}, "exactly one key"),
        ("flatten", "exactly one key"),
        ({"scale": "much"}, "valid number"),
        ({"mean_pool": 0}, "greater than or equal to 1"),
        ({"normalize": {"mean": 0, "std": 0}}, "greater than 0"),
        ({"normalize": {"mean": 0}}, "required"),
        ({"flatten": False}, "True"),
        ({"transpose": [-1, 0]}, "greater than or equal to 0"),
        ({"custom": "crop"}, "not of the form"),
        ({"custom": "nowhere:crop"}, "cannot import 'nowhere'"),
        ({"custom": "math:nothing"}, "no 'nothing' for 'math:nothing'"),
        ({"custom": "math:pi"}, "not callable"),
    ],
)
def test_a_step_that_cannot_be_is_refused_before_anything_runs(step: Any, says: str) -> None:
    """An unknown one, two in one, a wrong value, a function that is not there."""
    with pytest.raises(ValidationError, match=says):
        STEPS.validate_python([step])


def test_a_module_that_breaks_on_import_is_a_value_error(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: the operator reads one line, not a traceback of it."""
    (tmp_path / "broken_steps.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'broken_steps' fails when it is imported: ZeroDivisionError"):
        import_callable("broken_steps:crop")
