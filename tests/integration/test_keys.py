"""`escalade keys`, and tiers that keep and load what is encrypted."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from escalade.cli.main import main
from escalade.tiers import EdgeNode, EdgeServer
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox.sealing import MAGIC
from escalade.tiers.record_chunk import chunks

X = np.array([[1, 0.9, 0, 0]], np.float32)


def tier(folder: Path, file: Path, **keys: Any) -> Path:
    config = {
        "tier": "edge_node",
        "model": {"file": str(file), **keys.pop("model", {})},
        "policy": {"name": "AlwaysEscalate"},
        "upstream": {"address": "127.0.0.1:1"},
        "outbox": {"file": "outbox.db", "wait_ms": 10_000},
        "at_rest": {"key_source": {"file": "keys"}},
        **keys,
    }
    (folder / "tier.yaml").write_text(yaml.safe_dump(config))
    return folder / "tier.yaml"


async def answer(file: Path) -> tuple[str, int]:
    async with EdgeNode.from_config(file) as node:
        kept = (await node.tier.infer(X)).kept
        status = node.status().outbox
        assert status is not None
        assert status.trouble == ""
        return kept, sum(status.depth.values())


def test_a_tier_keeps_and_loads_what_is_encrypted_through_a_rotation(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Make a key, encrypt the model, keep an input, rotate: nothing is readable on the disk, all of it to the tier."""
    keys, sealed, plain = tmp_path / "keys", tmp_path / "model.sealed", models / "unsure.onnx"
    assert main(["keys", "new", str(keys)]) == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    file = tier(tmp_path, plain)
    assert main(["keys", "seal-model", str(file), str(sealed)]) == 0
    assert plain.read_bytes() not in sealed.read_bytes()
    file = tier(tmp_path, sealed, model={"name": "m"}, record={"folder": "record"})
    assert asyncio.run(answer(file))[1] == 1
    assert all(path.read_bytes().startswith(MAGIC) for path in chunks(tmp_path / "record"))
    assert chunks(tmp_path / "record")
    assert X.tobytes() not in b"".join(path.read_bytes() for path in tmp_path.glob("outbox.db*"))
    capsys.readouterr()
    assert main(["keys", "rotate", str(keys)]) == 0
    told = capsys.readouterr().out.splitlines()[1]
    assert told.startswith("encrypts: ")
    assert "; still decrypts: " in told
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    kept, waiting = asyncio.run(answer(file))
    assert kept
    assert waiting == 2
    keys.write_text(keys.read_text().splitlines()[0] + "\n")
    with pytest.raises(ConfigError, match=r"model.sealed' cannot be opened: it is encrypted with another key"):
        asyncio.run(answer(file))


def test_an_aggregators_file_and_its_recording_are_encrypted(tmp_path: Path, models: Path) -> None:
    """With the tier's keys; without the one that it needs the tier does not start, and says which."""
    assert main(["keys", "new", str(tmp_path / "keys")]) == 0
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx")},
        "at_rest": {"key_source": {"file": str(tmp_path / "keys")}},
        "aggregator": {"nodes": ["a"], "file": str(tmp_path / "events.db"), "record": {"folder": str(tmp_path / "r")}},
    }

    async def observed() -> None:
        async with EdgeServer.from_config(config) as server:
            aggregator = server._attached.aggregator
            assert aggregator
            await aggregator.observe([Observation("a", "1", "e", "", None, np.full(4, 0.25, np.float32), None, None)])
            await aggregator.flush()

    asyncio.run(observed())
    assert all(path.read_bytes().startswith(MAGIC) for path in chunks(tmp_path / "r"))
    assert chunks(tmp_path / "r")
    assert MAGIC in (tmp_path / "events.db").read_bytes()
    (tmp_path / "keys").unlink()
    assert main(["keys", "new", str(tmp_path / "keys")]) == 0
    with pytest.raises(ConfigError, match=r"key that at_rest.key_source does not have \([0-9a-f]{16}\); put it back"):
        asyncio.run(observed())


def test_a_model_is_known_by_its_digest_also_when_it_is_encrypted(tmp_path: Path, models: Path) -> None:
    """The digest is that of the model; another one under the same key is refused."""
    import hashlib

    sha256 = hashlib.sha256((models / "unsure.onnx").read_bytes()).hexdigest()
    assert main(["keys", "new", str(tmp_path / "keys")]) == 0
    for name in ("unsure", "sure"):
        assert main(["keys", "seal-model", str(tier(tmp_path, models / f"{name}.onnx")), str(tmp_path / name)]) == 0
    assert asyncio.run(answer(tier(tmp_path, tmp_path / "unsure", model={"sha256": sha256})))[0]
    with pytest.raises(ConfigError, match="is another model: its sha256 is"):
        asyncio.run(answer(tier(tmp_path, tmp_path / "sure", model={"sha256": sha256})))


def test_keys_are_never_overwritten_and_mistakes_are_one_line(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the file, the key in the YAML, the remedy."""
    keys = tmp_path / "keys"
    assert main(["keys", "new", str(keys)]) == 0
    before = keys.read_bytes()
    assert main(["keys", "new", str(keys)]) == 2
    assert capsys.readouterr().err == f"escalade: {keys}: File exists; nothing was overwritten\n"
    assert keys.read_bytes() == before
    keys.chmod(0o644)
    assert main(["keys", "seal-model", str(tier(tmp_path, models / "sure.onnx")), str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"escalade: {tmp_path}/tier.yaml:")
    assert said.endswith(f"at_rest.key_source.file: '{keys}' may be read by others; chmod 600 it\n")
    assert main(["keys", "rotate", str(keys)]) == 2
    file = tier(tmp_path, models / "sure.onnx", at_rest=None)
    assert main(["keys", "seal-model", str(file), str(tmp_path / "m")]) == 2
    assert "at_rest: there is no key; add `at_rest: {key_source: {file: ...}}`" in capsys.readouterr().err


def test_a_tier_without_the_key_of_its_outbox_answers_and_loses_nothing(tmp_path: Path, models: Path) -> None:
    """It says what is missing; with the key it goes on."""
    file = tier(tmp_path, models / "unsure.onnx")
    assert main(["keys", "new", str(tmp_path / "keys")]) == 0
    assert asyncio.run(answer(file))[1] == 1

    async def without() -> str:
        async with EdgeNode.from_config(tier(tmp_path, models / "unsure.onnx", at_rest=None)) as node:
            assert (await node.tier.infer(X)).kept == ""
            status = node.status().outbox
            assert status is not None
            return status.trouble

    assert "encrypted with a key that at_rest.key_source does not have" in asyncio.run(without())
    assert asyncio.run(answer(tier(tmp_path, models / "unsure.onnx")))[1] == 2
