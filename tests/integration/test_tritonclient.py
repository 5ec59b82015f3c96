"""A user of tritonclient talks to a cascade unchanged, whatever else the process imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.testing.processes import TierProcess

CALLER = Path(__file__).with_name("triton_caller.py")
TIERS = ["endpoint", "edge_node", "edge_server"]
SCALES = {"endpoint": 1.0, "edge_node": 3.0, "edge_server": 10.0}
FACTS = {"posterior": "FP32", "label": "INT64", "score": "FP32", "tier": "BYTES", "degraded": "BOOL"}

Told = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Three processes; logits are the inputs times 1, 3 and 10, so each tier up is surer of the same row."""
    folder, above = tmp_path_factory.mktemp("triton"), None
    with ExitStack() as stack:
        served: dict[str, str] = {}
        for tier in reversed(TIERS):
            file = folder / f"{tier}.onnx"
            file.write_bytes(scaled_identity(4, SCALES[tier]))
            config: dict[str, Any] = {"tier": tier, "model": {"file": str(file), "name": "m"}}
            if above:
                config["policy"] = {"name": "Threshold", "threshold": 0.9}
                config["upstream"] = {"address": above}
            above = served[tier] = stack.enter_context(TierProcess(config, folder)).address
        yield [served[tier] for tier in TIERS]


@pytest.fixture(scope="module", params=["alone", "triton-first", "escalade-first"])
def told(request: pytest.FixtureRequest, addresses: list[str]) -> Told:
    """What the script heard from each tier."""
    done = subprocess.run(
        [sys.executable, str(CALLER), request.param, *addresses],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(TIERS, map(json.loads, done.stdout.splitlines()), strict=True))


def test_every_tier_gives_the_right_answer_and_says_which_tier_gave_it(told: Told) -> None:
    """Labels, posteriors and per-row facts as tensors: each row ends at the lowest tier that is sure of it."""
    for tier in TIERS:
        answer = told[tier]["infer"]
        assert answer["label"] == [0, 1, 2]
        assert [max(row) for row in answer["posterior"]] == answer["score"]
        assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in answer["posterior"])
        assert answer["degraded"] == [False] * 3
        lowest = TIERS.index(tier)
        assert answer["tier"] == [TIERS[max(lowest, row)] for row in range(3)]


def test_the_facts_of_a_response_can_be_read_as_its_parameters(told: Told) -> None:
    """The request's id comes back; tier, lowest score, path and degraded stand in `get_response().parameters`."""
    for tier in TIERS:
        answer = told[tier]["infer"]
        assert answer["id"] == "7"
        assert answer["model"] == ["m", "1"]
        assert answer["escalade.tier"] == "edge_server"
        assert answer["escalade.score"] == pytest.approx(min(answer["score"]), abs=1e-4)
        assert answer["escalade.degraded"] is False
        hops = [hop.partition("=")[0] for hop in answer["escalade.path"].split(",")]
        assert hops == TIERS[TIERS.index(tier) :]


def test_only_the_requested_outputs_come(told: Told) -> None:
    """In the order that they were asked for."""
    assert [told[tier]["requested"] for tier in TIERS] == [["score", "label"]] * 3


def test_a_refusal_is_an_exception_with_status_and_text(told: Told) -> None:
    """What was expected and what was received, as InferenceServerException."""
    for tier in TIERS:
        said = told[tier]["refusals"]
        assert said["model"] == ["StatusCode.NOT_FOUND", "there is no model 'other' here; this tier serves 'm'"]
        assert {said[case][0] for case in ("shape", "datatype", "name")} == {"StatusCode.INVALID_ARGUMENT"}
        assert said["shape"][1].endswith(
            "must be FP32 of shape [-1, 4] with at least one row; got float32 of shape [3, 3]"
        )
        assert said["datatype"][1] == "input 'input' is FP32; got FP64"
        assert said["name"][1] == "the one input is 'input'; got 'pixels'"


def test_the_small_calls_say_what_the_tier_is(told: Told) -> None:
    """Live, ready, and the metadata that tritonclient prints."""
    for tier in TIERS:
        said = told[tier]["described"]
        assert said["live"] is said["ready"] is said["model_ready"] is True
        assert said["server"] == f"escalade {tier}"
        assert said["inputs"] == [["input", "FP32", ["-1", "4"]]]
        assert said["outputs"] == FACTS


def test_a_stream_carries_many_requests(told: Told) -> None:
    """`start_stream` and `async_stream_infer`: each id has its own answer, a wrong request its own error."""
    for tier in TIERS:
        got = told[tier]["streamed"]
        assert got.pop("wrong").startswith("NOT_FOUND: there is no model 'other'")
        assert got == {str(index): str(index % 3) for index in range(20)}


def test_answers_come_by_callback_too(told: Told) -> None:
    """`async_infer`."""
    assert [told[tier]["asynchronous"] for tier in TIERS] == [[0, 1, 2]] * 3


def test_both_clients_work_in_one_process(told: Told) -> None:
    """Whichever was imported first, escalade's own client gets the same answers beside tritonclient."""
    assert [told[tier].get("escalade_client", [0, 1, 2]) for tier in TIERS] == [[0, 1, 2]] * 3
