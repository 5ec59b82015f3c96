"""The small CA, as a library and as an operator types it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from cryptography import x509

from escalade.cli.main import main
from escalade.tiers import audit
from escalade.tiers.errors import ForbiddenError, SetupError
from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.enrolment import Enroller, enrol
from escalade.tiers.pki.tokens import Grant, Tokens, token_from_text
from escalade.tiers.testing.fleet import DAY_S, Fleet
from escalade.tiers.testing.processes import TierProcess
from escalade.tiers.wire.enrolment import CONNECTIONS

CAMERA = Identity("endpoint", "cam-1")


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_certificate_is_good_for_what_it_is_needed_and_no_more(authority: Authority) -> None:
    """Without hosts it serves nobody; a year, or to the CA's end; the CA signs no other CA."""
    device = authority.issue(CAMERA)
    server = authority.issue(Identity("edge-server", "s"), hosts=["s.local", "10.0.0.5"], days=9e4)
    assert device.key is not None
    assert (mode(device.key), mode(authority.folder / "ca.key"), mode(authority.folder)) == (0o600, 0o600, 0o700)
    assert server.facts.hosts == ("s.local", "10.0.0.5")
    assert server.facts.not_after == authority.ca_facts.not_after
    assert 364 < (device.facts.not_after.timestamp() - time.time()) / DAY_S < 366
    purposes = []
    for issued in (device, server):
        read = x.from_pem(issued.certificate.read_bytes())
        usage = read.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        purposes.append([one._name for one in usage])
        assert not read.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert purposes == [["clientAuth"], ["clientAuth", "serverAuth"]]
    own = x.from_pem(authority.ca_pem).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (own.critical, own.value.ca, own.value.path_length) == (True, True, 0)


def test_nothing_is_overwritten(authority: Authority) -> None:
    """Neither a CA nor a name's certificate."""
    authority.issue(CAMERA)
    before = {file: file.read_bytes() for file in authority.folder.rglob("*") if file.is_file()}
    with pytest.raises(SetupError, match="exists and is not overwritten"):
        Authority.init(authority.folder, "again")
    with pytest.raises(SetupError, match="escalade pki renew"):
        authority.issue(CAMERA)
    assert before == {file: file.read_bytes() for file in authority.folder.rglob("*") if file.is_file()}


def test_revoking_a_name_revokes_all_its_certificates(authority: Authority) -> None:
    """Those that were renewed too, which its key still fits; then it may be issued anew."""
    first = authority.issue(CAMERA).facts.serial
    second = authority.renew("cam-1").facts.serial
    assert set(authority.revoke("cam-1", "lost # really").serials) == {first, second} == authority.denied
    with pytest.raises(SetupError, match="has no certificate"):
        authority.renew("cam-1")
    third = authority.issue(CAMERA).facts
    assert third.serial not in authority.denied
    assert authority.revoke(third.serial_hex.lower()).serials == [third.serial]
    assert authority.revoke(third.serial_hex) == ([], False)
    assert audit.verify(authority.folder / "audit.log").trouble == ""


def test_a_renewed_certificate_is_of_the_same_key_and_names(authority: Authority) -> None:
    """The device's key is not touched."""
    old = authority.issue(Identity("edge-node", "n"), hosts=["n.local"])
    key = x.key_from_pem(old.key.read_bytes()) if old.key else None
    new = authority.renew("n", days=30)
    assert key is not None
    assert x.belongs(key, x.from_pem(new.certificate.read_bytes()))
    assert (new.facts.identity, new.facts.hosts) == (old.facts.identity, old.facts.hosts)
    assert new.facts.serial != old.facts.serial


