"""Small ONNX graphs as bytes: a multi-layer perceptron from given weights, a convolutional net from a seed.

Every graph takes ``input`` (float32, any number of rows) and gives ``logits`` (float32 ``[N, classes]``).
The ``onnx`` package is imported only when a graph is built; running one needs onnxruntime alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IR_VERSION = 9
"""The oldest file format that opset 17 allows; onnxruntime 1.20 and later read it."""

OPSET = 17


def mlp(weights: Sequence[NDArray[Any]], biases: Sequence[NDArray[Any]]) -> bytes:
    """Build a perceptron: ``MatMul, Add`` for each layer, ``Relu`` between layers, none after the last.

    One layer is a linear (logistic) model.

    Parameters
    ----------
    weights
        Each layer's matrix, ``[inputs, outputs]``, as scikit-learn's ``coefs_`` has it.
    biases
        Each layer's vector, ``[outputs]``.

    Returns
    -------
    bytes
        The serialised model: ``input`` float32 ``[N, D]`` to ``logits`` float32 ``[N, classes]``.

    Raises
    ------
    ValueError
        The layers do not fit each other.
    ImportError
        The ``onnx`` package is not installed.
    """
    from onnx import helper, numpy_helper

    _check_layers(weights, biases)
    nodes, constants, value = [], [], "input"
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        last = layer == len(weights) - 1
        constants += [
            numpy_helper.from_array(np.ascontiguousarray(weight, dtype=np.float32), f"weight_{layer}"),
            numpy_helper.from_array(np.ascontiguousarray(bias, dtype=np.float32), f"bias_{layer}"),
        ]
        nodes.append(helper.make_node("MatMul", [value, f"weight_{layer}"], [f"product_{layer}"]))
        value = "logits" if last else f"sum_{layer}"
        nodes.append(helper.make_node("Add", [f"product_{layer}", f"bias_{layer}"], [value]))
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"hidden_{layer}"]))
            value = f"hidden_{layer}"
    return _serialise("mlp", nodes, constants, [len(weights[0])], len(biases[-1]))


def cnn(channels: int, size: int, classes: int, seed: int = 0) -> bytes:
    """Build a convolutional net with random weights, for tests and benchmarks: it answers, it knows nothing.

    Two 3x3 convolutions of stride 2 (``channels``, then twice as many), each with ``Relu``, then a global
    mean and a linear layer.

    Parameters
    ----------
    channels
        Output channels of the first convolution. The run time grows with the square of it.
    size
        Height and width of the input, pixels.
    classes
        Number of logits.
    seed
        Seed of the weights: the same seed gives the same bytes.

    Returns
    -------
    bytes
        The serialised model: ``input`` float32 ``[N, 1, size, size]`` to ``logits`` float32 ``[N, classes]``.
    """
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(seed)

    def constant(name: str, *shape: int) -> Any:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
        return numpy_helper.from_array(values.astype(np.float32), name)

    constants = [
        constant("kernel_0", channels, 1, 3, 3),
        constant("kernel_1", 2 * channels, channels, 3, 3),
        constant("weight", 2 * channels, classes),
        constant("bias", classes),
    ]
    nodes, value = [], "input"
    for layer in (0, 1):
        convolved, hidden = f"convolved_{layer}", f"hidden_{layer}"
        nodes += [
            helper.make_node("Conv", [value, f"kernel_{layer}"], [convolved], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [convolved], [hidden]),
        ]
        value = hidden
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    return _serialise("cnn", nodes, constants, [1, size, size], classes)


def _serialise(name: str, nodes: list[Any], constants: list[Any], row: list[int], classes: int) -> bytes:
    import onnx
    from onnx import helper

    graph = helper.make_graph(
        nodes,
        name,
        inputs=[helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", *row])],
        outputs=[helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", classes])],
        initializer=constants,
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="escalade"
    )
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def _check_layers(weights: Sequence[NDArray[Any]], biases: Sequence[NDArray[Any]]) -> None:
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"need as many bias vectors as weight matrices, at least one; got {len(weights)}, {len(biases)}"
        )
    width = weights[0].shape[0]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2 or bias.shape != weight.shape[1:] or weight.shape[0] != width:
            raise ValueError(
                f"layer {layer} takes {width} values: expected a matrix ({width}, n) and a vector (n,), "
                f"got {weight.shape} and {bias.shape}"
            )
        width = weight.shape[1]


def scaled_identity(classes: int, scale: float = 1.0) -> bytes:
    """Build a model whose logits are its inputs times `scale`: a test says what the model shall believe.

    Returns
    -------
    bytes
        The serialised model: ``input`` float32 ``[N, classes]`` to ``logits`` float32 ``[N, classes]``.
    """
    return mlp([np.eye(classes) * scale], [np.zeros(classes)])
