"""A small CA in a folder: its key and certificate, what it issued, what is revoked, and a log of it all.

::

    ca.key  ca.crt       the CA; only ca.crt ever leaves the folder
    issued/NAME.crt      the newest certificate of each name; NAME.key too, when the key was made here
    replaced/NAME/       those it had before, as SERIAL.crt: revoking a name revokes them too
    denied.txt           serial numbers of revoked certificates, for `tls.deny`
    tokens/NAME.json     one-time tokens that are not used yet
    audit.log            who was issued, renewed, enrolled, revoked; see `audit`
    .lock                held while any of it is changed, so that acts at the same time lose nothing

What is done is written into the log first; what cannot be written there is not done, and what fails after that has
a second line, `failed`.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers import audit
from escalade.tiers.errors import InputError, SetupError
from escalade.tiers.identity import NAME, Identity, read_denied
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import OWNER_ONLY, locked, read, replace, write_new
from escalade.tiers.pki.noted import LOG, noted, one_line
from escalade.tiers.pki.tokens import Grant, Token, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


ENROLMENT = Identity("viewer", "enrolment")
"""Who the server of enrolments is."""
_SERIAL = re.compile(r"[0-9A-Fa-f]{1,64}")


class Issued(NamedTuple):
    """What was made for a name: its certificate's file, and its key's where that was made too."""

    certificate: Path
    key: Path | None
    facts: x.Facts


class Revoked(NamedTuple):
    """What is worth nothing from now on: serial numbers that were not on the deny-list, and a token."""

    serials: list[int]
    token: bool


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
        self.tokens = Tokens(folder / "tokens")
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
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise SetupError(f"{folder}: cannot be made: {error.strerror}") from error
        with locked(folder):
            for file in (folder / "ca.key", folder / "ca.crt"):
                if file.exists():
                    raise SetupError(f"{file} exists and is not overwritten; name another folder")
            with noted(folder / LOG, clock, "ca made", name=name, serial=x.facts_of(certificate).serial_hex):
                write_new(folder / "ca.key", x.key_to_pem(key), OWNER_ONLY)
                write_new(folder / "denied.txt", b"# serial numbers of revoked certificates\n")
                write_new(folder / "ca.crt", x.to_pem(certificate))
        return cls(folder, clock)

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
        with locked(self.folder):
            if certificate.exists() or key.exists():
                raise SetupError(
                    f"{identity.name} has a certificate: {certificate} is not overwritten; `escalade pki renew` it, or "
                    "revoke it first"
                )
            own = x.new_key() if request is None else None
            pem, facts = self.sign(identity, x.make_request(identity.name, own) if own else request or b"", hosts, days)
            with self._certified("issued", facts):
                write_new(certificate, pem)
                if own:
                    try:
                        write_new(key, x.key_to_pem(own), OWNER_ONLY)
                    except SetupError:
                        certificate.unlink()
                        raise
                self.tokens.use_up(identity.name)
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
        with locked(self.folder):
            old = self._find(name)
            facts = x.facts_of(old)
            if facts.identity is None:
                raise SetupError(f"{self._certificate_file(name)} names no identity; issue it anew")
            if facts.serial in self.denied:
                raise SetupError(f"{name} is revoked; issue it anew, with a new key")
            pem, renewed = self._sign(facts.identity, x.public_key_of(old), facts.hosts, days)
            with self._certified("renewed", renewed, instead_of=facts.serial_hex):
                self._replaced(name).mkdir(parents=True, exist_ok=True)
                replace(self._replaced(name) / f"{facts.serial_hex}.crt", x.to_pem(old))
                replace(self._certificate_file(name), pem)
        key = self._key_file(name)
        return Issued(self._certificate_file(name), key if key.exists() else None, renewed)

    def revoke(self, which: str, reason: str = "") -> Revoked:
        """Put every certificate of a name, or a serial number in hexadecimal, on the deny-list; cancel a name's token.

        The deny-list is on the disk before anything else is changed. Then the name's files are set aside, so that it
        can be issued anew.

        Raises
        ------
        SetupError
            The CA knows no such name, and never issued such a serial number.
        """
        reason = one_line(reason)
        with locked(self.folder):
            is_name = NAME.fullmatch(which) is not None
            known = is_name and (self.has(which) or self._replaced(which).exists())
            token = is_name and self.tokens.is_open(which)
            serials = self._serials_of(which) if known else [] if token else [self._issued_serial(which)]
            denied = self.denied
            new = [serial for serial in serials if serial not in denied]
            with ExitStack() as acts:
                for serial in new:
                    acts.enter_context(self._act("revoked", serial=f"{serial:X}", name=which, reason=reason))
                if token:
                    acts.enter_context(self._act("token revoked", name=which, reason=reason))
                if new:
                    self._deny(new, " ".join(f"{which} {reason}".split()))
                if token:
                    self.tokens.use_up(which)
                if known:
                    self._set_aside(which)
        return Revoked(new, token)

    def make_token(self, grant: Grant, address: str, hours: float) -> Token:
        """Return a token for a name that has no certificate, in place of one that it had; good for so long."""
        name = grant.identity.name
        x.check_hosts(grant.hosts)
        with locked(self.folder):
            if self.has(name):
                raise SetupError(f"{name} has a certificate; `escalade pki revoke {name}` first")
            with self._act("token made", identity=str(grant.identity), hours=f"{hours:g}"):
                until = self._clock() + hours * 3600
                return self.tokens.make(grant, address, self.ca_pem, good_until=until)

    def enrol(self, name: str, secret: bytes, request: bytes) -> bytes | None:
        """Return a certificate for the request's key to who shows the name's token, which is used up by it.

        None: the token is not good.

        Raises
        ------
        InputError
            The request is none; the token is good still.
        SetupError
            The CA cannot sign, or cannot write; the token is good still.
        """
        if self.tokens.look(name, secret, self._clock()) is None:
            return None
        with locked(self.folder):
            grant = self.tokens.look(name, secret, self._clock())
            if grant is None or self.has(name):
                return None
            try:
                public = x.requested_key(request)
            except ValueError as error:
                raise InputError(f"not a certificate signing request that can be signed: {error}") from error
            pem, facts = self._sign(grant.identity, public, grant.hosts, grant.days)
            with self._certified("enrolled", facts):
                write_new(self._certificate_file(name), pem)
                self.tokens.use_up(name)
        return pem

    def issue_enrolment(self, request: bytes, hosts: Sequence[str], days: float) -> bytes:
        """Return a certificate for the server of enrolments; it is kept, so that `revoke` knows it.

        The one before is set aside. SetupError when somebody was issued that name with a key.
        """
        name = ENROLMENT.name
        with locked(self.folder):
            if self._key_file(name).exists():
                raise SetupError(f"{name!r} is the name of `escalade pki serve`; revoke it, and issue another name")
            pem, facts = self.sign(ENROLMENT, request, hosts, days)
            with self._certified("issued", facts):
                self._set_aside(name)
                write_new(self._certificate_file(name), pem)
        return pem

    def certificates(self) -> list[tuple[Path, x.Facts]]:
        """Return the newest certificate of each name, the one that ends first before the others."""
        files = (self.folder / "issued").glob("*.crt")
        found = [(file, x.facts_of(self._find(file.stem))) for file in files]
        return sorted(found, key=lambda one: (one[1].not_after, one[0]))

    @property
    def denied(self) -> frozenset[int]:
        """The deny-list."""
        try:
            return read_denied(read(self.folder / "denied.txt").decode())
        except ValueError as error:
            raise SetupError(f"{self.folder / 'denied.txt'}: {error}") from error

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

    def _serials_of(self, name: str) -> list[int]:
        """Return the serial numbers of all certificates that a name has had."""
        serials = [int(file.stem, 16) for file in sorted(self._replaced(name).glob("*.crt"))]
        return [*serials, x.facts_of(self._find(name)).serial] if self.has(name) else serials

    def _issued_serial(self, text: str) -> int:
        """Return a serial number that this CA has given; SetupError for what is none, such as a mistyped name."""
        digits, log = text.replace(":", ""), self.folder / LOG
        if _SERIAL.fullmatch(digits):
            serial = int(digits, 16)
            name = f"{serial:X}"
            if (
                serial in self.denied
                or any(audit.has(log, what, serial=name) for what in ("issued", "renewed", "enrolled"))
                or any((self.folder / "replaced").glob(f"*/{name}.crt"))
                or any(facts.serial == serial for _, facts in self.certificates())
            ):
                return serial
        raise SetupError(
            f"{text!r} is neither a name in {self.folder / 'issued'} nor a serial number that this CA has "
            f"given; `escalade pki inspect` shows both. One of another CA's is added to {self.folder / 'denied.txt'} "
            "by hand"
        )

    def _deny(self, serials: list[int], why: str) -> None:
        file = self.folder / "denied.txt"
        text = read(file).decode()
        lines = "".join(f"{serial:X}  # {why}\n" for serial in serials)
        replace(file, (text + ("" if text.endswith("\n") else "\n") + lines).encode())

    def _set_aside(self, name: str) -> None:
        """Move a name's files to where those are that others replaced."""
        certificate, key = self._certificate_file(name), self._key_file(name)
        if not certificate.exists():
            return
        aside, serial = self._replaced(name), x.facts_of(self._find(name)).serial_hex
        try:
            aside.mkdir(parents=True, exist_ok=True)
            if key.exists():
                key.rename(aside / f"{serial}.key")
            certificate.rename(aside / f"{serial}.crt")
        except OSError as error:
            raise SetupError(f"{certificate}: cannot be moved to {aside}: {error.strerror}") from error

    def _replaced(self, name: str) -> Path:
        return self.folder / "replaced" / name

    def _certificate_file(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.crt"

    def _key_file(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.key"

    @contextmanager
    def _certified(self, what: str, facts: x.Facts, **about: str) -> Iterator[None]:
        """Note that a certificate is made, around its making."""
        until = str(facts.not_after)
        with self._act(what, identity=str(facts.identity), serial=facts.serial_hex, until=until, **about):
            yield

    def _act(self, what: str, **about: str) -> AbstractContextManager[None]:
        return noted(self.folder / LOG, self._clock, what, **about)
