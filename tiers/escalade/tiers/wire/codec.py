"""Requests and answers of one served model, from and to the protocol's bytes.

Handlers take and return bytes, so that a malformed message is this tier's INVALID_ARGUMENT and not
gRPC's UNKNOWN, and so that the time of parsing is inside the measured path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from escalade.protos.oip.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)
from escalade.tiers.answer import FACTS, Row
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import InputError, NotFoundError
from escalade.tiers.wire.callers import read_caller
from escalade.tiers.wire.caps import EVENT_BYTES, ID_BYTES, PARAMETERS, parsed
from escalade.tiers.wire.rows import KnownRequests, RowWriter, field, format_path
from escalade.tiers.wire.tensors import array_from_tensor, raw_from_array, raw_from_strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.model import OnnxModel

HEADS_KEPT = 4096
"""So many serialised heads of responses are kept; their number is bounded by shapes, tiers and reasons."""
SHOWN = 8
"""Names of tensors in a message about them."""
WRITERS_KEPT = 16
"""One for each tier that answers; the tier above may call itself anything."""


@dataclass(slots=True)
class InferRequest:
    """A request as the tier sees it: `x` is `[B, *row]`; `outputs` None means all."""

    x: NDArray[Any]
    id: str = ""
    outputs: list[str] | None = None
    deadline_ms: float | None = None
    caller: Caller = PLAIN
    event: str = ""
    """The key of what `x` is an observation of."""


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
        self._heads: dict[tuple[Any, ...], bytes] = {}
        self._known = KnownRequests(model.name, model.input)
        self._writers: dict[tuple[str, int], RowWriter] = {}

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
        known = self._known.read(data)
        if known is not None:
            x, request_id, outputs, caller = known
            return InferRequest(x, request_id, outputs, None, caller)
        message = parsed(ModelInferRequest, data)
        request = self.read(message)
        if request.deadline_ms is None and not request.caller.delivery:
            self._known.learn(message, request.outputs, request.caller)
        return request

    def read(self, message: ModelInferRequest) -> InferRequest:
        """Return the request that a parsed message holds; raises as `decode`."""
        if message.model_name != self.name or message.model_version:
            self.check_model(message.model_name, message.model_version)
        spec, inputs, raw = self._input, message.inputs, message.raw_input_contents
        if len(inputs) != 1 or inputs[0].name != spec.name:
            got = ", ".join(repr(tensor.name) for tensor in inputs[:SHOWN]) or "none"
            got += f" and {len(inputs) - SHOWN} more" if len(inputs) > SHOWN else ""
            raise InputError(f"the one input is {spec.name!r}; got {got}")
        tensor = inputs[0]
        if raw and tensor.HasField("contents"):
            raise InputError(f"input {spec.name!r} has both raw and typed contents; send one")
        if raw and len(raw) != 1:
            raise InputError(f"1 input needs 1 entry of raw_input_contents; got {len(raw)}")
        if tensor.datatype != spec.datatype:
            raise InputError(f"input {spec.name!r} is {spec.datatype}; got {tensor.datatype}")
        if len(message.id) > ID_BYTES // 4 and len(message.id.encode()) > ID_BYTES:
            raise InputError(f"the request's id is longer than {ID_BYTES} bytes")
        if len(message.parameters) > PARAMETERS:
            raise InputError(f"the request has {len(message.parameters)} parameters; at most {PARAMETERS} are read")
        x = array_from_tensor(tensor, raw[0] if raw else None)
        request = InferRequest(x, message.id)
        if message.outputs:
            if len(message.outputs) > len(self.output_names):
                raise InputError(f"{len(message.outputs)} outputs are asked for; there are {len(self.output_names)}")
            request.outputs = [wanted.name for wanted in message.outputs]
            for name in request.outputs:
                if name not in self.output_names:
                    raise InputError(f"there is no output {name!r}; there are {', '.join(self.output_names)}")
            if len(set(request.outputs)) < len(request.outputs):
                raise InputError("an output is asked for twice; name each once")
        if "escalade.deadline_ms" in message.parameters:
            deadline = message.parameters["escalade.deadline_ms"]
            if deadline.WhichOneof("parameter_choice") != "int64_param":
                raise InputError("parameter 'escalade.deadline_ms' must be an int64_param: whole milliseconds")
            request.deadline_ms = float(deadline.int64_param)
        if message.parameters:
            request.caller = read_caller(message)
        if "escalade.event" in message.parameters:
            event = message.parameters["escalade.event"]
            if event.WhichOneof("parameter_choice") != "string_param":
                raise InputError("parameter 'escalade.event' must be a string_param: the event's key")
            if len(event.string_param.encode()) > EVENT_BYTES:
                raise InputError(f"parameter 'escalade.event' is longer than {EVENT_BYTES} bytes")
            request.event = event.string_param
        return request

    def encode(self, request: InferRequest, answer: Row | Answer) -> bytes:
        """Return the ModelInferResponse to `request` as bytes.

        Serialised parts of one message may be joined (protobuf's rule for concatenation), so what is the
        same for most answers is serialised once and kept.
        """
        if isinstance(answer, Row):
            writer = self._writers.get((answer.tier, len(answer.posterior)))
            if request.outputs is None and writer:
                return writer.write(request.id, answer)
            return self._encode_row(request, answer)
        rows = len(answer)
        highest = answer.tier[0] if rows == 1 else _highest(answer)
        names = request.outputs or self.output_names
        if answer.outputs is None:
            key = (rows, highest, answer.reason, *names)
            head = self._heads.get(key)
            if head is None:
                if len(self._heads) >= HEADS_KEPT:
                    self._heads.clear()
                head = self._heads[key] = self._head(highest, answer, names)
        else:
            head = self._head(highest, answer, names)
        rest = ModelInferResponse(id=request.id, raw_output_contents=[_raw(name, answer)[1] for name in names])
        facts = rest.parameters
        facts["escalade.score"].string_param = f"{answer.score[0] if rows == 1 else answer.score.min():.6g}"
        facts["escalade.path"].string_param = format_path(answer.path)
        if answer.kept:
            facts["escalade.kept"].string_param = answer.kept
        return head + rest.SerializeToString()

    def _encode_row(self, request: InferRequest, row: Row) -> bytes:
        """Write a row the long way, and keep a writer for the next."""
        answer = row.answer()
        if request.outputs is None and len(self._writers) < WRITERS_KEPT:
            head = self._head(row.tier, answer, self.output_names)
            self._writers[row.tier, len(row.posterior)] = RowWriter(row.tier, len(row.posterior), head)
        return self.encode(request, answer)

    def _head(self, tier: str, answer: Answer, names: Sequence[str]) -> bytes:
        """Return the part of a response that depends on its shape, not on its numbers."""
        head = ModelInferResponse(model_name=self.name, model_version=self.version)
        for name in names:
            datatype, _, shape = _raw(name, answer)
            head.outputs.add(name=name, datatype=datatype, shape=shape)
        head.parameters["escalade.tier"].string_param = tier
        head.parameters["escalade.degraded"].bool_param = bool(answer.reason)
        if answer.reason:
            head.parameters["escalade.reason"].string_param = answer.reason
        return head.SerializeToString()

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
            inputs=[tensor(name=self._input.name, datatype=self._input.datatype, shape=[-1, *self._input.row_shape])],
            outputs=[*own, *(tensor(name=name, datatype=datatype, shape=[-1]) for name, datatype in facts)],
        )


def request_id_of(data: bytes) -> str:
    """Return the id of a request that may be refused for something else; empty when it cannot be read."""
    try:
        request_id: str = parsed(ModelInferRequest, data).id
    except InputError:
        return ""
    return request_id if len(request_id.encode()) <= ID_BYTES else ""


def in_stream(response: bytes) -> bytes:
    """Return the ModelStreamInferResponse that holds a ModelInferResponse, both as bytes."""
    return field(ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, response)


_FACT_TYPES = {"posterior": "FP32", "label": "INT64", "score": "FP32", "degraded": "BOOL"}


def _raw(name: str, answer: Answer) -> tuple[str, bytes, Sequence[int]]:
    """Return datatype, raw contents and shape of one output."""
    if answer.outputs is not None and name in answer.outputs:
        array = answer.outputs[name]
        return *raw_from_array(array), array.shape
    if name == "tier":
        return "BYTES", _tier_bytes(tuple(answer.tier)), (len(answer),)
    array = getattr(answer, name)
    return _FACT_TYPES[name], array.tobytes(), array.shape


@lru_cache(maxsize=1024)
def _tier_bytes(names: tuple[str, ...]) -> bytes:
    return raw_from_strings(names)


def _highest(answer: Answer) -> str:
    """Return the tier farthest up that answered a row."""
    order = {hop.tier: index for index, hop in enumerate(answer.path)}
    return max(answer.tier, key=lambda tier: order.get(tier, len(order)))
