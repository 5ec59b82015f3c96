"""Recordings and the aggregator's file, encrypted where the tier has keys."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.unit.tiers.aggregator.conftest import NODES, Served, saw

from escalade.cli.main import main
from escalade.simulations.recording_file import read_recording
from escalade.tiers.aggregator.event import Event
from escalade.tiers.aggregator.observation import Raw
from escalade.tiers.aggregator.store import Store
from escalade.tiers.aggregator.window import Accepted
from escalade.tiers.at_rest import Vault, in_the_clear
from escalade.tiers.config import RecordConfig
from escalade.tiers.config_file import parse_config
from escalade.tiers.errors import ConfigError
from escalade.tiers.key_sources import FileKeys, new_key_line
from escalade.tiers.outbox.errors import OutboxError
from escalade.tiers.outbox.salvage import aside_files
from escalade.tiers.outbox.sealing import MAGIC, Seal
from escalade.tiers.record import Recorder
from escalade.tiers.record_chunk import Decided, chunks, read_chunk

SECRET = np.frombuffer(b"a face in a crowd of" * 4, np.float32)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(new_key_line("test"))
    file.chmod(0o600)
    return file


@pytest.fixture
def seal(keys: Path) -> Vault:
    return Vault(FileKeys(keys))


def record(folder: Path, seal: Seal) -> Path:
    posterior = [0.125, 0.875]
    kept = Recorder(RecordConfig(folder=folder), {"tier": "edge_node", "model": "m", "sha256": "0"}, seal=seal)
    kept.decided(Decided(1.0, 0.5, 1, 1.0, 0.5, 9.0, 4, 5.0, 0, 1, posterior, 1, posterior, "edge_server", "", 2.0))
    kept.close()
    return chunks(folder)[0]


def test_a_recording_is_encrypted(tmp_path: Path, seal: Vault) -> None:
    """With the keys it is read as ever; a changed or renamed chunk is a broken one."""
    chunk = record(tmp_path / "r", seal)
    stored = chunk.read_bytes()
    assert stored.startswith(MAGIC)
    assert b"posterior" not in stored
    assert read_chunk(chunk, seal)[0]["posterior"].tolist() == [[0.125, 0.875]]
    assert len(read_recording(tmp_path / "r", seal)) == 1
    moved = chunk.rename(chunk.with_name(f"{1:016x}.npz"))
    with pytest.raises(ValueError, match="stands where something else stood"):
        read_chunk(moved, seal)
    chunk.write_bytes(stored[:-1])
    with pytest.raises(ValueError, match="it is not what was encrypted"):
        read_chunk(chunk, seal)


def test_a_recording_without_its_keys_is_one_line(
    tmp_path: Path, seal: Vault, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which file, which key, where to name it; with the tier's YAML the commands read it."""
    record(tmp_path / "r", seal)
    with pytest.raises(ConfigError, match=r"encrypted with the key [0-9a-f]{16}, and none is given; see --config"):
        read_recording(tmp_path / "r")
    keys.write_text(new_key_line("other") + keys.read_text())
    file = tmp_path / "tier.yaml"
    section = {"key_source": {"file": "keys"}}
    file.write_text(yaml.safe_dump({"tier": "edge_node", "model": {"file": "m.onnx"}, "at_rest": section}))
    assert main(["record", "show", str(tmp_path / "r"), "--config", str(file)]) == 0
    assert "1 rows of edge_node" in capsys.readouterr().out
    keys.write_text(new_key_line("other"))
    assert main(["record", "show", str(tmp_path / "r"), "--config", str(file)]) == 2
    assert "and at_rest.key_source does not have it" in capsys.readouterr().err


def content(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))


@pytest.mark.asyncio
async def test_what_an_aggregator_keeps_is_encrypted(tmp_path: Path, seal: Vault) -> None:
    """Raw inputs, features, posteriors, answers, what was learnt; after a crash it goes on from there."""
    served = Served(tmp_path, seal=seal, quorum=3)
    posterior = np.array([0.7, 0.2, 0.1], np.float32)
    seen = saw("n0", "open", posterior=posterior, features=SECRET, raw=Raw("FP32", (20,), SECRET.tobytes()))
    served.store.write([accepted(seen)])
    assert await served.reasons([saw(node, "done") for node in NODES]) == ["", "", ""]
    await served.settle()
    (answer,) = served.answers()
    stored = content(served.config.file)
    for secret in (SECRET.tobytes(), posterior.tobytes(), answer.posterior.tobytes(), b'"label"'):
        assert secret not in stored
    await served.restart(crash=True)
    assert [one.posterior.tolist() for one in served.answers()] == [answer.posterior.tolist()]
    (known,) = (one for one in served.store.observations() if one.observation.event == "open")
    assert known.observation.raw == seen.raw
    assert known.observation.features is not None
    assert known.observation.features.tobytes() == SECRET.tobytes()
    assert known.observation.posterior.tolist() == posterior.tolist()
    await served.aggregator.close()
    file = served.config.file
    with pytest.raises(OutboxError, match=r"aggregator file .* key that at_rest.key_source does not have"):
        Store(file, NODES, 10)
    served.open()
    await served.aggregator.close()


@pytest.mark.parametrize(
    "tampering", ["answers SET sequence = 2", "answers SET facts = facts || 'x'", "observations SET node = 'n1'"]
)
def test_an_aggregators_file_that_was_tampered_with_is_moved_aside(tmp_path: Path, seal: Vault, tampering: str) -> None:
    """As a damaged one is; a new one is begun."""
    served, file = asyncio.run(answered(tmp_path, seal)), tmp_path / "aggregator.db"
    assert len(served) == 1
    connection = sqlite3.connect(file)
    connection.execute(f"UPDATE {tampering}")
    connection.commit()
    connection.close()
    store = Store(file, NODES, 10, seal)
    assert (store.answers(), store.observations()) == ([], [])
    store.close()
    assert len(aside_files(file)) == 1


async def answered(folder: Path, seal: Vault) -> list[Any]:
    """Leave a file with an answered event and an open one; return the answers."""
    served = Served(folder, seal=seal, early_close=False)
    await served.reasons([saw(node, "done") for node in NODES])
    await served.reasons([saw("n0", "open")])
    await served.settle()
    answers = served.answers()
    await served.aggregator.close()
    return answers


def accepted(observation: Any) -> Any:
    """Return an observation as the first of an event."""
    event = Event.first(observation.event, observation, 0, nodes=3, classes=3, time_s=1.8e9, now=1.8e9)
    return Accepted(observation, 0, event, 1.8e9)


def test_what_stays_in_the_clear_is_said() -> None:
    """The lines of corrections are meant to be read; nobody shall think them encrypted."""
    config = {
        "tier": "edge_node",
        "model": {"file": "m.onnx"},
        "policy": {"name": "AlwaysAccept"},
        "upstream": {"address": "127.0.0.1:1"},
        "outbox": {"file": "outbox.db", "corrections": "lines.jsonl"},
    }
    keys = {"at_rest": {"key_source": {"file": "keys"}}}
    assert in_the_clear(parse_config(config)) == []
    (line,) = in_the_clear(parse_config({**config, **keys}))
    assert line == "at_rest is on, but outbox.corrections lines.jsonl is written in the clear"
    assert in_the_clear(parse_config({**config, **keys, "outbox": {"file": "outbox.db"}})) == []
