"""From the input as it arrives to the input that the model takes: a chain of array steps.

Every step takes a batch `[B, ...]` and returns a batch; none changes its input.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from escalade.policies import PolicyConfigError
from escalade.policies.importing import import_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Step = Callable[[Array], Array]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Spec):
    """Multiply by a constant: `scale: 0.00392156862745098`."""

    scale: float

    def build(self) -> Step:  # noqa: D102
        factor = np.float32(self.scale)
        return lambda x: np.multiply(x, factor, dtype=np.float32)


class Moments(_Spec):
    """Mean and standard deviation, one number or one a channel (the row's first axis)."""

    mean: float | list[float]
    std: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]]


class Normalize(_Spec):
    """Subtract a mean and divide by a standard deviation: `normalize: {mean: .286, std: .353}`."""

    normalize: Moments

    def build(self) -> Step:  # noqa: D102
        def column(value: float | list[float], x: Array) -> Array:
            array = np.asarray(value, np.float32)
            return array.reshape(-1, *[1] * (x.ndim - 2)) if array.ndim else array

        moments = self.normalize
        return lambda x: (x.astype(np.float32) - column(moments.mean, x)) / column(moments.std, x)


class MeanPool(_Spec):
    """Average squares of `k` by `k` over the last two axes: `mean_pool: 2`."""

    mean_pool: Annotated[int, Field(ge=1)]

    def build(self) -> Step:  # noqa: D102
        k = self.mean_pool

        def pool(x: Array) -> Array:
            *lead, height, width = x.shape
            if len(lead) < 1 or height % k or width % k:
                raise ValueError(f"mean_pool {k} needs rows whose last two sizes divide by {k}, got {x.shape[1:]}")
            squares = x.reshape(*lead, height // k, k, width // k, k)
            pooled: Array = squares.mean(axis=(-3, -1), dtype=np.float32)
            return pooled

        return pool


class Reshape(_Spec):
    """Give each row another shape: `reshape: [1, 28, 28]`."""

    reshape: list[int]

    def build(self) -> Step:  # noqa: D102
        shape = tuple(self.reshape)
        return lambda x: x.reshape(len(x), *shape)


class Flatten(_Spec):
    """Make each row one-dimensional: `flatten: true`."""

    flatten: Literal[True]

    def build(self) -> Step:  # noqa: D102
        return lambda x: x.reshape(len(x), -1 if x.size else int(np.prod(x.shape[1:])))


class Transpose(_Spec):
    """Reorder the row's axes, counted without the batch: `transpose: [2, 0, 1]` is HWC to CHW."""

    transpose: list[Annotated[int, Field(ge=0)]]

    def build(self) -> Step:  # noqa: D102
        axes = (0, *(axis + 1 for axis in self.transpose))
        return lambda x: np.ascontiguousarray(x.transpose(axes))


def _importable(target: str) -> str:
    import_callable(target)
    return target


class Custom(_Spec):
    """Call the user's own function on the batch: `custom: my_module:crop`."""

    custom: Annotated[str, AfterValidator(_importable)]

    def build(self) -> Step:  # noqa: D102
        return import_callable(self.custom)


_STEPS = ("scale", "normalize", "mean_pool", "reshape", "flatten", "transpose", "custom")


def _step_name(value: Any) -> str | None:
    keys = list(value) if isinstance(value, dict) else list(getattr(value, "model_fields_set", ()))
    return keys[0] if len(keys) == 1 and keys[0] in _STEPS else None


StepSpec = Annotated[
    Annotated[Scale, Tag("scale")]
    | Annotated[Normalize, Tag("normalize")]
    | Annotated[MeanPool, Tag("mean_pool")]
    | Annotated[Reshape, Tag("reshape")]
    | Annotated[Flatten, Tag("flatten")]
    | Annotated[Transpose, Tag("transpose")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(
        _step_name,
        custom_error_type="step",
        custom_error_message=f"a step is a mapping with exactly one key of: {', '.join(_STEPS)}",
    ),
]


def import_callable(target: str) -> Callable[..., Any]:
    """Return the function that `module:name` names.

    Raises
    ------
    ValueError
        When it cannot be imported or called; the message says why.
    """
    try:
        found = import_object(target, "")
    except PolicyConfigError as error:
        raise ValueError(error.message) from error
    if not callable(found):
        raise ValueError(f"{target} is not callable")
    return found


def build_pipeline(specs: Sequence[StepSpec], dtype: np.dtype[Any]) -> Step | None:
    """Return one function for the whole chain, ending in the model's `dtype`; None when there is nothing to do."""
    if not specs:
        return None
    steps = [spec.build() for spec in specs]

    def pipeline(x: Array) -> Array:
        return np.ascontiguousarray(reduce(lambda array, step: step(array), steps, x), dtype)

    return pipeline
