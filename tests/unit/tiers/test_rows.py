"""The short way of a single row says, byte for byte or field for field, what the long way says."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.answer import Hop, Row
from escalade.tiers.config import InputConfig, ModelConfig
from escalade.tiers.errors import EscaladeError, InputError
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.wire.codec import Codec, InferRequest
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes, row_from_bytes
from escalade.tiers.wire.rows import PREFIXES_KEPT, field

CLASSES = 3
float32s = st.floats(width=32)
names = st.text(min_size=1, max_size=30).filter(lambda text: "," not in text and "=" not in text)
hops = st.builds(Hop, names, st.floats(0, 1e6).map(lambda ms: round(ms, 3)))
answers = st.builds(
    Row,
    names,
    st.lists(float32s, min_size=CLASSES, max_size=CLASSES),
    st.integers(-1, CLASSES - 1),
    float32s,
    st.lists(hops, min_size=1, max_size=3).map(tuple),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    file: Path = tmp_path_factory.mktemp("models") / "three.onnx"
    file.write_bytes(scaled_identity(CLASSES))
    return OnnxModel(ModelConfig(file=file))


def long_way(codec: Codec, data: bytes) -> InferRequest:
    return codec.read(oip.ModelInferRequest.FromString(data))


def outcome(read: Any, data: bytes) -> object:
    """What reading gives, comparable: NaN included."""
    try:
        request = read(data)
    except EscaladeError as error:
        return type(error)
    except DecodeError:
        return InputError  # what `decode` makes of protobuf's own error
    return request.x.tobytes(), request.x.shape, request.x.dtype, request.id, request.outputs, request.deadline_ms


def request_of(model: OnnxModel, x: NDArray[Any], **options: Any) -> bytes:
    return request_bytes(x, model=model.name, input_name=model.input.name, **options)


@given(st.data())
def test_a_known_request_is_read_as_protobuf_reads_it(model: OnnxModel, data: st.DataObject) -> None:
    """Whatever came before: other ids, wanted outputs, deadlines, numbers of rows, models."""
    codec = Codec(model)
    for _ in range(6):
        message = request_of(
            model,
            data.draw(st.lists(st.lists(float32s, min_size=CLASSES, max_size=CLASSES), min_size=1, max_size=2).map(
                lambda rows: np.array(rows, np.float32)
            )),
            id=data.draw(st.sampled_from(["", "a", "b" * 127, "c" * 128, "ü"]) | st.text(max_size=8)),
            outputs=data.draw(st.sampled_from([(), ("label",), ("posterior", "score")])),
            deadline_ms=data.draw(st.none() | st.integers(1, 100)),
        )  # fmt: skip
        assert outcome(codec.decode, message) == outcome(lambda sent: long_way(codec, sent), message)


@given(st.data())
def test_bytes_changed_in_a_known_request_are_read_as_protobuf_reads_them(
    model: OnnxModel, data: st.DataObject
) -> None:
    """A flipped bit, a byte lost or put in: whatever of it is still a request is the same request both ways."""
    codec = Codec(model)
    sent = request_of(model, np.array([[1, 2, 3]], np.float32), id="one")
    codec.decode(sent)
    codec.decode(request_of(model, np.array([[1, 2, 3]], np.float32)))
    for _ in range(20):
        place = data.draw(st.integers(0, len(sent) - 1))
        put = data.draw(st.sampled_from([b"", b"\0", b"\x1a", b"\x1a\x00"]) | st.binary(min_size=1, max_size=3))
        changed = sent[:place] + put + sent[place + data.draw(st.integers(0, 1)) :]
        assert outcome(codec.decode, changed) == outcome(lambda message: long_way(codec, message), changed)


def test_a_known_request_cut_short_is_no_request(model: OnnxModel) -> None:
    """Wherever it is cut: what is left is never taken for a known form."""
    codec = Codec(model)
    sent = request_of(model, np.array([[1, 2, 3]], np.float32))
    codec.decode(sent)
    for size in range(len(sent)):
        with pytest.raises(EscaladeError):
            codec.decode(sent[:size])


def test_a_second_request_is_read_without_protobuf(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another id and other numbers; not, however, with another wanted output."""
    codec = Codec(model)
    codec.decode(request_of(model, np.array([[1, 2, 3]], np.float32), id="first"))
    monkeypatch.setattr(codec, "read", None)
    for request_id in ("", "second"):
        request = codec.decode(request_of(model, np.array([[4, 5, 6]], np.float32), id=request_id))
        assert request.id == request_id
        assert request.x.tolist() == [[4, 5, 6]]
    with pytest.raises(TypeError, match="not callable"):
        codec.decode(request_of(model, np.array([[4, 5, 6]], np.float32), outputs=["label"]))


