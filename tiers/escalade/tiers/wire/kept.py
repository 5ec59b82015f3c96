"""Inputs and answers as an outbox keeps them: messages of the protocol, readable by any of its tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.protos.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from escalade.tiers.errors import InputError, UpstreamError
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.codec import Codec, InferRequest
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.model import OnnxModel

ROWS = "escalade.rows"
ROW_LIMIT = 2**31
"""What a correction's message has room for."""


class KeptAnswer(NamedTuple):
    """An answer as it was kept: to which request, and to which of its rows."""

    answer: Answer
    request_id: str
    rows: tuple[int, ...]


class KeptMessages:
    """A `keeper.KeptWire` for one model."""

    def __init__(self, model: OnnxModel) -> None:
        self._codec, self._model = Codec(model), model

    def request(self, x: NDArray[Any], request_id: str) -> bytes:
        """Return the ModelInferRequest for the rows."""
        return request_bytes(x, model=self._model.name, input_name=self._model.input.name, id=request_id)

    def answer(self, answer: Answer, request_id: str = "", rows: NDArray[Any] | None = None) -> bytes:
        """Return the ModelInferResponse, the rows' places in its request among the parameters."""
        data = self._codec.encode(InferRequest(answer.score, request_id), answer)
        if rows is None:
            return data
        more = ModelInferResponse()
        more.parameters[ROWS].string_param = ",".join(map(str, rows))
        return data + more.SerializeToString()

    def provisional(self, data: bytes, rows: int) -> Answer:
        """Return what was answered to so many rows; UpstreamError when it cannot be read."""
        answer = kept_answer(data, rows=rows, raw=self._model.output_kind == "raw").answer
        return answer.take(np.arange(rows))  # arrays of its own: a better answer is written over them

    def input(self, payload: bytes) -> NDArray[Any]:
        """Return the rows that were kept, whatever the model was called then.

        Raises
        ------
        InputError
            They were kept for a model with another input.
        """
        message = parsed(ModelInferRequest, payload)
        message.model_name = self._model.name
        x = self._codec.read(message).x
        row = self._model.input.row_shape
        if x.ndim != 1 + len(row) or any(want not in (-1, got) for want, got in zip(row, x.shape[1:], strict=True)):
            raise InputError(f"its rows are {list(x.shape[1:])}; the model takes {list(row)}")
        return x


def kept_answer(data: bytes, *, rows: int, raw: bool = False) -> KeptAnswer:
    """Return a kept answer to so many rows.

    Raises
    ------
    UpstreamError
        `bad_answer` when it cannot be read.
    """
    request_id, places = rows_of(data)
    return KeptAnswer(answer_from_bytes(data, rows=rows, raw=raw), request_id, places)


def rows_of(data: bytes) -> tuple[str, tuple[int, ...]]:
    """Return the request's id and the rows that a kept answer is about; raises as `kept_answer`."""
    try:
        message = parsed(ModelInferResponse, data)
        rows = tuple(int(row) for row in message.parameters[ROWS].string_param.split(",") if row)
    except (InputError, ValueError) as error:
        raise UpstreamError("bad_answer", f"a kept answer cannot be read: {error}") from error
    if not all(0 <= row < ROW_LIMIT for row in rows):
        raise UpstreamError("bad_answer", "a kept answer is about rows that cannot be")
    return message.id, rows
