from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from escalade.tiers.config import ModelConfig
from escalade.tiers.errors import ConfigError, ModelError
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing.onnx_models import scaled_identity


def write(path: Path, inputs: list[Any], outputs: list[Any], nodes: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def tensor(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.onnx"
    path.write_bytes(scaled_identity(4))
    return path


def load(file: Path, **settings: Any) -> OnnxModel:
    return OnnxModel(ModelConfig.model_validate({"file": file, **settings}))


def test_a_model_knows_its_input_its_classes_and_its_time(identity: Path) -> None:
    """Loading reads the shapes, hashes the bytes and measures a run."""
    model = load(identity)
    assert model.input.name == "input"
    assert (model.input.datatype, model.input.row_shape) == ("FP32", (4,))
    assert model.classes == 4
    assert 0 < model.run_us < 1e5
    assert len(model.sha256) == 64
    assert model.providers == ["CPUExecutionProvider"]


def test_preprocessing_stands_between_the_wire_and_the_model(identity: Path) -> None:
    """Bytes of 4x4 pixels, pooled and scaled, become the four floats that the model takes."""
    steps = [{"mean_pool": 2}, {"scale": 0.5}, {"flatten": True}]
    model = load(identity, input={"shape": [4, 4], "dtype": "UINT8", "steps": steps})
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    (logits,) = model.run(pixels)
    pooled = pixels.reshape(2, 2, 2, 2).mean(axis=(1, 3)).reshape(1, 4)
    np.testing.assert_allclose(logits, pooled / 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a model", "not an ONNX model"), (b"", "not an ONNX model"), (None, "No such file")],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    """Garbage, an empty file and a missing one: one line that names the file."""
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.key == "model.file"


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"output": "nothing"}, "model.output", "it has logits"),
        ({"output_kind": "posterior"}, "model.output_kind", "sums to 0.*set output_kind: logits"),
        ({"input": {"shape": [5]}}, "model.input", r"FP32 \[5\] does not run"),
        ({"input": {"shape": [3, 3], "steps": [{"mean_pool": 2}]}}, "model.input", "divide by 2"),
    ],
)
def test_a_config_that_does_not_fit_the_model_is_refused_before_serving(
    identity: Path, settings: dict[str, Any], key: str, says: str
) -> None:
    """An output that is not there, logits called a posterior, rows that do not run through."""
    with pytest.raises(ConfigError, match=says) as caught:
        load(identity, **settings)
    assert caught.value.key == key


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    """A tier feeds one tensor; the message names what the model wants."""
    path = write(
        tmp_path / "two.onnx",
        [tensor("a", "N", 2), tensor("b", "N", 2)],
        [tensor("y", "N", 2)],
        [helper.make_node("Add", ["a", "b"], ["y"])],
    )
    with pytest.raises(ConfigError, match=r"2 inputs \(a, b\)"):
        load(path)


def test_a_fixed_batch_size_is_refused(tmp_path: Path) -> None:
    """The message says how to export it."""
    path = write(
        tmp_path / "fixed.onnx", [tensor("x", 8, 2)], [tensor("y", 8, 2)], [helper.make_node("Relu", ["x"], ["y"])]
    )
    with pytest.raises(ConfigError, match="fixed to 8; export it with a dynamic first dimension"):
        load(path)


def test_a_model_of_one_row_takes_many(tmp_path: Path) -> None:
    """A batch size fixed to one is run row by row."""
    path = write(
        tmp_path / "one.onnx", [tensor("x", 1, 2)], [tensor("y", 1, 2)], [helper.make_node("Relu", ["x"], ["y"])]
    )
    x = np.array([[1, -1], [-2, 3], [4, 5]], np.float32)
    (y,) = load(path).run(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_an_output_that_is_no_classifiers_is_refused_unless_raw(tmp_path: Path) -> None:
    """Boxes are answered as they are with output_kind raw, and only then."""
    relu = helper.make_node("Relu", ["x"], ["y"])
    path = write(tmp_path / "boxes.onnx", [tensor("x", "N", 3, 4)], [tensor("y", "N", 3, 4)], [relu])
    with pytest.raises(ConfigError, match="output_kind: raw"):
        load(path)
    model = load(path, output_kind="raw")
    assert [(spec.name, spec.datatype, spec.row_shape) for spec in model.outputs] == [("y", "FP32", (-1, -1))]


def test_a_raw_output_with_the_name_of_a_fact_is_refused(tmp_path: Path) -> None:
    """`score`, `tier` and `degraded` are what a tier adds itself."""
    relu = helper.make_node("Relu", ["x"], ["score"])
    path = write(tmp_path / "score.onnx", [tensor("x", "N", 3)], [tensor("score", "N", 3)], [relu])
    with pytest.raises(ConfigError, match="'score' has the name of a fact"):
        load(path, output_kind="raw")


def test_a_provider_that_this_build_lacks_is_logged_and_passed_over(identity: Path) -> None:
    """The next in order of preference is taken."""
    lacking = next(name for name in ort.get_all_providers() if name not in ort.get_available_providers())
    with capture_logs() as logs:
        model = load(identity, providers=[lacking, "cpu"])
    assert model.providers == ["CPUExecutionProvider"]
    assert any(entry.get("provider") == lacking for entry in logs)


def test_a_required_provider_that_this_build_lacks_is_an_error(identity: Path) -> None:
    """The message names what there is."""
    lacking = next(name for name in ort.get_all_providers() if name not in ort.get_available_providers())
    with pytest.raises(ConfigError, match=r"required.*CPUExecutionProvider"):
        load(identity, providers=[{"name": lacking, "required": True}])


def test_an_unknown_provider_is_refused_with_the_nearest_name() -> None:
    """A misspelling is not a missing provider."""
    with pytest.raises(ValueError, match="unknown execution provider 'cudda'; did you mean cuda"):
        ModelConfig.model_validate({"file": "x", "providers": ["cudda"]})


def test_an_input_that_breaks_the_model_is_a_model_error(tmp_path: Path) -> None:
    """onnxruntime's complaint, in one line, without a traceback's noise."""
    path = write(
        tmp_path / "reshape.onnx",
        [tensor("x", "N", "K")],
        [tensor("y", "N", "M")],
        [
            helper.make_node("Constant", [], ["s"], value=helper.make_tensor("s", TensorProto.INT64, [2], [-1, 4])),
            helper.make_node("Reshape", ["x", "s"], ["y"]),
        ],
    )
    model = load(path, output_kind="raw")
    assert model.run_us == float("inf")
    with pytest.raises(ModelError, match="failed"):
        model.run(np.zeros((1, 3), np.float32))


def test_only_the_model_that_was_named_is_loaded(identity: Path) -> None:
    """The digest is that of the very bytes that run; another one's is told."""
    sha256 = load(identity).sha256
    assert load(identity, sha256=sha256).sha256 == sha256
    with pytest.raises(ConfigError, match=rf"model\.sha256: .* is another model: its sha256 is {sha256}"):
        load(identity, sha256="0" * 64)