def test_a_token_is_good_once_and_for_what_was_granted(authority: Authority, tmp_path: Path) -> None:
    """Even for many at the same moment; a request that asks to be an operator gets what the token says."""
    now = [1e9]
    authority = Authority.init(tmp_path / "then", "then", clock=lambda: now[0])
    tokens, enroller = Tokens(authority.folder / "tokens"), Enroller(authority, clock=lambda: now[0])
    grant = Grant(CAMERA, (), 30.0)
    token = tokens.make(grant, "ca.local:8441", authority.ca_pem, good_until=now[0] + 60)
    assert token_from_text(token.to_text()) == token
    with pytest.raises(SetupError, match="this is no token"):
        token_from_text(token.to_text()[:-9])
    request = x.make_request("escalade://operator/root", x.new_key())

    def attempt(secret: bytes) -> x.Facts | None:
        try:
            return x.facts_of(x.from_pem(enroller.enrol("cam-1", secret, request)[0]))
        except (ForbiddenError, SetupError):
            return None

    assert attempt(b"wrong") is None
    now[0] += 61
    assert attempt(token.secret) is None
    now[0] -= 61
    with ThreadPoolExecutor(8) as pool:
        given = [facts for facts in pool.map(attempt, [token.secret] * 8) if facts]
    assert [facts.identity for facts in given] == [CAMERA]
    assert attempt(token.secret) is None


def test_what_comes_back_from_a_wrong_ca_is_not_kept(
    authority: Authority, strangers: Authority, tmp_path: Path
) -> None:
    """Nor is the key: the folder is as before."""
    token = Tokens(tmp_path / "t").make(Grant(CAMERA, (), 1.0), "x:1", authority.ca_pem, good_until=9e9)

    def call(request: bytes) -> tuple[bytes, bytes]:
        return strangers.sign(CAMERA, request, (), 1)[0], authority.ca_pem

    with pytest.raises(SetupError, match="not ours"):
        enrol(token, tmp_path / "tls", call)
    assert list((tmp_path / "tls").iterdir()) == []