def test_an_input_of_open_size_always_goes_the_long_way(tmp_path: Path) -> None:
    """No number of bytes at the end of a request tells where its raw contents begin."""
    file = tmp_path / "three.onnx"
    file.write_bytes(scaled_identity(CLASSES))
    model = OnnxModel(ModelConfig(file=file, input=InputConfig(shape=[-1])))
    codec = Codec(model)
    for x in (np.array([[1, 2]], np.float32), np.array([[1, 2, 3]], np.float32)) * 2:
        assert codec.decode(request_of(model, x)).x.tolist() == x.tolist()
    assert not codec._known._known


def test_a_client_that_changes_its_requests_all_the_time_does_not_fill_the_memory(model: OnnxModel) -> None:
    """What is kept of requests is bounded in number and in size."""
    codec = Codec(model)
    for outputs in permutations(codec.output_names):
        codec.decode(request_of(model, np.array([[1, 2, 3]], np.float32), outputs=outputs))
    padded = oip.ModelInferRequest.FromString(request_of(model, np.array([[1, 2, 3]], np.float32)))
    padded.inputs[0].parameters["x"].string_param = "x" * 10_000
    codec.decode(padded.SerializeToString())
    kept = codec._known._known
    assert len(kept) <= PREFIXES_KEPT
    assert all(len(prefix) <= 1024 for prefix in kept)


@given(row=answers, request_id=st.text(max_size=200))
def test_a_row_is_written_as_protobuf_writes_it(model: OnnxModel, row: Row, request_id: str) -> None:
    """Every field of the message, the bits of every number."""
    codec = Codec(model)
    request = InferRequest(np.zeros((1, CLASSES), np.float32), request_id)
    first, second = codec.encode(request, row), codec.encode(request, row)
    expected = oip.ModelInferResponse.FromString(codec.encode(request, row.answer()))
    assert oip.ModelInferResponse.FromString(first) == expected
    assert oip.ModelInferResponse.FromString(second) == expected


@given(row=answers)
def test_a_row_read_back_is_the_row_that_was_sent(model: OnnxModel, row: Row) -> None:
    """Where the posterior is none, the short way declines and the long way says so."""
    total = sum(abs(p) for p in row.posterior)
    if 0 < total < 1e30:
        row = row._replace(posterior=[float(np.float32(abs(p) / total)) for p in row.posterior])
    codec = Codec(model)
    data = codec.encode(InferRequest(np.zeros((1, CLASSES), np.float32)), row)
    back = row_from_bytes(data)
    if not abs(sum(row.posterior) - 1) < 1e-2:
        assert back is None
        return
    assert back is not None
    long = answer_from_bytes(data, rows=1)
    assert long.posterior is not None
    assert np.array([back.posterior], np.float32).tobytes() == long.posterior.tobytes()
    assert np.float32(back.score).tobytes() == long.score.tobytes()
    assert long.label is not None
    assert ([back.tier], [back.label], back.path) == (long.tier, long.label.tolist(), long.path)


def test_what_is_no_row_of_a_tiers_is_left_to_the_long_way(model: OnnxModel) -> None:
    """Two rows, a degraded one, some of the outputs, another server's, bytes that are no message."""
    codec = Codec(model)
    one = InferRequest(np.zeros((1, CLASSES), np.float32))
    row = Row("edge_server", [0.5, 0.25, 0.25], 0, 0.5, (Hop("edge_server", 1.0),))
    degraded = row.answer()
    degraded.degraded[:] = True
    degraded.reason = "timeout"
    foreign = oip.ModelInferResponse.FromString(codec.encode(one, row))
    del foreign.parameters["escalade.tier"]
    some = InferRequest(one.x, outputs=["posterior"])
    for data in (codec.encode(one, degraded), foreign.SerializeToString(), codec.encode(some, row), b"\xff\xff"):
        assert row_from_bytes(data) is None


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 70_000])
def test_a_field_is_written_with_its_length(size: int) -> None:
    """As protobuf writes the same bytes."""
    content = b"x" * size
    assert field(6, content) == oip.ModelInferResponse(raw_output_contents=[content]).SerializeToString()
