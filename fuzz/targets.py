"""The decoders, each as a function of bytes that raises only when one of them does what it does not promise."""

from __future__ import annotations

import io
import ssl
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from escalade.cli.fusion import load_views
from escalade.policies import MAX_PROB
from escalade.policies.errors import TraceError
from escalade.policies.state_file import StateFileError, from_json, from_npz
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.protos.v1 import tier_pb2
from escalade.simulations.recording_file import read_recording
from escalade.simulations.trace_file import TraceFile
from escalade.tiers.aggregator.checks import Checks
from escalade.tiers.aggregator.config import AggregatorConfig
from escalade.tiers.aggregator.observation import RefusalError
from escalade.tiers.errors import CallerError, InputError, NotFoundError, SetupError, UpstreamError
from escalade.tiers.model import TensorSpec
from escalade.tiers.outbox import correction, item
from escalade.tiers.record_chunk import read_chunk
from escalade.tiers.wire.aggregator import observations_from_bytes, verdicts_from_bytes
from escalade.tiers.wire.callers import read_caller
from escalade.tiers.wire.caps import has_too_many_parts, parsed
from escalade.tiers.wire.certificates import serial_and_end
from escalade.tiers.wire.codec import Codec, request_id_of
from escalade.tiers.wire.kept import KeptMessages, kept_answer
from escalade.tiers.wire.messages import answer_from_bytes, input_name_from_bytes, ready_from_bytes, row_from_bytes
from escalade.tiers.wire.tensors import array_from_tensor
from escalade.tiers.wire.tier_messages import correction_from_proto, item_from_proto, status_from_proto

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.tiers.model import OnnxModel

ROW = 4
MODEL = cast(
    "OnnxModel",
    SimpleNamespace(
        name="m", version="1", input=TensorSpec("input", "FP32", (ROW,)), output_kind="logits", classes=ROW, outputs=[]
    ),
)
AGGREGATOR = AggregatorConfig.model_validate({"file": "none.db", "nodes": ["n0", "n1"]})
_CODEC = Codec(MODEL)


def request(data: bytes) -> None:
    """A ModelInferRequest, on the long way and, where it is recognised, on the short one: both say the same."""
    request_id_of(data)
    has_too_many_parts(data, most=20)
    short = long = None
    with suppress(InputError, NotFoundError):
        short = _CODEC.decode(data)
    with suppress(InputError, NotFoundError):
        long = Codec(MODEL).decode(data)
    assert (short is None) == (long is None)
    if short is not None and long is not None:
        assert short.x.tobytes() == long.x.tobytes()
        assert short.x.shape == long.x.shape
        assert (short.id, short.outputs, short.deadline_ms, short.caller, short.event) == (
            long.id, long.outputs, long.deadline_ms, long.caller, long.event,
        )  # fmt: skip


def response(data: bytes) -> None:
    """A ModelInferResponse of one row and of two, of a classifier and of another model; and on the short way."""
    for rows in (1, 2):
        for kind, raw in (("posterior", False), ("logits", False), ("posterior", True)):
            with suppress(UpstreamError):
                answer = answer_from_bytes(data, rows=rows, output_kind=kind, score=MAX_PROB, raw=raw)
                assert len(answer.score) == len(answer.tier) == len(answer.degraded) == rows
    if (row := row_from_bytes(data)) is not None:
        long = answer_from_bytes(data, rows=1)
        assert long.tier == [row.tier]
        assert long.posterior is not None
        assert long.posterior.tolist() == [row.posterior]


def small_answers(data: bytes) -> None:
    """The answers to the small calls."""
    ready_from_bytes(data)
    with suppress(UpstreamError):
        input_name_from_bytes(data)


def tensor(data: bytes) -> None:
    """A tensor with typed contents, and with raw ones: what follows the first byte's number of bytes."""
    split = data[0] if data else 0
    for content, raw in ((data, None), (data[1 : 1 + split], data[1 + split :])):
        with suppress(InputError):
            array_from_tensor(parsed(oip.ModelInferRequest.InferInputTensor, content), raw)


