"""Arrays to the protocol's bytes and back; and what a tier makes of bytes that are not what they should be."""

from __future__ import annotations

import inspect
import math
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from escalade.policies import MAX_PROB, load_score, softmax
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers import errors
from escalade.tiers.answer import REASONS, Answer, Hop
from escalade.tiers.config import DTYPES
from escalade.tiers.errors import EscaladeError, InputError, UpstreamError
from escalade.tiers.wire.aggregator_client import AggregatorClient
from escalade.tiers.wire.messages import (
    HOPS_LIMIT,
    answer_from_bytes,
    input_name_from_bytes,
    output_arrays,
    parse_path,
    ready_from_bytes,
    request_bytes,
)
from escalade.tiers.wire.rows import format_path
from escalade.tiers.wire.status import error_of, reason_of, status_of
from escalade.tiers.wire.tensors import array_from_tensor, raw_from_array, raw_from_strings

Tensor = oip.ModelInferRequest.InferInputTensor
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays = st.sampled_from(sorted(DTYPES)).flatmap(lambda name: hnp.arrays(DTYPES[name], shapes))


def tensor(name: str, datatype: str, shape: Any, **contents: Any) -> Any:
    made = Tensor(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(made.contents, field).extend(values)
    return made


# Tensors.


@given(arrays)
def test_an_array_of_any_type_and_shape_survives_as_raw_contents(array: NDArray[Any]) -> None:
    """Bit for bit, empty ones too."""
    datatype, raw = raw_from_array(array)
    back = array_from_tensor(tensor("x", datatype, array.shape), raw)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(arrays.filter(lambda array: array.dtype != np.float16))
def test_an_array_of_any_type_and_shape_survives_as_typed_contents(array: NDArray[Any]) -> None:
    """One value after another, as a client writes them that knows no raw contents; NaN stays NaN."""
    datatype, _ = raw_from_array(array)
    sent = tensor("x", datatype, array.shape, **{CONTENTS[datatype]: array.ravel().tolist()})
    back = array_from_tensor(Tensor.FromString(sent.SerializeToString()), None)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_survive_raw_and_typed(elements: list[bytes]) -> None:
    """Whatever they hold, also nothing."""
    shape = [len(elements)]
    raw = array_from_tensor(tensor("x", "BYTES", shape), raw_from_strings(elements))
    typed = array_from_tensor(tensor("x", "BYTES", shape, bytes_contents=elements), None)
    assert raw.tolist() == typed.tolist() == elements


@given(hnp.arrays(np.dtype("U5"), hnp.array_shapes(max_dims=2), elements=st.text("aé€", max_size=5)))
def test_strings_travel_as_utf8(array: NDArray[Any]) -> None:
    """Arrays of str become BYTES."""
    datatype, raw = raw_from_array(array)
    back = array_from_tensor(tensor("x", datatype, array.shape), raw)
    assert back.shape == array.shape
    assert [text.decode() for text in back.ravel()] == array.ravel().tolist()


def test_an_array_that_is_not_contiguous_or_big_endian_travels_row_major_and_little_endian() -> None:
    """The bytes do not depend on how the sender's memory lies."""
    plain = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for view in (np.asfortranarray(plain), plain[::-1][::-1], plain.astype(">i4"), plain.T.copy().T):
        assert raw_from_array(view) == ("INT32", plain.tobytes())
    assert raw_from_array(plain[:, ::2])[1] == plain[:, ::2].copy().tobytes()


@pytest.mark.parametrize("dtype", [np.complex64, np.datetime64])
def test_an_array_that_the_protocol_has_no_type_for_is_refused(dtype: type[np.generic]) -> None:
    """The message names the type and those that there are."""
    with pytest.raises(InputError, match=r"(complex64|datetime64).*FP32"):
        raw_from_array(np.zeros(2, np.dtype(dtype)))


MALFORMED = {
    "unknown type": (tensor("x", "FP128", [1]), b"\0" * 16, "unknown datatype 'FP128'"),
    "bfloat16": (tensor("x", "BF16", [1]), b"\0\0", "unknown datatype 'BF16'"),
    "negative size": (tensor("x", "FP32", [-1]), b"", "negative size"),
    "two negative sizes": (tensor("x", "FP32", [-2, -2]), b"\0" * 16, "negative size"),
    "short": (tensor("x", "FP32", [2]), b"\0" * 7, "needs 8 raw bytes, got 7"),
    "huge": (tensor("x", "FP32", [2**62, 2**62]), b"", "needs .* raw bytes, got 0"),
    "huge and empty": (tensor("x", "FP32", [0, 2**62, 2**62]), b"", "shape"),
    "huge and empty, typed": (tensor("x", "FP32", [0, 2**62, 2**62]), None, "shape"),
    "too many dimensions": (tensor("x", "UINT8", [1] * 100), b"\0", "100 dimensions"),
    "half floats, typed": (tensor("x", "FP16", [1], fp32_contents=[1.0]), None, "only as raw"),
    "few values": (tensor("x", "FP32", [2], fp32_contents=[1.0]), None, "needs 2 values in fp32_contents, got 1"),
    "no byte": (tensor("x", "UINT8", [1], uint_contents=[256]), None, "no UINT8"),
    "no small integer": (tensor("x", "INT16", [1], int_contents=[-40_000]), None, "no INT16"),
    "element cut off": (tensor("x", "BYTES", [1]), b"\x05\0\0\0abc", "ends inside its element 0"),
    "length cut off": (tensor("x", "BYTES", [1]), b"\0\0", "ends inside its element 0"),
    "few elements": (tensor("x", "BYTES", [2]), b"\0\0\0\0", "needs 2 elements, got 1"),
}


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.replace(" ", "-"))
def test_a_tensor_that_contradicts_itself_is_refused(case: str) -> None:
    """InputError names the tensor, what was expected and what came."""
    malformed, raw, says = MALFORMED[case]
    with pytest.raises(InputError, match=says) as caught:
        array_from_tensor(malformed, raw)
    assert "'x'" in str(caught.value)


