from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.config_types import is_loopback
from escalade.tiers.errors import ForbiddenError
from escalade.tiers.identity import (
    NAME,
    SPEAKER,
    Identity,
    Speaker,
    identity_of,
    may_hear_of,
    parse_identity,
    read_denied,
    read_identities,
    speaking_for,
)
from escalade.tiers.pki import certificates as x
from escalade.tiers.roles import ROLES, TABLE, scope_of
from escalade.tiers.wire.certificates import serial_and_end

CAMERA = Identity("endpoint", "cam-1")


@given(st.sampled_from(ROLES), st.from_regex(NAME, fullmatch=True))
def test_an_identity_reads_back_as_it_was_written(role: str, name: str) -> None:
    """With its scheme and without."""
    identity = Identity(role, name)  # type: ignore[arg-type]  # one of them
    assert parse_identity(str(identity)) == parse_identity(f"{role}/{name}") == identity


@pytest.mark.parametrize(
    "text",
    ["", "endpoint", "endpoint/", "/cam", "admin/cam", "endpoint/a/b", "endpoint/../x", "endpoint/ a", "Endpoint/a",
     "escalade://endpoint/-a", "endpoint/a\n", "endpoint/" + "a" * 128],
)  # fmt: skip
def test_what_is_not_a_role_and_a_name_is_nobody(text: str) -> None:
    """Names stand in files and logs: nothing that means something there."""
    assert parse_identity(text) is None


def test_two_names_are_no_identity() -> None:
    """Nor is a name of another scheme; the same one twice is one."""
    assert identity_of(["escalade://endpoint/cam-1", "https://x.example"], []) == CAMERA
    assert identity_of(["escalade://endpoint/cam-1"] * 2, []) == CAMERA
    assert identity_of(["escalade://endpoint/cam-1", "escalade://viewer/eve"], []) is None
    assert identity_of([], ["escalade://endpoint/cam-1"]) is None


def test_a_mapping_alone_says_who_is_who() -> None:
    """By URI or DNS name; what stands not in it is nobody, though it calls itself one of ours."""
    mapping = read_identities("cam.example: endpoint/cam-1\nspiffe://plant/n: edge-node/n")
    assert identity_of([], ["cam.example"], mapping) == CAMERA
    assert identity_of(["spiffe://plant/n"], [], mapping) == Identity("edge-node", "n")
    assert identity_of(["escalade://operator/root"], [], mapping) is None
    assert identity_of(["spiffe://plant/n"], ["cam.example"], mapping) is None


@pytest.mark.parametrize("text", ["[1]", "a: b", "a: admin/x", "a: {b: c}", "a: [", "[" * 20_000])
def test_a_wrong_mapping_is_refused(text: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(ValueError, match=r"mapping|ROLE/NAME|YAML"):
        read_identities(text)


@given(st.lists(st.integers(min_value=0, max_value=2**160)))
def test_a_deny_list_reads_back(serials: list[int]) -> None:
    """Whatever comments and blank lines stand between."""
    text = "# revoked\n\n" + "".join(f"{serial:X}  # x\n" for serial in serials)
    assert read_denied(text) == frozenset(serials)


def test_a_line_that_is_no_serial_number_is_refused() -> None:
    """For what it would have revoked is not known."""
    with pytest.raises(ValueError, match="line 2: 'cam-1'"):
        read_denied("# revoked\ncam-1\n")


@pytest.mark.parametrize("text", ["", "\n", "0A\n", "# revoked\n0A", "# revo"])
def test_what_is_left_of_a_deny_list_is_refused(text: str) -> None:
    """Emptied, without its first line, or without the end of its last: it would let the revoked back in."""
    with pytest.raises(ValueError, match=r"cut.* copy the deny-list anew"):
        read_denied(text)


def test_who_may_speak_for_whom() -> None:
    """OWN: itself, said or not; ANY: whomever it names; without a speaker nothing is checked."""
    told: list[int] = []
    own, any_device = Speaker(CAMERA, "own", lambda: told.append(1)), Speaker(Identity("edge-node", "n"), "any")
    assert own.device("") == own.device("cam-1") == "cam-1"
    with pytest.raises(ForbiddenError, match="escalade://endpoint/cam-1 may not speak for another device"):
        own.device("cam-2")
    assert told == [1]
    assert (any_device.device(""), any_device.device("cam-2")) == ("n", "cam-2")
    assert speaking_for("cam-2") == "cam-2"
    token = SPEAKER.set(own)
    try:
        assert speaking_for("") == "cam-1"
        assert (may_hear_of("cam-1"), may_hear_of("cam-2")) == (True, False)
    finally:
        SPEAKER.reset(token)
    assert may_hear_of("cam-2")


def test_what_stands_not_in_the_table_is_refused() -> None:
    """An unknown call, and a role without an entry."""
    assert scope_of("/escalade.protos.v1.Tier/New", "operator") is None
    assert scope_of("/escalade.protos.v1.Tier/GetStatus", "endpoint") is None
    assert all(set(row) <= set(ROLES) for row in TABLE.values())


@pytest.mark.parametrize(
    ("address", "inside"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("10.0.0.1:1", False), ("localhost.example:1", False)],
)  # fmt: skip
def test_what_cannot_leave_the_machine(address: str, inside: bool) -> None:
    """The loopback, by number or by its name."""
    assert is_loopback(address) is inside


@pytest.mark.parametrize("year", [1999, 2030, 2060])
def test_a_certificate_is_read_as_cryptography_reads_it(year: int) -> None:
    """Its serial number and its end, in both ways in which a time is written."""
    made = x.make_ca("x", x.new_key(), days=30, now=datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert serial_and_end(x.to_pem(made)) == (made.serial_number, made.not_valid_after_utc.timestamp())
