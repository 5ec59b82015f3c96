"""ONNX models that must not serve, as bytes, by what is wrong with them. Building one needs the `onnx` package."""

from __future__ import annotations

from typing import Any

import numpy as np

from escalade.tiers.testing.onnx_models import IR_VERSION, OPSET

ROW = 4


def endless_loop() -> bytes:
    """Build a `Loop` whose condition stays true."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Add", ["x", "one"], ["more"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("again", TensorProto.BOOL, []), value("more", TensorProto.FLOAT, None)],
        [_constant("one", np.float32(1))],
    )
    return _model([helper.make_node("Loop", ["", "true", "input"], ["logits"], body=body)], _constant("true", True))


def endless_for(total: float) -> bytes:
    """Build a `Loop` that ends at once unless the input adds up to `total`: no self-test finds that."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["x"], ["same"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("again", TensorProto.BOOL, []), value("same", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
        helper.make_node("Equal", ["sum", "total"], ["found"]),
        helper.make_node("Where", ["found", "many", "few"], ["times"]),
        helper.make_node("Loop", ["times", "true", "input"], ["logits"], body=body),
    ]
    numbers = {"total": np.float32(total), "many": np.int64(10**15), "few": np.int64(1), "true": True}
    return _model(nodes, *(_constant(name, number) for name, number in numbers.items()))


def bomb_when_loaded() -> bytes:
    """Build a constant of 16 GB, which onnxruntime computes before the first run."""
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"], value=one),
        helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
        helper.make_node("Add", ["input", "most"], ["logits"]),
    ]
    return _model(nodes, _constant("size", np.array([4_000_000_000])))


def bomb_when_run() -> bytes:
    """Build an `Expand` of the input to 16 GB."""
    from onnx import helper

    nodes = [
        helper.make_node("Expand", ["input", "size"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["most"], axes=[0], keepdims=0),
        helper.make_node("Add", ["input", "most"], ["logits"]),
    ]
    return _model(nodes, _constant("size", np.array([1_000_000, 1000, ROW])))


def nan_weights() -> bytes:
    """Build a model that adds NaN."""
    from onnx import helper

    nan = _constant("nan", np.full(ROW, np.nan, np.float32))
    return _model([helper.make_node("Add", ["input", "nan"], ["logits"])], nan)


def unknown_operator() -> bytes:
    """Build a model of a node that no onnxruntime has."""
    from onnx import helper

    return _model([helper.make_node("Frobnicate", ["input"], ["logits"])])


def external_weights(location: str) -> bytes:
    """Build an identity whose matrix is in a file beside it."""
    from onnx import TensorProto, helper

    matrix = _constant("matrix", np.eye(ROW, dtype=np.float32))
    matrix.ClearField("raw_data")
    matrix.data_location = TensorProto.EXTERNAL
    entry = matrix.external_data.add()
    entry.key, entry.value = "location", location
    return _model([helper.make_node("MatMul", ["input", "matrix"], ["logits"])], matrix)


def one_row_whatever() -> bytes:
    """Build a model that makes one row of however many."""
    from onnx import helper

    shape = _constant("shape", np.array([1, -1]))
    return _model([helper.make_node("Reshape", ["input", "shape"], ["logits"])], shape)


def fails_on_two() -> bytes:
    """Build a model with one row's shape written into it."""
    from onnx import helper

    shape = _constant("shape", np.array([1, ROW]))
    return _model([helper.make_node("Reshape", ["input", "shape"], ["logits"])], shape)


def _constant(name: str, value: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value), name)


def _model(nodes: list[Any], *constants: Any) -> bytes:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        "nasty",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", ROW])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "classes"])],
        constants,
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    serialised: bytes = model.SerializeToString()
    return serialised
