"""What the CA does when it is asked for nonsense, by several at once, or cannot write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from escalade.tiers import audit
from escalade.tiers.errors import ForbiddenError, SetupError, UnavailableError
from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.enrolment import Enroller
from escalade.tiers.pki.tokens import Grant

CAMERA = Identity("endpoint", "cam-1")


@pytest.mark.parametrize("mistyped", ["nobody", "face", "-5", "AB:CD", "", "caf\udce9"])
def test_what_the_ca_never_gave_is_not_revoked(authority: Authority, mistyped: str) -> None:
    """A mistyped name may read as a serial number: the deny-list stays as it was."""
    authority.issue(CAMERA)
    with pytest.raises(SetupError, match=r"neither a name .* nor a serial number that this CA has given"):
        authority.revoke(mistyped)
    assert authority.denied == frozenset()


REVOKE = """
import sys
from pathlib import Path
from escalade.tiers.pki.authority import Authority
authority = Authority(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
for name in sys.argv[2:]:
    authority.revoke(name)
"""


def test_revocations_at_the_same_moment_are_all_kept(authority: Authority) -> None:
    """By two processes of their own; the log's chain holds, and nothing is left over."""
    names = [f"d{i}" for i in range(24)]
    serials = {authority.issue(Identity("endpoint", name)).facts.serial for name in names}
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([sys.executable, "-c", REVOKE, str(authority.folder), *share], stdin=pipe, stdout=pipe)
        for share in (names[::2], names[1::2])
    ]
    for process in processes:
        assert process.stdout
        with process.stdout as out:
            assert out.readline() == b"ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert authority.denied == serials
    assert audit.verify(authority.folder / "audit.log").trouble == ""
    assert not list(authority.folder.rglob(".*.new"))


def test_a_revocation_that_is_cut_short_has_reached_the_deny_list(authority: Authority) -> None:
    """Before any file is set aside; the log says that it failed, and doing it again finishes it."""
    serial = authority.issue(CAMERA).facts.serial
    in_the_way = authority.folder / "replaced"
    in_the_way.touch()
    with pytest.raises(SetupError, match="cannot be moved"):
        authority.revoke("cam-1")
    assert authority.denied == {serial}
    assert said(authority)[-2:] == ["revoked", "failed"]
    in_the_way.unlink()
    assert authority.revoke("cam-1") == ([], False)
    assert not authority.has("cam-1")


