"""Messages that nobody sends by mistake: small on the wire, large or slow when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.seeds import X, all_seeds, recording
from fuzz.targets import MODEL

from escalade.policies.errors import TraceError
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.protos.v1 import tier_pb2
from escalade.simulations.recording_file import read_recording
from escalade.tiers.aggregator.checks import Checks
from escalade.tiers.aggregator.config import AggregatorConfig
from escalade.tiers.aggregator.observation import Observation, Raw, RefusalError
from escalade.tiers.errors import InputError, UpstreamError
from escalade.tiers.wire.aggregator import verdicts_from_bytes
from escalade.tiers.wire.caps import EVENT_BYTES, ID_BYTES, PARAMETERS, PARTS, has_too_many_parts, parsed
from escalade.tiers.wire.codec import Codec, request_id_of
from escalade.tiers.wire.kept import kept_answer
from escalade.tiers.wire.messages import answer_from_bytes, request_bytes, row_from_bytes
from escalade.tiers.wire.rows import field
from escalade.tiers.wire.tier_messages import item_from_proto

GOOD = request_bytes(X, model="m", input_name="input")


@pytest.mark.parametrize(
    "part", [field(5, b""), field(6, b""), field(7, b""), field(4, b""), field(15, b""), b"\x78\x00"]
)
def test_a_message_of_too_many_parts_is_refused_before_it_is_parsed(part: bytes) -> None:
    """Whatever they are, and behind whatever stands before them."""
    with pytest.raises(InputError, match=f"more than {PARTS} parts"):
        parsed(oip.ModelInferRequest, GOOD + part * 40_000)
    assert request_id_of(part * 40_000) == ""


def test_parts_inside_tensors_count() -> None:
    """A tensor may have parameters of its own."""
    inner = b"".join(field(4, field(1, b"%d" % place)) for place in range(10_000))
    with pytest.raises(InputError, match="parts"):
        Codec(MODEL).decode(field(1, b"m") + field(5, inner))


def test_a_large_message_of_few_parts_is_none_of_these() -> None:
    """A megabyte of pixels is one part."""
    assert not has_too_many_parts(request_bytes(np.zeros((1, 2**18), np.float32), model="m", input_name="input"), 10)


@pytest.mark.parametrize("data", [b"\x80", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a", b"\xff" * 30, b"\x0b\x0b\x0c", b""])
def test_counting_parts_ends_whatever_the_bytes(data: bytes) -> None:
    """What is malformed is left to the parser."""
    assert not has_too_many_parts(data)


def changed(**fields: object) -> bytes:
    message = oip.ModelInferRequest.FromString(GOOD)
    for name, value in fields.items():
        setattr(message, name, value)
    return message.SerializeToString()


def test_names_that_are_kept_and_sent_on_have_a_length() -> None:
    """Of a request, of an event; an id that is too long is not sent back either."""
    codec = Codec(MODEL)
    assert codec.decode(changed(id="x" * ID_BYTES)).id == "x" * ID_BYTES
    with pytest.raises(InputError, match=f"id is longer than {ID_BYTES} bytes"):
        codec.decode(changed(id="ä" * ID_BYTES))
    assert request_id_of(changed(id="x" * (ID_BYTES + 1))) == ""
    with pytest.raises(InputError, match=f"event' is longer than {EVENT_BYTES}"):
        codec.decode(request_bytes(X, model="m", input_name="input", event="e" * (EVENT_BYTES + 1)))


def test_a_request_has_so_many_parameters_and_outputs() -> None:
    """Far more than any client sends."""
    codec = Codec(MODEL)
    many = oip.ModelInferRequest.FromString(GOOD)
    for place in range(PARAMETERS + 1):
        many.parameters[f"p{place}"].bool_param = True
    with pytest.raises(InputError, match=f"{PARAMETERS + 1} parameters; at most {PARAMETERS}"):
        codec.decode(many.SerializeToString())
    with pytest.raises(InputError, match="100 outputs are asked for; there are 5"):
        codec.decode(request_bytes(X, model="m", input_name="input", outputs=["label"] * 100))
    inputs = field(1, b"m") + field(5, field(1, b"input")) * 1000
    with pytest.raises(InputError, match="'input', 'input' and 992 more"):
        codec.decode(inputs)


def test_an_observation_of_a_thousand_dimensions_costs_nothing() -> None:
    """The product of so many large sizes has millions of digits; it is not computed."""
    checks = Checks(AggregatorConfig.model_validate({"file": "none.db", "nodes": ["n0"]}), classes=2)
    raw = Raw("UINT8", (2**62,) * 200_000, b"")
    observation = Observation("n0", "o", "e", "", None, np.array([0.5, 0.5], np.float32), raw=raw)
    with pytest.raises(RefusalError, match="a raw input"):
        checks.place(observation)


def test_an_output_without_a_name_needs_as_many_rows_as_the_others() -> None:
    """An empty name is a name."""
    response = oip.ModelInferResponse()
    response.outputs.add(datatype="INT64", shape=[3])
    response.raw_output_contents.append(bytes(24))
    with pytest.raises(UpstreamError, match=r"output '' is \[3\] for 2 rows"):
        answer_from_bytes(response.SerializeToString(), rows=2, raw=True)


def test_the_short_way_takes_no_answer_that_the_long_one_refuses() -> None:
    """A score of three rows for one, whose bytes are those of one."""
    row = all_seeds()["response"]["row"]
    assert row_from_bytes(row) is not None
    response = oip.ModelInferResponse.FromString(row)
    response.outputs[2].shape[:] = [3]
    with pytest.raises(UpstreamError):
        answer_from_bytes(response.SerializeToString(), rows=1)
    assert row_from_bytes(response.SerializeToString()) is None


@pytest.mark.parametrize("rows", ["x", "1,,x", str(2**31), "-1", "9" * 5000])
def test_a_kept_answer_with_rows_that_cannot_be_is_a_bad_answer(rows: str) -> None:
    """As is one that is no message."""
    message = oip.ModelInferResponse()
    message.parameters["escalade.rows"].string_param = rows
    for data in (message.SerializeToString(), b"\xff"):
        with pytest.raises(UpstreamError, match="kept answer"):
            kept_answer(data, rows=1)


def test_verdicts_that_cannot_be_read_are_a_bad_answer() -> None:
    """The node reports again."""
    with pytest.raises(UpstreamError, match="not a ObserveResponse"):
        verdicts_from_bytes(b"\xff")


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("propensity", np.array(["a", "b"])),
        ("id", np.array(3)),
        ("posterior", np.zeros(2)),
        ("label", np.zeros(2, np.complex64)),
        ("meta", np.array('"text"')),
        ("meta", np.array("no JSON")),
    ],
)
def test_a_recording_whose_columns_are_none_is_an_error_of_the_trace(
    tmp_path: Path, name: str, column: np.ndarray
) -> None:
    """In a merged file, and in a tier's folder."""
    columns = recording()
    merged, chunk = tmp_path / "merged.npz", tmp_path / "0000000000000000.npz"
    np.savez(merged, **columns | {name if name == "meta" else f"rec_{name}": column})
    np.savez(chunk, **{key: value for key, value in columns.items() if not key.startswith("rec_")} | {name: column})
    for place in (merged, tmp_path):
        with pytest.raises(TraceError):
            read_recording(place)


@pytest.mark.parametrize("name", ["device", "id"])
def test_a_report_of_a_long_name_is_refused(name: str) -> None:
    """As a request is that names such a device: they are kept, counted and logged."""
    named: dict[str, Any] = {"device": "cam-1", "id": "1", "kind": "telemetry"}
    assert item_from_proto(tier_pb2.Report(**{**named, name: "x" * 256}))
    with pytest.raises(ValueError, match=f"a report's {name} is longer than 256 bytes"):
        item_from_proto(tier_pb2.Report(**{**named, name: "\N{GREEK SMALL LETTER PI}" * 129}))
