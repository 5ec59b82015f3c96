"""What a tier says at start when its TLS files are not in order: one line that names the file and the remedy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from escalade.cli.main import TRY_LATER, main
from escalade.tiers import EdgeNode, EdgeServer
from escalade.tiers.errors import ConfigError
from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.files import OWNER_ONLY, replace
from escalade.tiers.security import Security
from escalade.tiers.testing.fleet import DAY_S, Fleet
from escalade.tiers.tls_check import check_tls
from escalade.tiers.tls_config import TlsConfig

Spoil = Callable[[dict[str, Path], Fleet], object]


def pair(section: dict[str, Path], fleet: Fleet, days: float) -> None:
    key, certificate = fleet.made("edge-server", shift_days=days)
    replace(section["certificate"], certificate)
    replace(section["key"], key, OWNER_ONLY)


def old_ca(section: dict[str, Path], fleet: Fleet) -> None:
    aged = x.make_ca("old", x.new_key(), days=1, now=x.utc(time.time() - 30 * DAY_S))
    replace(section["ca"], x.to_pem(aged))


def swapped(section: dict[str, Path], fleet: Fleet) -> None:
    certificate, key = section["certificate"].read_bytes(), section["key"].read_bytes()
    replace(section["certificate"], key)
    replace(section["key"], certificate, OWNER_ONLY)


CASES: dict[str, tuple[Spoil, str, str]] = {
    "expired": (lambda s, f: pair(s, f, -3), "tls.certificate", r" expired on .*renew it.*this machine's clock"),
    "clock off": (lambda s, f: pair(s, f, 3), "tls.certificate", r"is not valid before .*set this machine's clock"),
    "other key": (lambda s, f: replace(s["key"], x.key_to_pem(x.new_key()), 0o600), "tls.key", "is not the key of"),
    "open key": (lambda s, f: s["key"].chmod(0o644), "tls.key", r"open to everybody \(mode 644\); run `chmod 600"),
    "no key": (lambda s, f: s["key"].unlink(), "tls.key", "cannot read .*No such file"),
    "no certificate": (lambda s, f: s["certificate"].unlink(), "tls.certificate", "cannot read .*No such file"),
    "no CA": (lambda s, f: s["ca"].unlink(), "tls.ca", "cannot read .*No such file"),
    "no PEM": (lambda s, f: replace(s["certificate"], b"hello"), "tls.certificate", "is not in PEM.*openssl x509"),
    "key no PEM": (lambda s, f: replace(s["key"], b"0\x82", 0o600), "tls.key", "is not in PEM.*openssl pkey"),
    "cut PEM": (
        lambda s, f: replace(s["certificate"], s["certificate"].read_bytes()[:90]),
        "tls",
        "not a certificate and an unencrypted key",
    ),
    "empty": (lambda s, f: replace(s["certificate"], b""), "tls.certificate", "is empty; copy it again"),
    "empty key": (lambda s, f: replace(s["key"], b"", 0o600), "tls.key", "is empty; copy it again"),
    "swapped": (swapped, "tls", "is a key and .* a certificate; exchange them"),
    "encrypted": (
        lambda s, f: replace(s["key"], b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 0o600),
        "tls.key",
        "is encrypted.*openssl pkey",
    ),
    "CA no PEM": (lambda s, f: replace(s["ca"], b"\xff"), "tls.ca", "holds no certificate in PEM"),
    "CA emptied": (lambda s, f: replace(s["ca"], b""), "tls.ca", "holds no certificate in PEM"),
    "CA a device's": (lambda s, f: replace(s["ca"], s["certificate"].read_bytes()), "tls.ca", "holds no CA's"),
    "other CA": (
        lambda s, f: replace(s["ca"], x.to_pem(x.make_ca("x", x.new_key(), days=9, now=x.utc(time.time())))),
        "tls.certificate",
        "is not of a CA in .*name its CA",
    ),
    "old CA": (old_ca, "tls.ca", "expired on .*make a new CA"),
    "bad deny-list": (lambda s, f: s["deny"].write_text("#\nx\n"), "tls.deny", "line 2: 'x' is not a serial number"),
    "emptied deny-list": (lambda s, f: s["deny"].write_text(""), "tls.deny", "it is empty or cut; copy the deny-list"),
    "no deny-list": (lambda s, f: s["deny"].unlink(), "tls.deny", "cannot read .*No such file"),
    "bad identities": (lambda s, f: s["identities"].write_text("a: b"), "tls.identities", "is not ROLE/NAME"),
}  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("case", CASES)
async def test_wrong_files_are_one_line(models: Path, fleet: Fleet, tmp_path: Path, case: str) -> None:
    """Which key of the YAML, which file, what to do; `escalade config check` finds the same."""
    section = {part: Path(file) for part, file in fleet.copied("server-1", tmp_path).items()}
    section |= {"deny": tmp_path / "denied.txt", "identities": tmp_path / "identities.yaml"}
    replace(section["deny"], b"# revoked\n")
    replace(section["identities"], b"escalade://edge-server/server-1: edge-server/server-1\n")
    spoil, key, says = CASES[case]
    spoil(section, fleet)
    config: dict[str, Any] = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx"), "name": "m"}}
    server = EdgeServer.from_config({**config, "tls": {p: str(f) for p, f in section.items()}})
    with pytest.raises(ConfigError, match=says) as caught:
        await server.start()
    with pytest.raises(ConfigError) as checked:
        server.check()
    assert (checked.value.key, checked.value.message) == (key, caught.value.message)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_clock_that_is_behind_is_worth_another_try(
    models: Path, fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exit code of its own: systemd starts again what ends with it, and not what ends with 2."""
    monkeypatch.setattr("escalade.cli.serve.configure_logs", lambda _: None)  # of the whole process
    section = {part: Path(file) for part, file in fleet.copied("server-1", tmp_path).items()}
    pair(section, fleet, 3)
    tls = {part: str(file) for part, file in section.items()}
    config = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx")}, "tls": tls}
    (tmp_path / "tier.yaml").write_text(yaml.safe_dump(config))
    assert main(["serve", "edge-server", "--config", str(tmp_path / "tier.yaml")]) == TRY_LATER
    assert "set this machine's clock" in capsys.readouterr().err
    units = Path(__file__).parents[3] / "examples" / "systemd"
    for unit in units.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert "RestartPreventExitStatus=2" in lines
        assert {"Restart=always", "UMask=0077", "After=network-online.target time-sync.target"} <= {*lines}