@given(
    st.sampled_from([*DTYPES, "BYTES", "FP128"]),
    st.lists(st.integers(-2, 6) | st.integers(2**31, 2**62), max_size=4),
    st.none() | st.binary(max_size=64),
)
def test_no_tensor_raises_anything_but_input_error(datatype: str, shape: list[int], raw: bytes | None) -> None:
    """Whatever shape and bytes claim, nothing is allocated that did not arrive."""
    try:
        array = array_from_tensor(tensor("x", datatype, shape), raw)
    except InputError:
        return
    assert array.shape == tuple(shape)
    assert array.nbytes <= max(64, 8 * 64)


# Paths.


@given(
    st.lists(
        st.builds(
            Hop,
            st.sampled_from(["endpoint", "edge_node", "edge_server"]),
            st.floats(0, 1e6).map(lambda ms: round(ms, 3)),
        ),
        max_size=HOPS_LIMIT,
    )
)
def test_a_path_survives_as_text(hops: list[Hop]) -> None:
    """Names and milliseconds to the microsecond; no hop at all is the empty text."""
    assert parse_path(format_path(hops)) == tuple(hops)


@given(st.text())
@example("endpoint=1,,=,x=y,edge_node=2")
@example("endpoint=nan,edge_node=inf")
def test_any_text_is_read_as_some_path(text: str) -> None:
    """What a peer gets wrong is left out; every time that stays is a number."""
    assert all(math.isfinite(hop.elapsed_ms) for hop in parse_path(text))


def test_a_path_without_end_is_cut() -> None:
    """A peer cannot make the tiers below carry more hops than the limit."""
    assert len(parse_path("endpoint=1," * 1000)) == HOPS_LIMIT


# A peer's answer.


def response(ours: bool = True, /, **outputs: NDArray[Any]) -> oip.ModelInferResponse:
    """Return the response of a peer, one of escalade's tiers or another server."""
    made = oip.ModelInferResponse(model_name="m", model_version="1")
    for name, array in outputs.items():
        datatype, raw = raw_from_array(array)
        made.outputs.add(name=name, datatype=datatype, shape=array.shape)
        made.raw_output_contents.append(raw)
    if ours:
        made.parameters["escalade.tier"].string_param = "edge_server"
        made.parameters["escalade.path"].string_param = "edge_node=2.5,edge_server=1.25"
    return made


POSTERIOR = np.array([[0.75, 0.25], [0.125, 0.875]], np.float32)
GOOD = response(
    posterior=POSTERIOR,
    label=np.array([0, 1]),
    score=np.array([0.7, 0.8], np.float32),
    tier=np.array(["edge_node", "edge_server"]),
    degraded=np.array([True, False]),
)
GOOD.parameters["escalade.reason"].string_param = "timeout"


def read(message: oip.ModelInferResponse, **how: Any) -> Answer:
    return answer_from_bytes(message.SerializeToString(), rows=2, **how)


