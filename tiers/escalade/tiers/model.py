"""An ONNX model that a tier runs: loaded from bytes, checked and timed before it serves."""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import structlog

from escalade.tiers.answer import FACTS
from escalade.tiers.at_rest import read_model
from escalade.tiers.config import DATATYPES, DTYPES, ModelConfig
from escalade.tiers.errors import ConfigError, ModelError
from escalade.tiers.model_trial import NO_FOLDER
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.preprocess import build_pipeline
from escalade.tiers.providers import Provider, split_available
from escalade.tiers.self_test import self_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.tiers.outbox.sealing import Seal

log = structlog.get_logger(__name__)

_ORT_TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor on the wire: its name, the protocol's type and one row's shape (-1: any size)."""

    name: str
    datatype: str
    row_shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type."""
        return DTYPES[self.datatype]


class OnnxModel:
    """A model behind one call: a batch of inputs as they arrive to the list of its outputs.

    Parameters
    ----------
    seal:
        Opens a file that is encrypted.

    Attributes
    ----------
    input:
        The tensor that callers send.
    output_names:
        The model's outputs; `outputs[main]` holds the classes of a classifier.
    outputs:
        What a raw model answers on the wire.
    run_us:
        Median time of one row at warm-up, preprocessing included; `inf` when it could not be measured
        because the input's size is open.
    providers:
        The execution providers in use, in order.
    sha256:
        Digest of the exact bytes that were loaded.
    """

    def __init__(self, config: ModelConfig, seal: Seal = UNSEALED) -> None:
        self.name, self.version = config.served_name, config.version
        self.output_kind = config.output_kind
        try:
            content = read_model(config.file, seal)
        except OSError as error:
            raise ConfigError(
                f"cannot read {str(config.file)!r}: {error.strerror}; give the path of an ONNX model", key="model.file"
            ) from error
        self.sha256 = hashlib.sha256(content).hexdigest()
        if config.sha256 not in (None, self.sha256):
            raise ConfigError(
                f"{str(config.file)!r} is another model: its sha256 is {self.sha256}; restore the file, or write that "
                "if it is the one you want",
                key="model.sha256",
            )
        self_test(content, config)
        wanted = [provider.as_provider() for provider in config.providers]
        self._session = _open_session(content, config, wanted)
        self.providers: list[str] = self._session.get_providers()

        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(tensor.name for tensor in inputs)
            raise ConfigError(
                f"{config.file} has {len(inputs)} inputs ({names}); a tier feeds one. "
                "Fix the others in the graph, or concatenate them",
                key="model.file",
            )
        model_input = inputs[0]
        if not model_input.shape:
            raise ConfigError(f"{config.file}: input {model_input.name!r} has no batch dimension", key="model.file")
        batch = model_input.shape[0]
        if isinstance(batch, int) and batch > 1:
            raise ConfigError(
                f"{config.file}: the batch size is fixed to {batch}; export it with a dynamic first dimension (or 1)",
                key="model.file",
            )
        self.one_row_only = batch == 1
        model_datatype = _datatype(model_input.type, config, model_input.name)
        declared = config.input.shape
        row = declared if declared is not None else [n if isinstance(n, int) else -1 for n in model_input.shape[1:]]
        self.input = TensorSpec(
            config.input.name or model_input.name, config.input.datatype or model_datatype, tuple(row)
        )
        self._feed_name = model_input.name
        self._feed_dtype = DTYPES[model_datatype]
        self._prepare = build_pipeline(config.input.steps, self._feed_dtype)
        if self._prepare is None and self.input.dtype != self._feed_dtype:
            dtype = self._feed_dtype
            self._prepare = lambda x: x.astype(dtype)

        self.output_names = [tensor.name for tensor in self._session.get_outputs()]
        if config.output is not None and config.output not in self.output_names:
            raise ConfigError(
                f"{config.file} has no output {config.output!r}; it has {', '.join(self.output_names)}",
                key="model.output",
            )
        self.main = self.output_names.index(config.output) if config.output else 0
        self.classes = 0
        self.outputs: list[TensorSpec] = []
        self.run_us = self._warm_up(config)

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Return every output for a batch of inputs as they arrive, each with leading dimension `len(x)`.

        Raises
        ------
        ModelError
            When preprocessing or the model fails on this input.
        """
        try:
            if self._prepare is not None:
                x = self._prepare(x)
            if self.one_row_only and len(x) > 1:
                rows = [self._session.run(self.output_names, {self._feed_name: x[i : i + 1]}) for i in range(len(x))]
                return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
            outputs: list[NDArray[Any]] = self._session.run(self.output_names, {self._feed_name: x})
        except Exception as error:  # onnxruntime's errors and users' steps share no base class
            raise ModelError(f"model {self.name!r} failed: {_first_line(error)}") from error
        if len(x) > 1:
            for array in outputs:
                if np.ndim(array) == 0 or len(array) != len(x):
                    raise ModelError(f"model {self.name!r} answered {list(np.shape(array))} to {len(x)} rows")
        return outputs

    def only_main_output(self) -> None:
        """Compute nothing but the classes from here on: what a built-in score needs."""
        self.output_names = [self.output_names[self.main]]
        self.main = 0

    def _warm_up(self, config: ModelConfig) -> float:
        """Run zeros through the model: check the shapes, learn the outputs, return one row's median time in us."""
        open_size = -1 in self.input.row_shape
        try:
            x = np.zeros((1, *(1 if n == -1 else n for n in self.input.row_shape)), self.input.dtype)
        except (MemoryError, ValueError) as error:
            raise ConfigError(
                f"a row of {list(self.input.row_shape)} is too large: {error}", key="model.input.shape"
            ) from error
        try:
            outputs = self.run(x)
        except ModelError as error:
            if open_size:
                return float("inf")
            raise ConfigError(
                f"a row of {self.input.datatype} {list(self.input.row_shape)} does not run through {config.file}: "
                f"{error}; check shape, dtype and steps",
                key="model.input",
            ) from error
        self._check_outputs(outputs, config)
        if open_size:
            return float("inf")
        times: list[float] = []
        stop = time.perf_counter() + 0.2
        while len(times) < 50 and (len(times) < 3 or time.perf_counter() < stop):
            start = time.perf_counter()
            self.run(x)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    def _check_outputs(self, outputs: Sequence[NDArray[Any]], config: ModelConfig) -> None:
        if self.output_kind == "raw":
            if taken := [name for name in self.output_names if name in FACTS]:
                raise ConfigError(
                    f"output {taken[0]!r} has the name of a fact that every tier answers ({', '.join(FACTS)}); "
                    "rename it in the graph",
                    key="model.file",
                )
            self.outputs = [
                TensorSpec(name, DATATYPES.get(array.dtype, "BYTES"), (-1,) * (array.ndim - 1))
                for name, array in zip(self.output_names, outputs, strict=True)
            ]
            return
        main, name = np.asarray(outputs[self.main]), self.output_names[self.main]
        if main.ndim != 2 or main.shape[0] != 1 or not np.issubdtype(main.dtype, np.floating):
            raise ConfigError(
                f"output {name!r} is {main.dtype} of shape {list(main.shape)} for one row; a classifier's is float "
                f"[rows, classes]. Name another output of {', '.join(self.output_names)}, or set output_kind: raw",
                key="model.output",
            )
        if config.output_kind == "posterior" and not _is_posterior(main):
            raise ConfigError(
                f"output {name!r} is no posterior: it sums to {float(main.sum()):.4g}; set output_kind: logits",
                key="model.output_kind",
            )
        self.classes = main.shape[1]