def test_a_comment_in_any_language_may_stand_beside_a_ca(fleet: Fleet, tmp_path: Path) -> None:
    """As openssl writes the names that a certificate has."""
    section = fleet.copied("server-1", tmp_path)
    ca = Path(section["ca"])
    replace(ca, "# Prüfstelle Süd\n".encode() + ca.read_bytes())
    assert check_tls(TlsConfig.model_validate(section), time.time()).hosts


def test_a_certificate_says_what_it_is(fleet: Fleet) -> None:
    """As the standard library reads it after a handshake with oneself; a group may read the key."""
    config = TlsConfig.model_validate(fleet.tls("server-1"))
    facts = check_tls(config, time.time())
    assert facts.uris == ("escalade://edge-server/server-1",)
    assert facts.dns_names == ("localhost",)
    assert facts.serial == x.facts_of(x.from_pem(config.certificate.read_bytes())).serial
    assert 360 < (facts.not_after - time.time()) / DAY_S < 366


@pytest.mark.asyncio
async def test_a_device_that_is_written_otherwise_is_refused(models: Path, fleet: Fleet) -> None:
    """The tiers above would refuse all that it asks."""
    config = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx")}, "tls": fleet.tls("server-1")}
    with pytest.raises(ConfigError, match="'other' is 'server-1' by its certificate") as caught:
        await EdgeServer.from_config({**config, "device": "other"}).start()
    assert caught.value.key == "device"


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        (
            "my-viewer",
            {},
            "viewer/my-viewer may not ask the tier above; .* of endpoint, edge-node, edge-s",
        ),
        ("my-operator", {"outbox": {"file": "o.db", "results": True}}, "may not report to the tier above"),
        ("my-edge-server", {"aggregate": {"address": "127.0.0.1:1", "node": "my-edge-server"}}, "to an aggregator"),
    ],
)
def test_a_certificate_of_a_role_that_may_not_ask_is_refused(
    models: Path, fleet: Fleet, name: str, more: dict[str, Any], says: str
) -> None:
    """With the roles that may; where plaintext is written nothing is asked of it."""
    above = {"address": "127.0.0.1:1"}
    config = {"tier": "edge_node", "model": {"file": str(models / "sure.onnx")}, "policy": {"name": "AlwaysAccept"}}
    with pytest.raises(ConfigError, match=says) as caught:
        EdgeNode.from_config({**config, **more, "tls": fleet.tls(name), "upstream": above}).check()
    assert caught.value.key == "tls.certificate"
    EdgeNode.from_config({**config, "tls": fleet.tls(name), "upstream": {**above, "insecure": True}}).check()