def test_the_answer_of_one_of_our_tiers_keeps_its_facts() -> None:
    """Posterior, label, score, tier and degraded of each row; reason and path."""
    answer = read(GOOD)
    assert answer.posterior is not None
    assert answer.label is not None
    assert answer.posterior.tolist() == POSTERIOR.tolist()
    assert answer.label.tolist() == [0, 1]
    assert answer.score.tolist() == np.array([0.7, 0.8], np.float32).tolist()
    assert answer.tier == ["edge_node", "edge_server"]
    assert answer.degraded.tolist() == [True, False]
    assert answer.reason == "timeout"
    assert answer.path == (Hop("edge_node", 2.5), Hop("edge_server", 1.25))


def test_the_answer_of_another_server_gets_label_score_and_tier_from_the_asker() -> None:
    """Its posterior is all that is taken; the score is the asking tier's own."""
    theirs = response(False, probabilities=POSTERIOR, label=np.array([7, 7]), score=np.zeros(2, np.float32))
    answer = read(theirs, output="probabilities", tier="triton", score=load_score("margin", "posterior"))
    assert answer.label is not None
    assert answer.label.tolist() == [0, 1]
    assert answer.score.tolist() == [0.5, 0.75]
    assert answer.tier == ["triton", "triton"]
    assert not answer.degraded.any()
    assert answer.reason == ""
    assert answer.path == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_of_another_server_become_a_posterior(dtype: type[np.floating[Any]]) -> None:
    """By softmax, whatever their precision."""
    logits = np.array([[2, 0], [-1, 1]], dtype)
    answer = read(response(False, y=logits), output="y", output_kind="logits")
    assert answer.posterior is not None
    assert answer.posterior.dtype == np.float32
    np.testing.assert_array_equal(answer.posterior, softmax(logits))
    np.testing.assert_array_equal(answer.score, MAX_PROB.batch(softmax(logits)))


def test_energy_is_taken_where_there_are_logits_and_max_prob_where_there_are_none() -> None:
    """A score on logits has no meaning on a posterior."""
    energy = load_score("energy", "logits")
    logits = np.array([[2, 0], [-1, 1]], np.float32)
    of_logits = read(response(False, y=logits), output="y", output_kind="logits", score=energy)
    np.testing.assert_array_equal(of_logits.score, energy.batch(logits))
    assert read(response(False, posterior=POSTERIOR), score=energy).score.tolist() == [0.75, 0.875]


def test_further_outputs_of_another_server_may_be_anything() -> None:
    """Another number of rows, a type that we do not know: they are not looked at."""
    theirs = response(False, posterior=POSTERIOR, boxes=np.zeros((1, 7)), degraded=np.zeros(5))
    theirs.outputs[1].datatype = "BF16"
    assert read(theirs).degraded.tolist() == [False, False]


def test_all_outputs_of_a_raw_model_are_its_answer() -> None:
    """Facts of the cascade aside."""
    message = response(boxes=np.zeros((2, 3, 4), np.float32), tier=np.array(["a", "b"]), score=np.ones(2, np.float32))
    answer = read(message, raw=True)
    assert answer.posterior is None
    assert answer.outputs is not None
    assert {name: array.shape for name, array in answer.outputs.items()} == {"boxes": (2, 3, 4)}
    assert answer.tier == ["a", "b"]
    assert answer.score.tolist() == [1, 1]


def test_facts_of_the_wrong_kind_are_replaced_by_what_is_known() -> None:
    """A peer of another version that sends them otherwise still answers."""
    message = response(posterior=POSTERIOR, label=POSTERIOR, score=np.array([1, 2]), tier=np.array([1, 2]))
    answer = read(message, tier="edge_server")
    assert answer.label is not None
    assert answer.label.tolist() == [0, 1]
    assert answer.score.tolist() == [0.75, 0.875]
    assert answer.tier == ["edge_server", "edge_server"]


