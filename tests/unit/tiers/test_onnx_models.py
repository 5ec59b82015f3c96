"""ONNX graphs made on the spot, for the demo, tests and benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from escalade.tiers.testing.onnx_models import cnn, mlp

if TYPE_CHECKING:
    from numpy.typing import NDArray


def run(model: bytes, x: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logits that onnxruntime computes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"input": x.astype(np.float32)})[0]
    return logits


def test_a_perceptron_computes_its_layers_with_relu_between_them() -> None:
    """The graph gives what numpy gives for the same weights, for any number of rows."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((6, 5), (5, 4), (4, 3))]
    biases = [rng.normal(size=size) for size in (5, 4, 3)]
    model = mlp(weights, biases)
    for rows in (1, 7):
        x = rng.normal(size=(rows, 6))
        hidden = np.maximum(np.maximum(x @ weights[0] + biases[0], 0) @ weights[1] + biases[1], 0)
        np.testing.assert_allclose(run(model, x), hidden @ weights[2] + biases[2], rtol=1e-4, atol=1e-5)


def test_one_layer_is_linear() -> None:
    """No ReLU follows the last layer: logits may be negative."""
    assert run(mlp([np.eye(2)], [np.zeros(2)]), np.array([[-3.0, 2.0]])).tolist() == [[-3.0, 2.0]]


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [([], []), ([(4, 3)], [3, 2]), ([(4, 3)], [2]), ([(4, 3), (4, 2)], [3, 2]), ([(4,)], [4])],
)
def test_layers_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]], sizes: list[int]) -> None:
    """The mistake is found when the graph is built, not when it runs."""
    with pytest.raises(ValueError, match=r"layer|as many bias vectors"):
        mlp([np.zeros(shape) for shape in shapes], [np.zeros(size) for size in sizes])


def test_the_convolutional_net_is_the_same_for_the_same_seed() -> None:
    """Same seed, same bytes; another seed, another model."""
    assert cnn(4, 16, 10, seed=1) == cnn(4, 16, 10, seed=1)
    assert cnn(4, 16, 10, seed=1) != cnn(4, 16, 10, seed=2)


def test_the_convolutional_net_takes_any_number_of_images() -> None:
    """Images in, one row of logits for each out, independent of its neighbours."""
    model = cnn(4, 16, 10)
    x = np.random.default_rng(0).random((3, 1, 16, 16))
    together = run(model, x)
    assert together.shape == (3, 10)
    np.testing.assert_allclose(run(model, x[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
