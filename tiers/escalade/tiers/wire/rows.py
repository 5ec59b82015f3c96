"""The short way of a request of one row: known bytes in, packed bytes out, protobuf left out.

Parsing a request and building its answer with protobuf costs several times what the tier itself adds to
a small model. Requests of one client differ in their id and their numbers alone, answers of one tier in
their id, numbers and times; the rest is compared, or copied, as bytes. What is not exactly of the known
form goes the long way, through `Codec`; a test holds that both ways say the same.
"""

from __future__ import annotations

import math
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.protos.oip.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from escalade.tiers.wire.tensors import raw_from_strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.tiers.answer import Hop, Row
    from escalade.tiers.caller import Caller
    from escalade.tiers.model import TensorSpec

PREFIXES_KEPT, PREFIX_BYTES = 64, 1024
"""So many beginnings of requests are kept, each at most so long."""

_BYTES = 2  # protobuf's wire type of strings, bytes and messages
_ID_TAG = ModelInferRequest.ID_FIELD_NUMBER << 3 | _BYTES


class KnownRequests:
    """Recognises requests that begin as an accepted one did and end with one row of raw contents.

    Parameters
    ----------
    name:
        Of the served model.
    spec:
        Its input.
    """

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self._one_row, self._dtype = (1, *spec.row_shape), spec.dtype
        self._row_bytes = max(0, math.prod(self._one_row)) * spec.dtype.itemsize  # 0: nothing is learnt
        self._name = field(ModelInferRequest.MODEL_NAME_FIELD_NUMBER, name.encode())
        self._raw_start = _start(ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER, self._row_bytes)
        self._known: dict[bytes, tuple[list[str] | None, Caller]] = {}

    def read(self, data: bytes) -> tuple[NDArray[Any], str, list[str] | None, Caller] | None:
        """Return input, id, wanted outputs and caller of a request of known form; None for any other."""
        tail = len(data) - self._row_bytes
        if tail <= 0:
            return None
        prefix, request_id = data[:tail], ""
        if prefix not in self._known:
            start = len(self._name) + 2
            if tail < start or data[start - 2] != _ID_TAG or data[start - 1] > 127:
                return None
            end = start + data[start - 1]
            prefix = data[: len(self._name)] + data[end:tail]
            if prefix not in self._known:
                return None
            try:
                request_id = data[start:end].decode()
            except UnicodeDecodeError:
                return None
        # The slice is a copy, and so the array is aligned.
        return np.frombuffer(data[tail:], self._dtype).reshape(self._one_row), request_id, *self._known[prefix]

    def learn(self, message: ModelInferRequest, outputs: list[str] | None, caller: Caller) -> None:
        """Keep the form of an accepted request if others can be recognised by it.

        The prefix is a message of its own, less its id and its raw contents, that begins with the model's
        name. Fields put in behind the name and at the end mean the same as anywhere else, so that nothing
        need be known of how the sender wrote the rest.
        """
        if not self._row_bytes:
            return
        if [len(raw) for raw in message.raw_input_contents] != [self._row_bytes]:
            return
        if tuple(message.inputs[0].shape) != self._one_row:
            return
        message.ClearField("id")
        message.ClearField("raw_input_contents")
        prefix = message.SerializeToString() + self._raw_start
        if len(prefix) <= PREFIX_BYTES and prefix.startswith(self._name):
            if len(self._known) >= PREFIXES_KEPT:
                del self._known[next(iter(self._known))]  # the oldest: whoever still sends it teaches it again
            self._known[prefix] = (outputs, caller)


class RowWriter:
    """Writes the ModelInferResponse to a row that the tier accepted, with all its outputs.

    Parameters
    ----------
    tier:
        Its name.
    classes:
        How many probabilities a row has.
    head:
        The response's constant part, serialised; its outputs are posterior, label, score, tier, degraded.
    """

    def __init__(self, tier: str, classes: int, head: bytes) -> None:
        raw = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
        self._posterior = head + _start(raw, 4 * classes)
        self._label, self._score = _start(raw, 8), _start(raw, 4)
        self._rest = field(raw, raw_from_strings([tier])) + field(raw, b"\0")  # b"\0": not degraded
        before, label, score, rest = (len(part) for part in (self._posterior, self._label, self._score, self._rest))
        self._pack = Struct(f"<{before}s{classes}f{label}sq{score}sf{rest}s").pack

    def write(self, request_id: str, row: Row) -> bytes:
        """Return the response as bytes; `row` has as many probabilities as said."""
        return b"%b%b%b%b" % (
            self._pack(self._posterior, *row.posterior, self._label, row.label, self._score, row.score, self._rest),
            field(ModelInferResponse.ID_FIELD_NUMBER, request_id.encode()) if request_id else b"",
            _text_parameter(b"escalade.score", b"%.6g" % row.score),
            _text_parameter(b"escalade.path", format_path(row.path).encode()),
        )


def field(number: int, content: bytes) -> bytes:
    """Return a string, bytes or message field as protobuf writes it."""
    return _start(number, len(content)) + content


@lru_cache(maxsize=4096)
def _start(number: int, size: int) -> bytes:
    """Return what precedes the content of a field: its tag and the content's length."""
    encoded = bytearray((number << 3 | _BYTES,))
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def _text_parameter(key: bytes, text: bytes) -> bytes:
    """Return an entry of `parameters`."""
    value = field(InferParameter.STRING_PARAM_FIELD_NUMBER, text)
    # Of every map entry, field 1 is the key and field 2 the value.
    return field(ModelInferResponse.PARAMETERS_FIELD_NUMBER, field(1, key) + field(2, value))


def format_path(path: Sequence[Hop]) -> str:
    """Return the hops as `endpoint=2.410,edge_node=1.702`: names and milliseconds."""
    return ",".join(f"{hop.tier}={hop.elapsed_ms:.3f}" for hop in path)