ACTS: dict[str, Callable[[Authority], object]] = {
    "issue": lambda a: a.issue(Identity("operator", "mallory")),
    "renew": lambda a: a.renew("cam-1"),
    "revoke": lambda a: a.revoke("cam-1"),
    "token": lambda a: a.make_token(Grant(Identity("endpoint", "new"), (), 1.0), "ca:1", 1.0),
    "enrolment": lambda a: a.issue_enrolment(x.make_request("x", x.new_key()), ["ca"], 1.0),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_cannot_be_logged_is_not_done(authority: Authority, act: str) -> None:
    """No file is made, changed or moved."""
    authority.issue(CAMERA)
    with (authority.folder / "audit.log").open("a") as log:
        log.write('{"n": 99, "trunc')
    before = everything(authority)
    with pytest.raises(SetupError, match="nothing was done, for it could not be logged"):
        ACTS[act](authority)
    assert everything(authority) == before


def test_an_enrolment_that_cannot_be_logged_leaves_the_token_good(authority: Authority) -> None:
    """The device is told to try again, and not what the CA's disk looks like."""
    token = authority.make_token(Grant(CAMERA, (), 1.0), "ca:1", 1.0)
    request = x.make_request("x", x.new_key())
    whole = (authority.folder / "audit.log").read_bytes()
    (authority.folder / "audit.log").write_bytes(whole[:-5])
    with pytest.raises(UnavailableError, match="cannot issue at the moment"):
        Enroller(authority).enrol("cam-1", token.secret, request)
    (authority.folder / "audit.log").write_bytes(whole)
    assert Enroller(authority).enrol("cam-1", token.secret, request)


@pytest.mark.parametrize("taken_back", ["revoke", "issue", "issue and revoke", "another token"])
def test_a_token_can_be_taken_back(authority: Authority, taken_back: str) -> None:
    """By revoking its name, by issuing it, or by another token."""
    grant, request = Grant(CAMERA, (), 1.0), x.make_request("x", x.new_key())
    token = authority.make_token(grant, "ca:1", 1.0)
    assert [open_.identity for open_, _ in authority.tokens.all()] == [CAMERA]
    if taken_back == "another token":
        authority.make_token(grant, "ca:1", 1.0)
    if taken_back.startswith("issue"):
        authority.issue(CAMERA)
    if taken_back.endswith("revoke"):
        assert authority.revoke("cam-1").token is (taken_back == "revoke")
    with pytest.raises(ForbiddenError):
        Enroller(authority).enrol("cam-1", token.secret, request)


def test_a_reason_of_another_encoding_is_kept_readable(authority: Authority) -> None:
    """A Latin-1 terminal sends bytes that are no UTF-8: the revocation is done all the same."""
    serial = authority.issue(CAMERA).facts.serial
    authority.revoke("cam-1", "gestohlen \udcfc\nAB")
    assert authority.denied == {serial}
    assert "cam-1 gestohlen \\udcfc AB" in (authority.folder / "denied.txt").read_text()


@pytest.mark.parametrize(
    "host", ["gateway.local:8001", "[::1]:8001", "*", "*.local", "", "a b\nc", "\udce9", "a..b", "-a"]
)
def test_a_host_that_no_caller_can_mean_is_refused(authority: Authority, host: str) -> None:
    """Else it ends as a failed handshake; an address copied with its port is told apart."""
    with pytest.raises(SetupError, match="neither the name of one host nor an IP address") as caught:
        authority.issue(CAMERA, hosts=["good.local", host])
    assert ("it has a port, write" in str(caught.value)) == (":8001" in host)
    with pytest.raises(SetupError, match="neither the name of one host"):
        authority.make_token(Grant(CAMERA, (host,), 1.0), "ca:1", 1.0)
    assert said(authority) == ["ca made"]


@pytest.mark.parametrize("name", ["", "\udcfc", "a\nb", "x" * 65])
def test_a_ca_needs_a_name_that_can_be_written(tmp_path: Path, name: str) -> None:
    """Nothing is made without one."""
    with pytest.raises(SetupError, match="is no name of a CA"):
        Authority.init(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_an_empty_request_is_no_request(authority: Authority) -> None:
    """No key is made in its place."""
    with pytest.raises(SetupError, match="not a certificate signing request"):
        authority.issue(CAMERA, request=b"")
    assert not authority.has("cam-1")


def test_the_server_of_enrolments_can_be_revoked(authority: Authority) -> None:
    """All that it ever had, by its name; its key is in no file."""
    pems = [authority.issue_enrolment(x.make_request("x", x.new_key()), ["ca.local"], 1.0) for _ in range(2)]
    serials = {x.facts_of(x.from_pem(pem)).serial for pem in pems}
    assert [file.stem for file, _ in authority.certificates()] == ["enrolment"]
    assert set(authority.revoke("enrolment").serials) == serials
    assert not list(authority.folder.rglob("enrolment*.key"))


def said(authority: Authority) -> list[str]:
    return [json.loads(line)["what"] for line in (authority.folder / "audit.log").read_text().splitlines()]


def everything(authority: Authority) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in authority.folder.rglob("*") if file.is_file()}


def test_refusals_at_the_door_are_logged_once_in_a_while(authority: Authority) -> None:
    """Whatever names strangers make up; the next line says how many there were between."""
    now = [0.0]
    enroller = Enroller(authority, clock=lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        for number in range(1000):
            with pytest.raises(ForbiddenError):
                enroller.enrol(f"x{number}", b"wrong", b"")
        now[0] = 10.0
        with pytest.raises(ForbiddenError):
            enroller.enrol("y", b"wrong", b"")
    assert [(line["name"], line["before"]) for line in lines] == [("x0", 0), ("y", 999)]
