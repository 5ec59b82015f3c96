"""The demo's parts that need no running fleet."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest

from escalade.cli.demo import command, report
from escalade.cli.demo.calibrate import Calibration, calibrate
from escalade.cli.demo.fleet import Fleet
from escalade.cli.demo.interrupts import Interrupted, Interrupts
from escalade.cli.demo.layout import PORTS, free_ports, plan, write_config
from escalade.cli.demo.run import Answers
from escalade.cli.demo.train import TIERS
from escalade.policies import MAX_PROB, softmax
from escalade.simulations.replay import Recording, replay
from escalade.tiers.config_file import load_config
from escalade.tiers.errors import SetupError
from escalade.tiers.testing.onnx_models import mlp

if TYPE_CHECKING:
    from pathlib import Path

CALIBRATION = Calibration(temperature=dict.fromkeys(TIERS, 1.5), threshold={"endpoint": 0.75, "edge_node": 0.9})


def made_up_logits(rows: int = 400, seed: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three tiers of growing skill on ten classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, rows)
    evidence = np.eye(10)[labels]
    logits = {
        tier: (rng.normal(size=(rows, 10)) + skill * evidence).astype(np.float32)
        for tier, skill in zip(TIERS, (2.0, 4.0, 5.0), strict=True)
    }
    return logits, labels


def test_calibration_gives_up_no_more_than_it_was_told() -> None:
    """On the digits it was fitted on, each of the two steps loses at most the given share."""
    logits, labels = made_up_logits()
    calibration = calibrate(logits, labels, max_loss=0.01)
    posteriors = tuple(softmax(logits[tier], calibration.temperature[tier]) for tier in TIERS)
    result = replay(Recording(TIERS, posteriors, labels, (1.0, 1.0)), calibration.policies())
    top = (posteriors[-1].argmax(axis=1) == labels).mean()
    assert result.accuracy >= top - 0.02
    assert 0.0 < result.share["endpoint"] < 1.0


def test_a_threshold_in_the_yaml_is_the_calibrated_float32() -> None:
    """The short decimal that is written down accepts exactly the rows that calibration accepted."""
    logits, labels = made_up_logits()
    calibration = calibrate(logits, labels, max_loss=0.01)
    score = MAX_PROB.batch(softmax(logits["endpoint"], calibration.temperature["endpoint"]))
    assert np.float32(calibration.threshold["endpoint"]) in score


def test_every_process_has_ports_and_a_configuration_of_its_own(tmp_path: Path) -> None:
    """Seven YAML files that load, fourteen ports, two endpoints for each node, one server for both."""
    (tmp_path / "models").mkdir()
    for tier in TIERS:
        (tmp_path / "models" / f"{tier}.onnx").write_bytes(mlp([np.eye(64, 10)], [np.zeros(10)]))
    members = plan(tmp_path)
    assert [member.name for member in members] == [
        "edge-server",
        *("edge-node-0", "edge-node-1"),
        *("endpoint-0", "endpoint-1", "endpoint-2", "endpoint-3"),
    ]
    assert len({port for one in members for port in (one.address, one.metrics_address)}) == 14
    for member in members:
        write_config(member, CALIBRATION)
        config = load_config(member.config, environment={})
        assert (config.tier, config.listen.address) == (member.tier, member.address)
        assert (config.upstream and config.upstream.address) == (member.upstream and member.upstream.address)
    asked = [member.upstream.name for member in members if member.upstream]
    assert asked == ["edge-server"] * 2 + ["edge-node-0"] * 2 + ["edge-node-1"] * 2


def test_a_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search skips it; with too few left the message says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("escalade.cli.demo.layout.PORTS", range(port, port + 1))
        with pytest.raises(SetupError, match="needs 1 free ports"):
            free_ports(1)
    monkeypatch.undo()
    assert set(free_ports(3)) <= set(PORTS)


def test_the_table_is_aligned_text_without_control_codes() -> None:
    """One line for each strategy, one more for each tier where several answered."""
    labels = np.array([1, 2, 3, 4])
    mixed = Answers(
        np.array(["endpoint", "endpoint", "edge_node", "edge_server"]),
        np.array([1, 0, 3, 4]),
        np.array([1.0, 1.0, 2.0, 4.0]),
        np.zeros(4, np.bool_),
    )
    alone = Answers(np.array(["endpoint"] * 4), labels, np.ones(4), np.zeros(4, np.bool_))
    strategies = {
        "cascade": report.summarise(mixed, labels, 1234.0),
        "always_endpoint": report.summarise(alone, labels, 0.0),
    }
    lines = report.table(strategies)
    assert lines == [
        "                 answered  accuracy  p50 ms  p99 ms  bytes up",
        "-------------------------------------------------------------",
        "cascade           100.0 %    75.0 %    1.50    3.94     1,234",
        "  endpoint         50.0 %    50.0 %    1.00    1.00",
        "  edge node        25.0 %   100.0 %    2.00    2.00",
        "  edge server      25.0 %   100.0 %    4.00    4.00",
        "always endpoint   100.0 %   100.0 %    1.00    1.00         0",
    ]


def test_a_tier_that_answered_nothing_has_a_share_and_nothing_else() -> None:
    """Its share is 0; an accuracy or a latency of no answers would be made up."""
    labels = np.zeros(2, np.int64)
    summary = report.summarise(
        Answers(np.array(["endpoint"] * 2), labels, np.ones(2), np.zeros(2, np.bool_)), labels, 0.0
    )
    assert summary["share"] == {"endpoint": 1.0, "edge_node": 0.0, "edge_server": 0.0}
    assert list(summary["accuracy_by_tier"]) == list(summary["latency_ms"]) == ["endpoint"]


def test_a_signal_waits_until_it_is_asked_for() -> None:
    """Nothing is raised at the moment of the signal; the next check raises, with the shell's exit code."""
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
        interrupts.received = None
    assert caught.value.exit_code == 128 + signal.SIGTERM


def test_a_signal_cancels_what_runs() -> None:
    """A coroutine that would wait for ever is cancelled, its clean-up runs."""
    cleaned = []

    async def wait_for_ever() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(Interrupted), Interrupts() as interrupts:
        interrupts.run(wait_for_ever())
    assert cleaned == [True]


def test_a_signal_that_nobody_asked_for_is_not_lost() -> None:
    """It is raised at the end of the block, and the handlers of before are back."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted), Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_ends_at_once_is_named_with_its_reason(tmp_path: Path) -> None:
    """The message names the process, its exit code, the last line of its log and the log; nothing is left."""
    member = plan(tmp_path)[0]
    member.config.write_text("tier: edge_server\nmodel: {file: missing.onnx}\n")
    with (
        pytest.raises(SetupError, match=r"edge-server ended with exit code 2: .*missing\.onnx.*edge-server\.log"),
        Interrupts() as interrupts,
        Fleet(tmp_path / "logs", interrupts) as fleet,
    ):
        fleet.start([member], ready=lambda address: False)
    assert len(fleet) == 0


def test_a_folder_that_cannot_be_written_ends_the_demo_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the remedy, before anything is trained."""
    (tmp_path / "file").touch()
    assert command.run_demo(tmp_path / "file" / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("escalade demo: cannot write into")
    assert error.count("\n") == 1


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and the command with the package's name, not an ImportError half way through."""
    monkeypatch.setattr(command, "EXTRA", {"rich": "rich", "not_there": "a-package"})
    assert command.run_demo(tmp_path) == 2
    assert capsys.readouterr().err == (
        "escalade demo: needs a-package; in a checkout, install it with: pip install '.[demo]'\n"
    )
