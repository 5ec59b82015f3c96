"""Both ends of an enrolment: a device makes its key, shows its token, and is given a certificate for the key."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import structlog

from escalade.tiers.errors import ForbiddenError, SetupError, UnavailableError
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import OWNER_ONLY, read, write_new

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from escalade.tiers.pki.authority import Authority
    from escalade.tiers.pki.tokens import Token

log = structlog.get_logger(__name__)

QUIET_S = 10.0
"""Between two lines in the log about refusals: anybody on the network can cause them."""
REFUSED = "the token is not good: wrong, used already, or too old; make another with `escalade pki token`"


class Enroller:
    """Signs requests of devices that hold a token.

    Parameters
    ----------
    clock:
        Seconds, never going back.
    """

    def __init__(self, authority: Authority, clock: Callable[[], float] = time.monotonic) -> None:
        self._authority, self._clock = authority, clock
        self._said_at, self._since = -inf, 0

    def enrol(self, name: str, secret: bytes, request: bytes) -> tuple[bytes, bytes]:
        """Return the certificate for the request's key and the CA's; the token is used up by it.

        Raises
        ------
        ForbiddenError
            The token is not good. Which of its faults it has is not told.
        InputError
            The request is none. The token is good still.
        UnavailableError
            The CA cannot issue; its log says why. The token is good still.
        """
        try:
            pem = self._authority.enrol(name, secret, request)
            ca = self._authority.ca_pem
        except SetupError as error:
            log.error("cannot enrol", name=name[:128], error=str(error))
            raise UnavailableError("the CA cannot issue at the moment; its log says why") from error
        if pem is None:
            self._say_refused(name)
            raise ForbiddenError(REFUSED)
        return pem, ca

    def _say_refused(self, name: str) -> None:
        now = self._clock()
        if now < self._said_at + QUIET_S:
            self._since += 1
            return
        log.warning("enrolment refused", name=name[:128], before=self._since)
        self._said_at, self._since = now, 0


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
