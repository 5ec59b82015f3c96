"""Writes the first inputs of the corpus: `python -m fuzz.seeds`. What fuzzing found is added by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from escalade.policies.state_file import to_npz
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.protos.v1 import aggregator_pb2, tier_pb2
from escalade.tiers.answer import Answer, Hop, Row
from escalade.tiers.caller import Caller
from escalade.tiers.outbox import item
from escalade.tiers.record_chunk import SCHEMA
from escalade.tiers.wire.codec import Codec, InferRequest
from escalade.tiers.wire.kept import KeptMessages
from escalade.tiers.wire.messages import metadata_request_bytes, request_bytes
from fuzz.targets import MARK, MODEL, ROW

CORPUS = Path(__file__).parent / "corpus"
X = np.arange(ROW, dtype=np.float32)[None]


def main() -> None:
    """Write every seed."""
    for target, seeds in all_seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)


def all_seeds() -> dict[str, dict[str, bytes]]:
    """Return the seeds by target and name."""
    caller = Caller("cam-1", "critical", True, "item-7", 2)
    plain = request_bytes(X, model="m", input_name="input", id="42")
    full = request_bytes(
        np.repeat(X, 2, 0), model="m", version="1", input_name="input", outputs=["label"], deadline_ms=80,
        caller=caller, event="e",
    )  # fmt: skip
    typed = oip.ModelInferRequest(model_name="m")
    tensor = typed.inputs.add(name="input", datatype="FP32", shape=[1, ROW])
    tensor.contents.fp32_contents.extend(X[0].tolist())
    one = Row("edge_node", [0.1, 0.2, 0.3, 0.4], 3, 0.4, (Hop("edge_node", 1.5),))
    posterior = np.full((2, ROW), 0.25, np.float32)
    two = Answer(
        np.ones(2, np.float32), ["endpoint", "edge_server"], np.array([True, False]), posterior=posterior,
        label=np.zeros(2, np.int64), path=(Hop("endpoint", 1.0),), reason="timeout", kept="k",
    )  # fmt: skip
    codec, ask = Codec(MODEL), InferRequest(X, "42")
    row_answer, two_answers = codec.encode(ask, one), codec.encode(ask, two)
    kept = KeptMessages(MODEL)
    kept_answer = kept.answer(one.answer(), "42", np.array([0]))
    strings = oip.ModelInferRequest.InferInputTensor(name="s", datatype="BYTES", shape=[2])
    strings.contents.bytes_contents.extend([b"a", b"bc"])
    raw_tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="INT16", shape=[2, 1]).SerializeToString()
    report = tier_pb2.Report(device="cam-1", id="r", kind="telemetry", priority="bulk", created_s=1.5, payload=b"{}")
    correction = tier_pb2.Correction(
        seq=3, device="cam-1", id="i", request_id="42", rows=[0], provisional=kept_answer, answer=row_answer, delay_s=2
    )
    status = tier_pb2.TierStatus(tier="endpoint", requests={"answered": 3}, links=[tier_pb2.LinkStatus(address="a:1")])
    observation = aggregator_pb2.Observation(
        node="n0", id="o", event="e", zone="z", observed_us=5, posterior=posterior[0, :3].tobytes(), features=b"\0" * 8,
        raw=aggregator_pb2.Tensor(datatype="UINT8", shape=[2, 2], content=b"1234"), label=1,
    )  # fmt: skip
    observed = aggregator_pb2.ObserveRequest(tenant="t", sent_us=9, observations=[observation])
    verdicts = aggregator_pb2.ObserveResponse(verdicts=[aggregator_pb2.Verdict(code=5, reason="key", event="e")])
    stored = item.to_row(7, item.Item("cam-1", "i", b"payload"))
    return {
        "request": {"plain": plain, "full": full, "typed": typed.SerializeToString()},
        "response": {"row": row_answer, "two": two_answers},
        "small_answers": {"metadata": codec.metadata().SerializeToString(), "ask": metadata_request_bytes("m")},
        "tensor": {
            "typed": tensor.SerializeToString(), "strings": strings.SerializeToString(),
            "raw": bytes([len(raw_tensor)]) + raw_tensor + b"1234",
        },
        "caller": {"full": full, "plain": plain},
        "kept": {"request": kept.request(X, "42"), "answer": kept_answer},
        "tier_messages": {
            "reports": tier_pb2.DeliverRequest(reports=[report, report]).SerializeToString(),
            "correction": correction.SerializeToString(), "status": status.SerializeToString(),
        },
        "observations": {"one": observed.SerializeToString(), "verdicts": verdicts.SerializeToString()},
        "row": {"item": bytes([0, 1, 2, 3, 4, 5, 6, 7]) + repr(stored).encode(), "zeros": bytes(64)},
        "archive": {
            "state.npz": to_npz({"threshold": 0.5, "table": np.arange(4.0)}, "Threshold"),
            "state.json": json.dumps({"escalade_state": 1, "policy": "P", "state": {"a": {"$float": "nan"}}}).encode(),
            "trace": framed_parts(trace()), "recording": framed_parts(recording()),
        },
        "certificate": {"utc": certificate(b"\x17\x0d260101000000Z"), "later": certificate(b"\x18\x0f20600101000000Z")},
    }  # fmt: skip


def certificate(end: bytes) -> bytes:
    """Return as much of a certificate as is read of it."""
    validity = der(0x30, b"\x17\x0d250101000000Z", end)
    return der(0x30, der(0x30, der(0xA0, b"\2\1\2"), der(2, b"\x0a\xff"), der(0x30), der(0x30), validity))


def der(tag: int, *parts: bytes) -> bytes:
    """Return an element of less than 128 bytes."""
    return bytes([tag, sum(map(len, parts))]) + b"".join(parts)


def trace() -> dict[str, Any]:
    """Return a small trace."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"costs": np.array([1.0, 2.0]), "tiers": np.array(["endpoint", "edge_server"])}
    for split in ("cal", "test"):
        arrays[f"y_{split}"] = np.array([0, 1, 2, 1])
        for level in (1, 2):
            arrays[f"z{level}_{split}"] = rng.standard_normal((4, 3)).astype(np.float32)
    return arrays


def recording() -> dict[str, Any]:
    """Return a small recording, as `merge` writes it and as a tier does: with and without its prefix."""
    columns: dict[str, Any] = {
        "id": np.arange(2), "time_s": np.zeros(2), "score": np.ones(2, np.float32), "propensity": np.ones(2),
        "action": np.zeros(2, np.int8), "label": np.zeros(2, np.int32), "upper_label": np.ones(2, np.int32),
        "posterior": np.full((2, 3), 1 / 3, np.float32), "upper_posterior": np.full((2, 3), 1 / 3, np.float32),
    }  # fmt: skip
    meta = np.array(json.dumps({"schema": SCHEMA, "tier": "endpoint", "sha256": "00"}))
    return {"meta": meta, **columns, **{f"rec_{name}": column for name, column in columns.items()}}


def framed_parts(arrays: dict[str, Any]) -> bytes:
    """Return arrays as `targets.framed` reads them."""
    parts = []
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        parts.append(MARK + name.encode() + b":" + stream.getvalue())
    return b"".join(parts)


if __name__ == "__main__":
    main()