def caller(data: bytes) -> None:
    """What a request says of its caller."""
    with suppress(InputError):
        read_caller(parsed(oip.ModelInferRequest, data))


def kept(data: bytes) -> None:
    """What an outbox kept: an input and an answer."""
    with suppress(CallerError):
        KeptMessages(MODEL).input(data)
    with suppress(UpstreamError):
        kept_answer(data, rows=1)
    with suppress(UpstreamError):
        kept_answer(data, rows=1, raw=True)


def tier_messages(data: bytes) -> None:
    """Reports, a correction and a status of another tier."""
    with suppress(InputError, ValueError):
        for report in parsed(tier_pb2.DeliverRequest, data).reports:
            item.to_row(1, item_from_proto(report))
    with suppress(InputError, UpstreamError):
        correction_from_proto(parsed(tier_pb2.Correction, data))
    with suppress(InputError):
        status_from_proto(parsed(tier_pb2.TierStatus, data))


def observations(data: bytes) -> None:
    """Observations, as far as an aggregator's checks; and its verdicts."""
    checks = Checks(AGGREGATOR, classes=3)
    with suppress(InputError):
        for one in observations_from_bytes(data)[0]:
            with suppress(RefusalError):
                checks.place(one)
    with suppress(UpstreamError):
        verdicts_from_bytes(data)


def row(data: bytes) -> None:
    """A row of an outbox, of whatever types SQLite gives back, with a checksum that fits and with one that does not."""
    numbers = struct.unpack("<qqqd", data[:32].ljust(32, b"\0"))
    values: list[Any] = [*numbers, data[32:40], data[40:50], data[50:], None, "text", 0]
    kinds = data[:8].ljust(8, b"\0")
    columns: Any = [values[kind % len(values)] for kind in kinds]
    seq, rank, kind, created_s, device, name, provisional, payload = columns
    for checksum in (0, numbers[0], _checksum(item, seq, rank, kind, created_s, device, name, provisional, payload)):
        with suppress(ValueError):
            item.from_row((seq, rank, kind, created_s, checksum, device, name, provisional, payload))
    for checksum in (0, _checksum(correction, seq, created_s, rank, device, name, provisional, payload)):
        with suppress(ValueError):
            correction.from_row((seq, created_s, rank, checksum, device, name, provisional, payload))


def archive(data: bytes) -> None:
    """A state file, a trace and a recording: an npz file, or one with a sound frame around unsound arrays."""
    with suppress(StateFileError):
        from_json(data)
    for content in (data, framed(data)):
        with suppress(StateFileError):
            from_npz(content)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "0000000000000000.npz"
            file.write_bytes(content)
            for split in ("cal", "test"):
                with suppress(TraceError):
                    TraceFile.open(file).split(split)
            with suppress(TraceError):
                read_recording(file)
            with suppress(TraceError):
                read_recording(folder)
            with suppress(SetupError):
                load_views(file)
            with suppress(OSError, ValueError):
                read_chunk(file)


def framed(data: bytes) -> bytes:
    """Return an npz file whose arrays are the parts of `data` between the marks `NAME:`, with right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for part in data.split(MARK)[1:17]:
            name, _, content = part.partition(b":")
            with suppress(ValueError, UserWarning):
                zipped.writestr(name.decode("latin-1").replace("\0", "") + ".npy", content)
    return stream.getvalue()


MARK = b"@@"


def _checksum(module: Any, *columns: Any) -> Any:
    try:
        return module._checksum(*columns)
    except (struct.error, TypeError, AttributeError):
        return 0


def certificate(data: bytes) -> None:
    """A certificate's serial number and end."""
    with suppress(ValueError):
        serial, end = serial_and_end(ssl.DER_cert_to_PEM_cert(data).encode())
        assert serial >= 0
        assert isinstance(end, float)


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (
        request,
        response,
        small_answers,
        tensor,
        caller,
        kept,
        tier_messages,
        observations,
        row,
        archive,
        certificate,
    )
}
