"""Requests and answers of one served model, from and to the protocol's bytes.

Handlers take and return bytes, so that a malformed message is this tier's INVALID_ARGUMENT and not
gRPC's UNKNOWN, and so that the time of parsing is inside the measured path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from escalade.protos.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataResponse
from escalade.tiers.errors import InputError, NotFoundError
from escalade.tiers.wire.tensors import array_from_tensor, raw_from_array, raw_from_strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer, Hop
    from escalade.tiers.model import OnnxModel

FACTS = ("score", "tier", "degraded")
"""Per-row outputs that every tier adds to its model's own."""


@dataclass(slots=True)
class InferRequest:
    """A request as the tier sees it: `x` is `[B, *row]`; `outputs` None means all."""

    x: NDArray[Any]
    id: str = ""
    outputs: list[str] | None = None
    deadline_ms: float | None = None


class Codec:
    """Speaks for one model under one name.

    Parameters
    ----------
    model:
        The model that is served.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.name, self.version, self._input = model.name, model.version, model.input
        self._raw_kind = model.output_kind == "raw"
        self._classes = model.classes
        self._model_outputs = [(spec.name, spec.datatype, spec.row_shape) for spec in model.outputs]
        names = [name for name, _, _ in self._model_outputs] if self._raw_kind else ["posterior", "label"]
        self.output_names = [*names, *FACTS]

    def check_model(self, name: str, version: str) -> None:
        """Raise NotFoundError unless this is the served model (an empty version means any)."""
        if name != self.name:
            raise NotFoundError(f"there is no model {name!r} here; this tier serves {self.name!r}")
        if version and version != self.version:
            raise NotFoundError(f"model {name!r} has no version {version!r}; this tier serves {self.version!r}")

    def decode(self, data: bytes) -> InferRequest:
        """Return the request that `data` holds.

        Raises
        ------
        InputError, NotFoundError
            With the expected and the received value.
        """
        try:
            return self.read(ModelInferRequest.FromString(data))
        except DecodeError as error:
            raise InputError("the message is not a ModelInferRequest") from error

    def read(self, message: ModelInferRequest) -> InferRequest:
        """Return the request that a parsed message holds; raises as `decode`."""
        if message.model_name != self.name or message.model_version:
            self.check_model(message.model_name, message.model_version)
        spec, inputs, raw = self._input, message.inputs, message.raw_input_contents
        if len(inputs) != 1 or inputs[0].name != spec.name:
            got = ", ".join(repr(tensor.name) for tensor in inputs) or "none"
            raise InputError(f"the one input is {spec.name!r}; got {got}")
        tensor = inputs[0]
        if raw and tensor.HasField("contents"):
            raise InputError(f"input {spec.name!r} has both raw and typed contents; send one")
        if raw and len(raw) != 1:
            raise InputError(f"1 input needs 1 entry of raw_input_contents; got {len(raw)}")
        if tensor.datatype != spec.datatype:
            raise InputError(f"input {spec.name!r} is {spec.datatype}; got {tensor.datatype}")
        x = array_from_tensor(tensor, raw[0] if raw else None)
        request = InferRequest(x, message.id)
        if message.outputs:
            request.outputs = [wanted.name for wanted in message.outputs]
            for name in request.outputs:
                if name not in self.output_names:
                    raise InputError(f"there is no output {name!r}; there are {', '.join(self.output_names)}")
        if "escalade.deadline_ms" in message.parameters:
            request.deadline_ms = float(message.parameters["escalade.deadline_ms"].int64_param)
        return request

    def encode(self, request: InferRequest, answer: Answer) -> bytes:
        """Return the ModelInferResponse to `request` as bytes."""
        return self.response(request, answer).SerializeToString()

    def response(self, request: InferRequest, answer: Answer) -> ModelInferResponse:
        """Return the ModelInferResponse to `request`."""
        response = ModelInferResponse(model_name=self.name, model_version=self.version, id=request.id)
        for name in request.outputs or self.output_names:
            tensor = response.outputs.add()
            tensor.name = name
            if name == "tier" and "tier" not in (answer.outputs or {}):
                tensor.datatype, raw = "BYTES", raw_from_strings(answer.tier)
                tensor.shape.append(len(answer))
            else:
                array = self._array(name, answer)
                tensor.datatype, raw = raw_from_array(array)
                tensor.shape.extend(array.shape)
            response.raw_output_contents.append(raw)
        facts = response.parameters
        highest = answer.tier[0] if len(answer) == 1 else _highest(answer)
        facts["escalade.tier"].string_param = highest
        facts["escalade.score"].string_param = f"{answer.score.min():.6g}"
        facts["escalade.degraded"].bool_param = bool(answer.reason)
        facts["escalade.path"].string_param = format_path(answer.path)
        if answer.reason:
            facts["escalade.reason"].string_param = answer.reason
        return response

    def metadata(self) -> ModelMetadataResponse:
        """Return what ModelMetadata says."""
        tensor = ModelMetadataResponse.TensorMetadata
        if self._raw_kind:
            own = [
                tensor(name=name, datatype=datatype, shape=[-1, *row]) for name, datatype, row in self._model_outputs
            ]
        else:
            own = [
                tensor(name="posterior", datatype="FP32", shape=[-1, self._classes]),
                tensor(name="label", datatype="INT64", shape=[-1]),
            ]
        facts = [("score", "FP32"), ("tier", "BYTES"), ("degraded", "BOOL")]
        return ModelMetadataResponse(
            name=self.name,
            versions=[self.version],
            platform="onnxruntime_onnx",
            inputs=[
                tensor(name=self._input.name, datatype=self._input.datatype, shape=[-1, *self._input.row_shape])
            ],
            outputs=[*own, *(tensor(name=name, datatype=datatype, shape=[-1]) for name, datatype in facts)],
        )

    @staticmethod
    def _array(name: str, answer: Answer) -> NDArray[Any]:
        if answer.outputs is not None and name in answer.outputs:
            return answer.outputs[name]
        array = getattr(answer, name)
        return np.asarray(array)


def format_path(path: Sequence[Hop]) -> str:
    """Return the hops as `endpoint=2.410,edge_node=1.702`: names and milliseconds."""
    return ",".join(f"{hop.tier}={hop.elapsed_ms:.3f}" for hop in path)


def _highest(answer: Answer) -> str:
    """Return the tier farthest up that answered a row."""
    order = {hop.tier: index for index, hop in enumerate(answer.path)}
    return max(answer.tier, key=lambda tier: order.get(tier, len(order)))
