"""Both ends of an enrolment: a device makes its key, shows its token, and is given a certificate for the key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from escalade.tiers.errors import ForbiddenError, InputError, SetupError
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import OWNER_ONLY, read, write_new
from escalade.tiers.pki.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from escalade.tiers.pki.authority import Authority
    from escalade.tiers.pki.tokens import Token

log = structlog.get_logger(__name__)

REFUSED = "the token is not good: wrong, used already, or too old; make another with `escalade pki token`"


class Enroller:
    """Signs requests of devices that hold a token.

    Parameters
    ----------
    clock:
        Seconds since the epoch.
    """

    def __init__(self, authority: Authority, clock: Callable[[], float] = time.time) -> None:
        self._authority, self._clock = authority, clock
        self._tokens = Tokens(authority.folder / "tokens")

    def enrol(self, name: str, secret: bytes, request: bytes) -> tuple[bytes, bytes]:
        """Return the certificate for the request's key and the CA's; the token is used up by it.

        Raises
        ------
        ForbiddenError
            The token is not good. Which of its faults it has is not told.
        InputError
            The request is none. The token is good still.
        """
        grant = self._tokens.look(name, secret, self._clock())
        if grant is None:
            log.warning("enrolment refused", name=name[:128])
            raise ForbiddenError(REFUSED)
        try:
            pem, facts = self._authority.sign(grant.identity, request, grant.hosts, grant.days)
        except SetupError as error:
            raise InputError(str(error)) from error
        if self._authority.has(name) or not self._tokens.use_up(name):
            raise ForbiddenError(REFUSED)
        self._authority.enrolled(pem, facts)
        return pem, self._authority.ca_pem


class Enrolled(NamedTuple):
    """The files of a device that is in."""

    certificate: Path
    key: Path
    ca: Path
    facts: x.Facts


def enrol(token: Token, folder: Path, call: Callable[[bytes], tuple[bytes, bytes]]) -> Enrolled:
    """Make a key in `folder`, have its certificate made, and put both and the CA's there.

    The key never leaves the folder. When the enrolment fails it is not left behind.

    Parameters
    ----------
    call:
        Sends a signing request to where the token says; returns the certificate and the CA's.

    Raises
    ------
    SetupError
        There is an identity in the folder already, or what came back does not fit.
    """
    certificate, key, ca = folder / f"{token.name}.crt", folder / f"{token.name}.key", folder / "ca.crt"
    known = ca.exists()
    if certificate.exists() or (known and read(ca).strip() != token.ca.encode().strip()):
        there = certificate if certificate.exists() else ca
        raise SetupError(f"{there} exists and is not overwritten; move it away, or choose another folder")
    own = x.new_key()
    write_new(key, x.key_to_pem(own), OWNER_ONLY)
    try:
        pem, ca_pem = call(x.make_request(token.name, own))
        made, authority = x.from_pem(pem), x.from_pem(token.ca.encode())
        if ca_pem.strip() != token.ca.encode().strip() or not x.issued_by(made, authority) or not x.belongs(own, made):
            raise SetupError(f"{token.address} answered with a certificate that is not ours; is it the right CA?")
        if not known:
            write_new(ca, token.ca.encode())
        write_new(certificate, pem)
    except BaseException:
        key.unlink()
        raise
    return Enrolled(certificate, key, ca, x.facts_of(made))