BAD_ANSWERS: dict[str, tuple[oip.ModelInferResponse, dict[str, Any], str]] = {
    "empty": (oip.ModelInferResponse(), {}, "no output 'posterior'; there are none"),
    "other output": (response(logits=POSTERIOR), {}, "no output 'posterior'; there are 'logits'"),
    "few rows": (response(posterior=POSTERIOR[:1]), {}, r"'posterior' is \[1, 2\] for 2 rows"),
    "many rows": (response(posterior=np.tile(POSTERIOR, (2, 1))), {}, r"\[4, 2\] for 2 rows"),
    "scalar": (response(posterior=np.array(1.0)), {}, r"'posterior' is \[\] for 2 rows"),
    "vector": (response(posterior=np.ones(2)), {}, r"float64 \[2\], not float \[rows, classes\]"),
    "no classes": (response(posterior=np.zeros((2, 0))), {}, r"\[2, 0\], not"),
    "cube": (response(posterior=np.full((2, 2, 2), 0.5)), {}, r"\[2, 2, 2\], not"),
    "integers": (response(posterior=np.array([[1, 0], [0, 1]])), {}, "int64"),
    "strings": (response(posterior=np.array([["a"], ["b"]])), {}, "object"),
    "infinite": (response(posterior=np.array([[np.inf, -np.inf], [0, 1]])), {}, "no posterior"),
    "overflow": (response(posterior=np.array([[1e300, -1e300], [0, 1]])), {}, "no posterior"),
    "negative": (response(posterior=np.array([[1.5, -0.5], [0, 1]])), {}, "no posterior"),
    "percent": (response(posterior=100 * POSTERIOR), {}, "no posterior; is output_kind right"),
    "logits called posterior": (response(posterior=np.array([[3, -1], [2, 2]], np.float32)), {}, "output_kind"),
    "few scores": (response(posterior=POSTERIOR, score=np.ones(1, np.float32)), {}, r"'score' is \[1\] for 2 rows"),
    "few raw contents": (
        oip.ModelInferResponse(outputs=GOOD.outputs, raw_output_contents=GOOD.raw_output_contents[:2]),
        {},
        "5 outputs came with 2 raw contents",
    ),
    "no contents": (oip.ModelInferResponse(outputs=GOOD.outputs), {}, "needs 4 values in fp32_contents, got 0"),
    "raw boxes of other rows": (response(boxes=np.zeros((3, 4))), {"raw": True}, r"'boxes' is \[3, 4\] for 2 rows"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS, ids=lambda case: case.replace(" ", "-"))
def test_an_answer_that_cannot_be_used_is_a_bad_answer(case: str) -> None:
    """The reason that degrades the row, and a text for the log that names output and finding."""
    message, how, says = BAD_ANSWERS[case]
    with pytest.raises(UpstreamError, match=says) as caught:
        read(message, **how)
    assert caught.value.reason == "bad_answer"


@pytest.mark.parametrize("kind", ["posterior", "logits"])
def test_a_row_of_nan_is_no_class_and_the_row_beside_it_is_as_good_as_ever(kind: str) -> None:
    """How a server says that its model made nothing of an input."""
    values = np.array([[np.nan, 1], [0, 1]], np.float16)
    answer = read(response(posterior=values), output_kind=kind)
    assert answer.label is not None
    assert answer.label.tolist() == [-1, 1]
    assert answer.score[0] == -np.inf
    assert answer.score[1] > 0.7


def usable_or_bad(data: bytes, **how: Any) -> None:
    """Check the promise of `Upstream`: a usable answer or UpstreamError, nothing else."""
    answer: Answer | None = None
    reason = ""
    try:
        answer = answer_from_bytes(data, rows=2, **how)
    except UpstreamError as error:
        reason = error.reason
    if answer is None:
        assert reason == "bad_answer"
        return
    assert len(answer) == len(answer.score) == len(answer.degraded) == 2
    if not how.get("raw"):
        assert answer.posterior is not None
        assert answer.label is not None
        whole = ~np.isnan(answer.posterior).any(axis=1)
        assert np.isfinite(answer.posterior[whole]).all()
        assert answer.posterior.shape[0] == answer.label.shape[0] == 2


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_a_bad_answer(data: bytes, raw: bool) -> None:
    """Whatever a peer sends."""
    usable_or_bad(data, raw=raw)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["posterior", "logits"]), st.booleans())