def _is_posterior(rows: NDArray[Any]) -> bool:
    return bool((rows >= -1e-6).all() and np.allclose(rows.sum(axis=1, dtype=np.float64), 1, atol=1e-2))


def _datatype(ort_type: str, config: ModelConfig, name: str) -> str:
    """Return the protocol's type for onnxruntime's `tensor(float)`."""
    inner = ort_type.removeprefix("tensor(").removesuffix(")")
    if inner not in _ORT_TYPES:
        raise ConfigError(
            f"{config.file}: input {name!r} is {ort_type}; a tier feeds numbers and booleans", key="model.file"
        )
    return _ORT_TYPES[inner]


def _open_session(content: bytes, config: ModelConfig, wanted: list[Provider]) -> ort.InferenceSession:
    """Open a session on the first providers that work, in order of preference."""
    usable, missing = split_available(wanted)
    for name in missing:
        log.warning("provider not in this onnxruntime, passed over", provider=name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning threads of a half-loaded service burn several times the CPU of the model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    while True:
        try:
            session = ort.InferenceSession(
                content,
                sess_options=options,
                providers=[provider.name for provider in usable],
                provider_options=[provider.options for provider in usable],
            )
        except Exception as error:  # onnxruntime's errors share no base class
            if len(usable) == 1:
                raise ConfigError(
                    f"{config.file} is not an ONNX model that onnxruntime can load: {_first_line(error)}",
                    key="model.file",
                ) from error
            dropped = usable.pop(0)
            reason = _first_line(error)
        else:
            active = session.get_providers()
            lost = next((provider for provider in usable if provider.name not in active), None)
            if lost is None or not lost.required:
                return session
            dropped, reason = lost, f"onnxruntime fell back to {', '.join(active)}"
        if dropped.required:
            raise ConfigError(f"{dropped.name} is required, but did not start: {reason}", key="model.providers")
        log.warning("provider did not start, passed over", provider=dropped.name, reason=reason)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
