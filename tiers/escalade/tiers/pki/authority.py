"""A small CA in a folder: its key and certificate, what it issued, what is revoked, and a log of it all.

::

    ca.key  ca.crt       the CA; only ca.crt ever leaves the folder
    issued/NAME.crt      the newest certificate of each name; NAME.key too, when the key was made here
    replaced/NAME/       those it had before, as SERIAL.crt: revoking a name revokes them too
    denied.txt           serial numbers of revoked certificates, for `tls.deny`
    tokens/NAME.json     one-time tokens that are not used yet
    audit.log            who was issued, renewed, enrolled, revoked; see `audit`
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers import audit
from escalade.tiers.errors import SetupError
from escalade.tiers.identity import NAME, Identity, read_denied
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import OWNER_ONLY, read, replace, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Issued(NamedTuple):
    """What was made for a name: its certificate's file, and its key's where that was made too."""

    certificate: Path
    key: Path | None
    facts: x.Facts


class Authority:
    """Issues certificates from a folder.

    Parameters
    ----------
    folder:
        As `init` made it; SetupError when it holds no CA.
    clock:
        Seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        if not (folder / "ca.crt").exists():
            raise SetupError(f"{folder} holds no CA; make one with `escalade pki init --folder {folder}`")
        try:
            self._ca, self._key = x.from_pem(self.ca_pem), x.key_from_pem(read(folder / "ca.key"))
        except ValueError as error:
            raise SetupError(f"{folder}: ca.crt and ca.key cannot be used: {error}") from error
        if not x.belongs(self._key, self._ca):
            raise SetupError(f"{folder}: ca.key is not the key of ca.crt")

    @classmethod
    def init(
        cls, folder: Path, name: str, *, days: float = x.CA_DAYS, clock: Callable[[], float] = time.time
    ) -> Authority:
        """Make a CA in a folder that holds none yet."""
        key = x.new_key()
        certificate = x.make_ca(name, key, days=days, now=x.utc(clock()))
        write_new(folder / "ca.key", x.key_to_pem(key), OWNER_ONLY)
        folder.chmod(0o700)
        write_new(folder / "ca.crt", x.to_pem(certificate))
        write_new(folder / "denied.txt", b"# serial numbers of revoked certificates\n")
        authority = cls(folder, clock)
        authority.note("ca made", name=name, serial=x.facts_of(certificate).serial_hex)
        return authority

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate."""
        return read(self.folder / "ca.crt")

    @property
    def ca_facts(self) -> x.Facts:
        """What it says."""
        return x.facts_of(self._ca)

    def issue(
        self,
        identity: Identity,
        *,
        hosts: Sequence[str] = (),
        days: float = x.DEVICE_DAYS,
        request: bytes | None = None,
    ) -> Issued:
        """Make a certificate for a name that has none.

        Parameters
        ----------
        hosts:
            Names and IP addresses by which others reach it; none: it only asks.
        request:
            A signing request, so that the key stays where it was made; default: a key is made here.

        Raises
        ------
        SetupError
            The name has a certificate already, or the request is not one.
        """
        certificate, key = self._certificate_file(identity.name), self._key_file(identity.name)
        if certificate.exists() or key.exists():
            raise SetupError(
                f"{identity.name} has a certificate: {certificate} is not overwritten; `escalade pki renew` it, or "
                "revoke it first"
            )
        own = None if request else x.new_key()
        pem, facts = self.sign(identity, request or x.make_request(identity.name, own or x.new_key()), hosts, days)
        if own:
            write_new(key, x.key_to_pem(own), OWNER_ONLY)
        write_new(certificate, pem)
        self._note_certificate("issued", facts)
        return Issued(certificate, key if own else None, facts)

    def sign(self, identity: Identity, request: bytes, hosts: Sequence[str], days: float) -> tuple[bytes, x.Facts]:
        """Return a certificate for a signing request's key; what else the request says counts for nothing."""
        if not NAME.fullmatch(identity.name):
            raise SetupError(f"{identity.name!r} is no name; use letters, digits, dots, dashes and underscores")
        try:
            public = x.requested_key(request)
        except ValueError as error:
            raise SetupError(f"not a certificate signing request that can be signed: {error}") from error
        return self._sign(identity, public, hosts, days)

    def renew(self, name: str, *, days: float = x.DEVICE_DAYS) -> Issued:
        """Make a new certificate for the key, the role and the hosts that a name has, in place of the old file.

        The old certificate stays valid until it ends; `revoke` it where that must not be.
        """
        old = self._find(name)
        facts = x.facts_of(old)
        if facts.identity is None:
            raise SetupError(f"{self._certificate_file(name)} names no identity; issue it anew")
        if facts.serial in self.denied:
            raise SetupError(f"{name} is revoked; issue it anew, with a new key")
        pem, renewed = self._sign(facts.identity, x.public_key_of(old), facts.hosts, days)
        write_new(self._replaced(name) / f"{facts.serial_hex}.crt", x.to_pem(old))
        replace(self._certificate_file(name), pem)
        self._note_certificate("renewed", renewed, instead_of=facts.serial_hex)
        key = self._key_file(name)
        return Issued(self._certificate_file(name), key if key.exists() else None, renewed)

    def revoke(self, which: str, reason: str = "") -> list[int]:
        """Put every certificate of a name, or one serial number in hexadecimal, on the deny-list; return the numbers.

        The name's files are set aside, so that it can be issued anew.
        """
        if NAME.fullmatch(which) and (self.has(which) or self._replaced(which).exists()):
            self._set_aside(which)
            serials = [int(file.stem, 16) for file in sorted(self._replaced(which).glob("*.crt"))]
        else:
            try:
                serials = [int(which.replace(":", ""), 16)]
            except ValueError:
                text = f"{which!r} is neither a name in {self.folder / 'issued'} nor a serial number"
                raise SetupError(text) from None
        new = [serial for serial in serials if serial not in self.denied]
        if new:
            file, why = self.folder / "denied.txt", " ".join(f"{which} {reason}".split())
            replace(file, read(file) + "".join(f"{serial:X}  # {why}\n" for serial in new).encode())
        for serial in new:
            self.note("revoked", serial=f"{serial:X}", name=which, reason=reason)
        return new

    @property
    def denied(self) -> frozenset[int]:
        """The deny-list."""
        try:
            return read_denied(read(self.folder / "denied.txt").decode())
        except ValueError as error:
            raise SetupError(f"{self.folder / 'denied.txt'}: {error}") from error

    def note(self, what: str, **about: str) -> None:
        """Write a line into the CA's log."""
        audit.append(self.folder / "audit.log", what, self._clock(), **about)

    def enrolled(self, pem: bytes, facts: x.Facts) -> None:
        """Keep the certificate of a device that enrolled, and note it."""
        assert facts.identity is not None
        write_new(self._certificate_file(facts.identity.name), pem)
        self._note_certificate("enrolled", facts)

    def has(self, name: str) -> bool:
        """Whether a name has a certificate that is not revoked."""
        return self._certificate_file(name).exists()

    def _sign(
        self, identity: Identity, public: x.PublicKey, hosts: Sequence[str], days: float
    ) -> tuple[bytes, x.Facts]:
        now = x.utc(self._clock())
        if self.ca_facts.not_after <= now:
            raise SetupError(f"{self.folder / 'ca.crt'} has expired; make a new CA (docs/security.md)")
        made = x.make_certificate(identity, public, ca=self._ca, ca_key=self._key, hosts=hosts, days=days, now=now)
        return x.to_pem(made), x.facts_of(made)

    def _find(self, name: str) -> x.Certificate:
        file = self._certificate_file(name)
        if not file.exists():
            raise SetupError(f"{name} has no certificate in {self.folder / 'issued'}")
        try:
            return x.from_pem(read(file))
        except ValueError as error:
            raise SetupError(f"{file}: {error}") from error

    def _set_aside(self, name: str) -> None:
        """Move a name's files to where those are that others replaced."""
        certificate, key = self._certificate_file(name), self._key_file(name)
        if not certificate.exists():
            return
        aside = self._replaced(name)
        aside.mkdir(parents=True, exist_ok=True)
        serial = x.facts_of(self._find(name)).serial_hex
        if key.exists():
            key.rename(aside / f"{serial}.key")
        certificate.rename(aside / f"{serial}.crt")

    def _replaced(self, name: str) -> Path:
        return self.folder / "replaced" / name

    def _certificate_file(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.crt"

    def _key_file(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.key"

    def _note_certificate(self, what: str, facts: x.Facts, **about: str) -> None:
        self.note(what, identity=str(facts.identity), serial=facts.serial_hex, until=str(facts.not_after), **about)