def test_a_good_answer_with_bytes_changed_is_usable_or_a_bad_answer(data: st.DataObject, kind: str, raw: bool) -> None:
    """Bytes changed, put in or cut out, here and there: never another error, never a posterior that is none."""
    mutated = bytearray(GOOD.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        stop = data.draw(st.integers(start, min(start + 4, len(mutated))))
        mutated[start:stop] = data.draw(st.binary(max_size=4))
    usable_or_bad(bytes(mutated), output_kind=kind, raw=raw)


@given(st.data())
def test_a_good_answer_with_fields_changed_is_usable_or_a_bad_answer(data: st.DataObject) -> None:
    """Well-formed messages whose parts do not belong together."""
    message = oip.ModelInferResponse()
    message.CopyFrom(GOOD)
    for output in message.outputs:
        if data.draw(st.booleans()):
            output.datatype = data.draw(st.sampled_from([*DTYPES, "BYTES", "", "FP128"]))
        if data.draw(st.booleans()):
            output.ClearField("shape")
            output.shape.extend(data.draw(st.lists(st.sampled_from([-1, 0, 1, 2, 4, 2**62]), max_size=3)))
    for index in range(len(message.raw_output_contents)):
        if data.draw(st.booleans()):
            message.raw_output_contents[index] = data.draw(st.binary(max_size=32))
    usable_or_bad(message.SerializeToString(), raw=data.draw(st.booleans()))


def test_the_outputs_that_are_not_wanted_are_not_read() -> None:
    """Reading a few of many costs the few."""
    assert set(output_arrays(GOOD, {"label"})) == {"label"}
    assert set(output_arrays(GOOD)) == {"posterior", "label", "score", "tier", "degraded"}


def test_metadata_without_one_input_cannot_be_used() -> None:
    """Some servers describe no tensors; then a client cannot know the input's name."""
    described = oip.ModelMetadataResponse(name="m")
    described.inputs.add(name="pixels")
    assert input_name_from_bytes(described.SerializeToString()) == "pixels"
    for data in (b"\xff", b"", oip.ModelMetadataResponse(name="m").SerializeToString()):
        with pytest.raises(UpstreamError) as caught:
            input_name_from_bytes(data)
        assert caught.value.reason == "bad_answer"


def test_a_server_that_answers_nonsense_is_not_ready() -> None:
    """Only a clear yes counts."""
    assert ready_from_bytes(oip.ServerReadyResponse(ready=True).SerializeToString())
    assert not ready_from_bytes(b"")
    assert not ready_from_bytes(b"\xff")


def test_a_request_says_what_it_is_told() -> None:
    """Model, version, id, outputs, deadline and the tensor as raw contents."""
    x = np.arange(4, dtype=np.uint8).reshape(2, 2)
    data = request_bytes(x, model="m", version="3", input_name="x", id="7", outputs=["label"], deadline_ms=40)
    request = oip.ModelInferRequest.FromString(data)
    assert (request.model_name, request.model_version, request.id) == ("m", "3", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in request.inputs] == [("x", "UINT8", [2, 2])]
    assert list(request.raw_input_contents) == [x.tobytes()]
    assert [output.name for output in request.outputs] == ["label"]
    assert request.parameters["escalade.deadline_ms"].int64_param == 40


# The catalogue of statuses.


def leaves() -> list[type[EscaladeError]]:
    """Return the errors that a caller can meet: those of the request and of the tier, without their branches."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EscaladeError)]
    callers = [kind for kind in found if issubclass(kind, (errors.CallerError, errors.TierError))]
    return [kind for kind in callers if kind not in (errors.CallerError, errors.TierError)]


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_every_error_that_a_caller_can_meet_has_a_status_and_keeps_its_text(kind: type[EscaladeError]) -> None:
    """And comes out of the other end of the wire as an error of the same branch."""
    code, text = status_of(kind("what and why"))
    assert text == "what and why"
    back = error_of(code, text)
    assert str(back) == text
    branch = errors.CallerError if issubclass(kind, errors.CallerError) else errors.TierError
    # One status serves "too many rows" and "too many requests"; a client cannot tell them apart.
    assert isinstance(back, branch) or code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_grpc_refuses_unread_is_told_in_a_sentence() -> None:
    """Its own text is the name of the code."""
    error = error_of(grpc.StatusCode.CANCELLED, "CANCELLED")
    assert isinstance(error, errors.OverloadedError)
    assert "had no time to read the call" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("after", [-1, 2**64])
async def test_a_watch_after_what_is_no_number_of_an_answer_is_refused(after: int) -> None:
    """As an input, before anything is sent."""
    async with AggregatorClient("127.0.0.1:9") as client:
        with pytest.raises(errors.InputError, match="0 or more"):
            await anext(client.watch(after))


@pytest.mark.parametrize(
    "error", [ValueError("/etc/secret"), UpstreamError("timeout", "secret"), EscaladeError("secret")]
)
def test_an_error_that_no_caller_should_meet_tells_nothing(error: Exception) -> None:
    """INTERNAL, and the tier's log has the rest."""
    code, text = status_of(error)
    assert code == grpc.StatusCode.INTERNAL
    assert "secret" not in text


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_of_a_peer_is_a_known_reason(code: grpc.StatusCode) -> None:
    """Metrics and answers say it with a word of the list."""
    assert reason_of(code) in REASONS
    assert isinstance(error_of(code, None), EscaladeError)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS], ids=lambda code: code.name)
def test_a_damaged_transport_is_no_refusal(code: grpc.StatusCode) -> None:
    """gRPC says UNKNOWN of bytes it cannot parse: asking again may help, so the input is kept."""
    assert reason_of(code) == "bad_answer"