class Typed(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Escalade = Callable[..., Typed]


@pytest.fixture
def escalade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Escalade:
    """Run a command in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("GRPC_VERBOSITY", "GRPC_EXPERIMENTS"):  # the command sets them
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def run(*arguments: str) -> Typed:
        capfd.readouterr()
        code = main(arguments)
        return Typed(code, *capfd.readouterr())

    return run


@pytest.fixture
def enrolment(tmp_path: Path, escalade: Escalade) -> Iterator[str]:
    """`escalade pki init`, then `escalade pki serve`; its address."""
    assert escalade("pki", "init").code == 0
    command = [
        sys.executable,
        "-m",
        "escalade.cli.main",
        "pki",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as out:
        yield out.readline().split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_device_is_brought_in_over_the_network(tmp_path: Path, enrolment: str, escalade: Escalade) -> None:
    """The key is made there and stays there; a second use of the token is refused in one line."""
    made = escalade("pki", "token", "endpoint", "cam-1", "--address", enrolment, "--out", "token")
    assert made.code == 0, made.err
    assert mode(tmp_path / "token") == 0o600
    assert "a token for escalade://endpoint/cam-1, good until" in escalade("pki", "inspect").out
    done = escalade("enroll", "--token", "token", "--folder", "device")
    assert done.code == 0, done.err
    tls = yaml.safe_load(done.out.splitlines()[1])["tls"]
    assert mode(tmp_path / tls["key"]) == 0o600
    key = (tmp_path / tls["key"]).read_bytes()
    assert all(key not in file.read_bytes() for file in (tmp_path / "pki").rglob("*") if file.is_file())
    again = escalade("enroll", "--token", "token", "--folder", "other")
    assert (again.code, "the token is not good" in again.err, len(again.err.splitlines())) == (2, True, 1)
    assert not any((tmp_path / "other").iterdir())
    assert "escalade://endpoint/cam-1, until" in escalade("pki", "inspect").out
    lines = [json.loads(line) for line in (tmp_path / "pki" / "audit.log").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["ca made", "issued", "token made", "enrolled"]
    assert lines[1]["identity"] == "escalade://viewer/enrolment"


def test_connections_to_the_enrolment_are_bounded(enrolment: str) -> None:
    """Those beyond are closed as they come."""
    host, _, port = enrolment.partition(":")
    selector = selectors.DefaultSelector()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS + 20):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            selector.register(connection, selectors.EVENT_READ)
        closed = set[object]()
        while len(closed) < 20:
            found = selector.select(20)
            assert found, f"only {len(closed)} were closed"
            closed |= {key.fileobj for key, _ in found}
        assert len(closed) == 20


def test_what_an_operator_types(tmp_path: Path, escalade: Escalade) -> None:
    """Each says what it made and where to put it; a mistake is one line."""
    assert "a CA until" in escalade("pki", "init", "--folder", "ca").out
    issued = escalade("pki", "issue", "edge-node", "gateway", "--host", "gateway.local", "--folder", "ca")
    assert "escalade://edge-node/gateway at gateway.local, until" in issued.out
    assert "its key, mode 600" in issued.out
    request = x.make_request("gateway-2", x.new_key())
    (tmp_path / "csr").write_bytes(request)
    more = ("--csr", "csr", "--folder", "ca", "--days", "20", "--host", "gateway.local")
    signed = escalade("pki", "issue", "edge-node", "gateway-2", *more)
    assert "gateway is at gateway.local too" in signed.err
    assert (signed.code, (tmp_path / "ca" / "issued" / "gateway-2.key").exists()) == (0, False)
    assert "without a restart" in escalade("pki", "renew", "gateway", "--folder", "ca").out
    assert "none ends within 10 days" in escalade("pki", "renew", "--ending", "10", "--folder", "ca").out
    renewed = escalade("pki", "renew", "--ending", "30", "--folder", "ca").out
    assert ("ca/issued/gateway-2.crt" in renewed, "ca/issued/gateway.crt" in renewed) == (True, False)
    assert escalade("pki", "renew", "--folder", "ca").code == 2
    assert escalade("pki", "revoke", "gateway", "--folder", "ca").out.count("is revoked") == 2
    assert "was revoked already" in escalade("pki", "revoke", "gateway", "--folder", "ca").out
    escalade("pki", "token", "endpoint", "cam-9", "--address", "ca:1", "--folder", "ca")
    assert "worth nothing any more" in escalade("pki", "revoke", "cam-9", "--folder", "ca").out
    assert "2 serial numbers revoked" in escalade("pki", "inspect", "--folder", "ca").out
    checked = escalade("audit", "verify", "ca/audit.log")
    assert (checked.code, "good lines, the last is" in checked.out) == (0, True)
    head = checked.out.split()[-1]
    assert escalade("audit", "verify", "ca/audit.log", "--head", head).code == 0
    for arguments in (["renew", "nobody"], ["revoke", "nobody"], ["issue", "viewer", "../x"], ["inspect", "csr"]):
        wrong = escalade("pki", *arguments, "--folder", "ca")
        assert (wrong.code, len(wrong.err.splitlines())) == (2, 1), wrong


def test_status_of_a_tier_that_speaks_tls(tmp_path: Path, models: Path, fleet: Fleet, escalade: Escalade) -> None:
    """For an operator and a viewer; an endpoint is refused, and a change is in the tier's audit log."""
    log = tmp_path / "audit.log"
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "tls": fleet.tls("server-1"),
        "audit": str(log),
    }
    with TierProcess(config, tmp_path) as server:

        def status(name: str) -> Typed:
            files = fleet.tls(name)
            return escalade("status", server.address, "--tls", files["certificate"], files["key"], files["ca"])

        seen, refused = status("my-viewer"), status("my-endpoint")
    assert f"edge_server server-1 at {server.address}: serving" in seen.out, seen.err
    assert refused.code == 1
    assert "escalade://endpoint/my-endpoint may not call" in refused.err
    assert [json.loads(line)["what"] for line in log.read_text().splitlines()] == [
        "configuration",
        "model",
        "certificate",
    ]
    with TierProcess({**config, "limits": {"max_queue": 7}}, tmp_path):
        pass
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["what"] for line in lines][3:] == ["configuration"]
    assert lines[3]["user"] == os.environ.get("LOGNAME", lines[3]["user"])
    assert (lines[1]["path"], len(lines[1]["sha256"])) == (str(models / "sure.onnx"), 64)
    assert lines[2]["name"] == config["tls"]["certificate"]  # type: ignore[index]
    damaged = log.read_text().replace("server-1", "server-2", 1)
    log.write_text(damaged)
    verdict = escalade("audit", "verify", str(log))
    assert (verdict.code, "line 1 is damaged or was changed" in verdict.err) == (1, True)