@pytest.mark.parametrize(
    ("name", "says"),
    [("server-1", None), ("my-viewer", "viewer/my-viewer's, and it serves as edge_server"), ("", "no role")],
)
def test_a_certificate_of_another_role_is_said_at_start(
    models: Path, fleet: Fleet, tmp_path: Path, name: str, says: str | None
) -> None:
    """So is one that names nobody; neither is refused, for tiers that serve are asked for their hosts alone."""
    section = fleet.tls(name or "server-1")
    if not name:
        (tmp_path / "identities.yaml").write_text("other.example: edge-server/other\n")
        section["identities"] = str(tmp_path / "identities.yaml")
    config = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx")}, "tls": section}
    server = EdgeServer.from_config(config)
    with structlog.testing.capture_logs() as lines:
        Security(server.config, TlsConfig.model_validate(section))
    assert [line["event"] for line in lines if says and says in line["event"]] == [line["event"] for line in lines]
    assert bool(lines) == bool(says)


def test_config_check_says_who_a_tier_is(
    models: Path, fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its certificate, where it may serve and until when; and a mistake with the line of the file."""
    monkeypatch.setattr("escalade.cli.config.configure_logs", lambda _: None)  # of the whole process
    file, config = tmp_path / "tier.yaml", {"tier": "edge_server", "model": {"file": str(models / "sure.onnx")}}
    for name, says in (("server-1", "at localhost, 127.0.0.1"), ("my-endpoint", "names no host: it can ask")):
        file.write_text(yaml.safe_dump({**config, "tls": fleet.tls(name)}))
        assert main(["config", "check", str(file)]) == 0
        said = capsys.readouterr().out.splitlines()[1]
        assert f"/{name}, {says}" in said
        assert re.search(r"until 20\d\d-\d\d-\d\d$", said)
    file.write_text(yaml.safe_dump({**config, "tls": fleet.tls("server-1", key=fleet.tls("node-1")["key"])}))
    assert main(["config", "check", str(file)]) == 2
    assert re.search(r"tier.yaml:\d+: tls.key: .* is not the key of", capsys.readouterr().err)


@pytest.mark.parametrize(
    "section",
    [
        {"listen": {"address": "0.0.0.0:1"}},
        {"upstream": {"address": "GATEWAY:1"}, "policy": {"name": "AlwaysEscalate"}},
        {"upstream": {"address": "[::1]:1"}, "policy": {"name": "AlwaysEscalate"}, "fallbacks": [{"address": "b:1"}]},
    ],
    ids=["listen", "upstream", "fallbacks"],
)
def test_plaintext_beyond_the_loopback_is_refused_unless_it_is_written(section: dict[str, Any]) -> None:
    """There, and not somewhere else."""
    config = {"tier": "edge_node", "model": {"file": "m.onnx"}, **section}
    name = next(name for name in ("fallbacks", "upstream", "listen") if name in section)
    with pytest.raises(ConfigError, match="is not on this machine, and there is no `tls:`") as caught:
        EdgeServer.from_config(config)
    assert caught.value.key == name
    assert caught.value.message.startswith(("0.0.0.0:1 is", "GATEWAY:1 is", "b:1 is"))
    if name == "fallbacks":
        allowed = {**config, name: [{**section[name][0], "insecure": True}]}
    else:
        allowed = {**config, name: {**section[name], "insecure": True}}
    with pytest.raises(ConfigError, match="configuration of an edge-node"):
        EdgeServer.from_config(allowed)
    files = {"certificate": "c", "key": "k", "ca": "a"}
    with pytest.raises(ConfigError, match="configuration of an edge-node"):
        EdgeServer.from_config({**config, "tls": files})


@pytest.mark.parametrize("tls", [{}, {"tls": {"certificate": "c", "key": "k", "ca": "a"}}], ids=["plaintext", "tls"])
def test_metrics_beyond_the_loopback_are_refused_unless_it_is_written(tls: dict[str, Any]) -> None:
    """They are plain HTTP whatever else speaks TLS, and name devices and addresses."""
    config = {"tier": "edge_node", "model": {"file": "m.onnx"}, **tls}
    with pytest.raises(ConfigError, match=r"metrics are plain HTTP; .* or add `insecure: true`") as caught:
        EdgeNode.from_config({**config, "metrics": {"address": "0.0.0.0:9464"}})
    assert caught.value.key == "metrics"
    EdgeNode.from_config({**config, "metrics": {"address": "0.0.0.0:9464", "insecure": True}})
    EdgeNode.from_config({**config, "metrics": {"address": "127.0.0.1:9464"}})


def test_an_unknown_authority_folder_is_said(tmp_path: Path) -> None:
    """With the command that makes one."""
    from escalade.tiers.errors import SetupError

    with pytest.raises(SetupError, match="escalade pki init"):
        Authority(tmp_path)
    with pytest.raises(SetupError, match="no name"):
        Authority.init(tmp_path / "ca", "x").sign(Identity("viewer", "../x"), b"", (), 1)
