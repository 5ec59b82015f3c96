"""A tier's load, from the answer of one to the policy of the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies import Action, Batch, Context, Decisions, Policy
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.tiers.answer import Hop, Row
from escalade.tiers.config import ModelConfig
from escalade.tiers.errors import UpstreamError
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing.fakes import FakeUpstream, ManualClock
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.tier import Tier
from escalade.tiers.upstream import LOAD_S
from escalade.tiers.wire.codec import Codec, InferRequest
from escalade.tiers.wire.load import LOAD_BYTES, load_from_bytes
from escalade.tiers.wire.messages import answer_from_bytes, row_from_bytes

MakeTier = Callable[..., Tier]
ROW = Row("edge_server", [0.5, 0.25, 0.25], 0, 0.5, (Hop("edge_server", 1.0),))


@pytest.fixture(scope="module")
def response(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file: Path = tmp_path_factory.mktemp("models") / "three.onnx"
    file.write_bytes(scaled_identity(3))
    return Codec(OnnxModel(ModelConfig(file=file))).encode(InferRequest(np.zeros((1, 3), np.float32)), ROW)


@pytest.mark.parametrize("load", LOAD_BYTES)
def test_a_load_is_read_from_where_it_was_appended_and_as_protobuf_reads_it(response: bytes, load: float) -> None:
    """The rest of the answer is what it was, on the short way and on the long one."""
    data = response + LOAD_BYTES[load]
    message = oip.ModelInferResponse.FromString(data)
    assert float(message.parameters["escalade.load"].string_param) == load
    del message.parameters["escalade.load"]
    assert message == oip.ModelInferResponse.FromString(response)
    assert row_from_bytes(data) == row_from_bytes(response) == ROW
    assert answer_from_bytes(data, rows=1).path == ROW.path
    assert load_from_bytes(data) == load


def test_a_load_is_found_wherever_it_stands(response: bytes) -> None:
    """Another writer may put the parameters in another order, or say a value that is no eighth."""
    message = oip.ModelInferResponse.FromString(response)
    message.parameters["escalade.load"].string_param = "0.3"
    for data in (message.SerializeToString(), LOAD_BYTES[0.25] + response):
        assert load_from_bytes(data) in (0.3, 0.25)


@given(st.sampled_from(["", "nan", "inf", "-1", "2", "full", "escalade.load"]), st.booleans())
def test_what_is_no_load_is_none(text: str, as_output: bool) -> None:
    """Nonsense, another server's words, a tensor that happens to hold the name, bytes that are no message."""
    message = oip.ModelInferResponse()
    if as_output:
        message.raw_output_contents.append(b"escalade.load " + text.encode())
    else:
        message.parameters["escalade.load"].string_param = text
    assert load_from_bytes(message.SerializeToString()) == 0.0
    assert load_from_bytes(b"\xff escalade.load") == 0.0


class Diary(Policy):
    """Escalates everything, and notes the load that it was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def decide(self, batch: Batch) -> Decisions:
        self.told += batch.upstream_load.tolist()
        return Decisions.of(np.full(len(batch), Action.ESCALATE))

    def decide_one(self, score: float, context: Context) -> Action:
        self.told.append(context.upstream_load)
        return Action.ESCALATE


@pytest.mark.asyncio
@pytest.mark.parametrize("rows", [1, 2])
async def test_a_policy_is_told_the_load_of_the_tier_above_while_it_is_fresh(make_tier: MakeTier, rows: int) -> None:
    """Nothing is known at first; a refusal tells as much as an answer; what is old counts for nothing."""
    upstream, policy, clock = FakeUpstream(), Diary(), ManualClock()
    tier = make_tier(upstream, policy, clock=clock)
    x = np.zeros((rows, 2), np.float32)
    for upstream.load, upstream.failure in ((0.75, None), (1.0, "overloaded"), (0.5, None)):
        await tier.infer(x)
    clock.advance(LOAD_S)
    await tier.infer(x)
    assert policy.told[::rows] == [0.0, 0.75, 1.0, 0.0]


@pytest.mark.asyncio
async def test_the_gatherer_passes_on_what_the_link_raises(make_tier: MakeTier) -> None:
    """A load that is noted hides no error."""
    upstream = FakeUpstream()
    upstream.failure = "timeout"
    gatherer = make_tier(upstream)._gatherer
    assert gatherer is not None
    with pytest.raises(UpstreamError, match="timeout"):
        await gatherer.infer_now(np.zeros((1, 2), np.float32), 1e12)
