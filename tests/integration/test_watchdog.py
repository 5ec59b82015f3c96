"""A tier whose event loop stands still ends itself; one that is only stopped for a while does not."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from escalade.tiers.testing.nasty_models import ROW, endless_for
from escalade.tiers.testing.processes import TierProcess
from escalade.tiers.watchdog import EXIT_CODE
from escalade.tiers.wire.messages import request_bytes

INFER = "/inference.GRPCInferenceService/ModelInfer"
HANG_S = 1.0


def ask(channel: Any, row: float, timeout_s: float = 10.0) -> grpc.StatusCode:
    x = np.full((1, ROW), row, np.float32)
    try:
        channel.unary_unary(INFER)(request_bytes(x, model="m", input_name="input"), timeout=timeout_s)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_tier_that_hangs_in_its_model_ends_itself(tmp_path: Path) -> None:
    """With an exit code after which it is started again and a line that names the model; SIGTERM changes nothing.

    That it was stopped for longer than it may hang, as a laptop that sleeps, is no reason.
    """
    (tmp_path / "m.onnx").write_bytes(endless_for(64.0))
    model, limits = {"file": str(tmp_path / "m.onnx"), "name": "m"}, {"hang_seconds": HANG_S}
    config = {"tier": "edge_server", "model": model, "limits": limits, "batching": {"inline_below_us": 1e6}}
    with TierProcess(config, tmp_path) as tier, grpc.insecure_channel(tier.address) as channel:
        tier.freeze()
        time.sleep(1.5 * HANG_S)
        tier.thaw()
        assert ask(channel, 1.0) is grpc.StatusCode.OK
        with ThreadPoolExecutor() as threads:
            hung = threads.submit(ask, channel, 16.0)
            while ask(channel, 1.0, timeout_s=0.1) is grpc.StatusCode.OK:
                pass
            tier.send_signal(signal.SIGTERM)
            assert tier.wait() == EXIT_CODE
            assert hung.result() is grpc.StatusCode.UNAVAILABLE
    [said] = [entry for entry in tier.events() if "stands still" in entry["event"]]
    assert (said["model"], said["model_runs"], said["for_s"]) == ("m", True, HANG_S)
