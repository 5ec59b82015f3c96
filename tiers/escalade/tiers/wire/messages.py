"""The messages a client of the protocol sends and gets: any server's answers, escalade's facts where it sends them."""

from __future__ import annotations

from math import isfinite
from struct import unpack
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from escalade.policies import MAX_PROB, softmax
from escalade.protos.oip.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ServerReadyResponse,
)
from escalade.tiers.answer import FACTS, NO_LABEL, Answer, Hop, Row
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import InputError, UpstreamError
from escalade.tiers.wire.callers import NAME_BYTES, write_caller
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.tensors import array_from_tensor, raw_from_array

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Score

SUM_TOLERANCE, LEAST = 1e-2, -1e-6
"""How far from 1 a posterior's sum may be, and its least value: another server's rounding."""
ROW_OUTPUTS = [("posterior", "FP32"), ("label", "INT64"), ("score", "FP32"), ("tier", "BYTES"), ("degraded", "BOOL")]
NAME_LIMIT = 64
HOPS_LIMIT = 16
"""What of a peer's words is believed: they are kept, counted and passed on."""


def request_bytes(
    x: NDArray[Any],
    *,
    model: str,
    version: str = "",
    input_name: str,
    id: str = "",  # noqa: A002  # the protocol's word
    outputs: Sequence[str] = (),
    deadline_ms: int | None = None,
    caller: Caller = PLAIN,
    event: str = "",
) -> bytes:
    """Return a ModelInferRequest for `x`, `[B, ...]`, as bytes."""
    message = ModelInferRequest(model_name=model, model_version=version, id=id)
    tensor = message.inputs.add()
    tensor.name = input_name
    tensor.datatype, raw = raw_from_array(x)
    tensor.shape.extend(x.shape)
    message.raw_input_contents.append(raw)
    for name in outputs:
        message.outputs.add().name = name
    if deadline_ms is not None:
        message.parameters["escalade.deadline_ms"].int64_param = deadline_ms
    write_caller(message, caller)
    if event:
        message.parameters["escalade.event"].string_param = event
    return message.SerializeToString()


def answer_from_bytes(
    data: bytes,
    *,
    rows: int,
    output: str = "posterior",
    output_kind: str = "posterior",
    tier: str = "upstream",
    score: Score = MAX_PROB,
    raw: bool = False,
) -> Answer:
    """Return the answer to `rows` rows that a ModelInferResponse holds.

    Parameters
    ----------
    output, output_kind:
        Which output holds the classes of a server that is not escalade, and as what.
    tier, score:
        Its name, and the score of its posterior, where it does not say them itself.
    raw:
        The model is no classifier: all its outputs are the answer.

    Raises
    ------
    UpstreamError
        `bad_answer` when the response cannot be read, lacks the output, has another number of rows, or
        holds numbers that are no posterior. A row with NaN is none of these: its label is -1.
    """
    try:
        response = parsed(ModelInferResponse, data)
        ours = "escalade.tier" in response.parameters
        # Another server's further outputs are its own affair: of any type, of any shape, called anything.
        arrays = output_arrays(response, None if raw else {output, *(("label", *FACTS) if ours else ())})
    except (InputError, UnicodeDecodeError) as error:
        raise UpstreamError("bad_answer", str(error)) from error
    wrong = next((name for name, array in arrays.items() if array.ndim == 0 or len(array) != rows), None)
    if wrong is not None:
        raise UpstreamError("bad_answer", f"output {wrong!r} is {list(arrays[wrong].shape)} for {rows} rows")
    if not raw and output not in arrays:
        names = ", ".join(repr(tensor.name) for tensor in response.outputs) or "none"
        raise UpstreamError("bad_answer", f"there is no output {output!r}; there are {names}")
    facts = response.parameters
    answer = Answer(
        score=np.full(rows, -np.inf, np.float32),
        tier=[tier] * rows,
        degraded=np.zeros(rows, np.bool_),
        path=parse_path(facts["escalade.path"].string_param) if "escalade.path" in facts else (),
    )
    if raw:
        answer.outputs = {name: array for name, array in arrays.items() if name not in FACTS}
    else:
        answer.posterior, answer.score = _posterior(arrays, output, output_kind, score)
        label = np.where(np.isnan(answer.posterior).any(axis=1), NO_LABEL, answer.posterior.argmax(axis=1))
        answer.label = arrays["label"] if _is(arrays, "label", np.int64) else label
    if ours:
        answer.score = arrays["score"] if _is(arrays, "score", np.float32) else answer.score
        answer.degraded = arrays["degraded"].copy() if _is(arrays, "degraded", np.bool_) else answer.degraded
        if _is(arrays, "tier", np.object_):
            answer.tier = [name[:NAME_LIMIT].decode(errors="replace") for name in arrays["tier"].tolist()]
        if answer.degraded.any() and "escalade.reason" in facts:
            answer.reason = facts["escalade.reason"].string_param[:NAME_LIMIT]
        if "escalade.kept" in facts:
            answer.kept = facts["escalade.kept"].string_param[:NAME_BYTES]
    return answer


def row_from_bytes(data: bytes) -> Row | None:
    """Return a tier's answer to one row, in full, not degraded and with a posterior that is one; else None.

    Several times faster than `answer_from_bytes`, which says what is wrong with any other response.
    """
    try:
        response = parsed(ModelInferResponse, data)
    except InputError:
        return None
    contents, facts = response.raw_output_contents, response.parameters
    if "escalade.tier" not in facts or len(contents) != len(ROW_OUTPUTS):
        return None
    if [(tensor.name, tensor.datatype) for tensor in response.outputs] != ROW_OUTPUTS:
        return None
    if any(list(tensor.shape) != [1] for tensor in response.outputs[1:]):
        return None
    posterior_raw, label, score, tier, degraded = contents
    classes = len(posterior_raw) // 4
    if list(response.outputs[0].shape) != [1, classes] or int.from_bytes(tier[:4], "little") != len(tier) - 4:
        return None
    if (len(posterior_raw), len(label), len(score), degraded) != (4 * classes, 8, 4, b"\0") or not classes:
        return None
    posterior = list(unpack(f"<{classes}f", posterior_raw))
    if not (abs(sum(posterior) - 1) < SUM_TOLERANCE and min(posterior) >= LEAST):  # a NaN fails the first comparison
        return None
    name = tier[4 : 4 + NAME_LIMIT].decode(errors="replace")
    path = parse_path(facts["escalade.path"].string_param) if "escalade.path" in facts else ()
    return Row(name, posterior, int.from_bytes(label, "little", signed=True), unpack("<f", score)[0], path)


def metadata_request_bytes(model: str) -> bytes:
    """Return a ModelMetadataRequest as bytes."""
    return ModelMetadataRequest(name=model).SerializeToString()


def input_name_from_bytes(data: bytes) -> str:
    """Return the name of the one input that a ModelMetadataResponse describes; UpstreamError when it does not."""
    try:
        inputs = ModelMetadataResponse.FromString(data).inputs
    except DecodeError as error:
        raise UpstreamError("bad_answer", str(error)) from error
    if len(inputs) != 1:
        raise UpstreamError("bad_answer", f"its metadata names {len(inputs)} inputs, not one")
    return inputs[0].name


def ready_from_bytes(data: bytes) -> bool:
    """Return what a ServerReadyResponse says; False when it cannot be read."""
    try:
        return ServerReadyResponse.FromString(data).ready
    except DecodeError:
        return False


def output_arrays(response: ModelInferResponse, only: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return a response's outputs by name, all of them or `only` some; InputError when they cannot be read."""
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise InputError(f"{len(response.outputs)} outputs came with {len(raw)} raw contents")
    return {
        tensor.name: array_from_tensor(tensor, raw[index] if raw else None)
        for index, tensor in enumerate(response.outputs)
        if only is None or tensor.name in only
    }


def parse_path(text: str) -> tuple[Hop, ...]:
    """Return the hops of `endpoint=2.410,edge_node=1.702`; what cannot be read is left out."""
    hops = []
    for part in text.split(",", HOPS_LIMIT)[:HOPS_LIMIT]:
        tier, _, elapsed = part.partition("=")
        try:
            hop = Hop(tier[:NAME_LIMIT], float(elapsed))
        except ValueError:
            continue
        if isfinite(hop.elapsed_ms):
            hops.append(hop)
    return tuple(hops)


def _posterior(
    arrays: dict[str, NDArray[Any]], output: str, kind: str, score: Score
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    values = arrays[output]
    if values.ndim != 2 or values.shape[1] == 0 or not np.issubdtype(values.dtype, np.floating):
        got = f"{values.dtype} {list(values.shape)}"
        raise UpstreamError("bad_answer", f"output {output!r} is {got}, not float [rows, classes]")
    with np.errstate(invalid="ignore", over="ignore"):
        posterior = softmax(values) if kind == "logits" else np.array(values, np.float32)
        error = np.abs(posterior.sum(axis=1, dtype=np.float64) - 1)
    # A row of NaN is how a model says that it made nothing of an input; others beside it are as good as ever.
    usable = ~np.isnan(posterior).any(axis=1)
    if not (error[usable] < SUM_TOLERANCE).all() or (posterior[usable] < LEAST).any():
        raise UpstreamError("bad_answer", f"output {output!r} is no posterior; is output_kind right?")
    with np.errstate(invalid="ignore"):  # a signalling NaN complains when it is made a double
        if score.needs == "posterior":
            return posterior, score.batch(posterior)
        if score.needs == "logits" and kind == "logits":
            return posterior, score.batch(values)
        return posterior, MAX_PROB.batch(posterior)


def _is(arrays: dict[str, NDArray[Any]], name: str, dtype: type[np.generic]) -> bool:
    """Whether the peer sent this per-row fact as it should be."""
    return name in arrays and arrays[name].ndim == 1 and arrays[name].dtype == dtype
