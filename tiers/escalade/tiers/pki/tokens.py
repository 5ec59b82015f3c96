"""One-time tokens: what a device shows to be given a certificate.

A token says where to enrol, under which name, which CA to believe, and holds a secret of 256 bits. The CA keeps
the secret's SHA-256, what the certificate will say, and until when the token is good; the device cannot ask for more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers.config_types import host_port
from escalade.tiers.errors import SetupError
from escalade.tiers.identity import NAME, Identity, parse_identity
from escalade.tiers.pki.files import OWNER_ONLY, read, replace

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES = 32


class Token(NamedTuple):
    """What a device is given."""

    address: str
    name: str
    secret: bytes
    ca: str
    """The CA's certificate, PEM."""

    def to_text(self) -> str:
        """Return it as one line."""
        parts = {**self._asdict(), "secret": self.secret.hex()}
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def token_from_text(text: str) -> Token:
    """Return the token of a line; SetupError when it is none."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(text.strip()))
        token = Token(parts["address"], parts["name"], bytes.fromhex(parts["secret"]), parts["ca"])
        host_port(token.address)
        if not NAME.fullmatch(token.name) or not isinstance(token.ca, str):
            raise ValueError("name or CA")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError("this is no token; give the whole line that `escalade pki token` wrote") from error
    return token


class Grant(NamedTuple):
    """What a token is good for."""

    identity: Identity
    hosts: tuple[str, ...]
    days: float


class Tokens:
    """Tokens that are not used yet, one a name, as files: the last one made for a name is the one that counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, grant: Grant, address: str, ca: bytes, *, good_until: float) -> Token:
        """Return a new token; the secret is kept nowhere."""
        secret = secrets.token_bytes(SECRET_BYTES)
        kept = {
            "sha256": hashlib.sha256(secret).hexdigest(),
            "identity": str(grant.identity),
            "hosts": list(grant.hosts),
            "days": grant.days,
            "good_until": good_until,
        }
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._file(grant.identity.name), json.dumps(kept).encode(), OWNER_ONLY)
        return Token(address, grant.identity.name, secret, ca.decode())

    def look(self, name: str, secret: bytes, now: float) -> Grant | None:
        """Return what a name's token is good for; None when there is none, it is too old, or the secret is another."""
        if not NAME.fullmatch(name):
            return None
        try:
            grant, good_until, digest = _kept(read(self._file(name)))
        except (SetupError, ValueError, KeyError, TypeError):
            return None
        right = secrets.compare_digest(digest, hashlib.sha256(secret).hexdigest())
        return grant if right and now <= good_until else None

    def use_up(self, name: str) -> None:
        """Make a name's token worthless, where it has one; SetupError when that cannot be."""
        file = self._file(name)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise SetupError(f"{file}: cannot be deleted: {error.strerror}") from error

    def is_open(self, name: str) -> bool:
        """Whether a name has a token that is not used, be it too old."""
        return self._file(name).exists()

    def all(self) -> list[tuple[Grant, float]]:
        """Return what the tokens that are not used are good for, and until when, in seconds since the epoch."""
        found = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                grant, good_until, _ = _kept(read(file))
            except (ValueError, KeyError, TypeError) as error:
                raise SetupError(f"{file}: is no token's; delete it") from error
            found.append((grant, good_until))
        return found

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _kept(data: bytes) -> tuple[Grant, float, str]:
    """Return what a token is good for, until when, and its secret's digest."""
    kept = json.loads(data)
    identity = parse_identity(kept["identity"])
    if identity is None:
        raise ValueError("identity")
    grant = Grant(identity, tuple(map(str, kept["hosts"])), float(kept["days"]))
    return grant, float(kept["good_until"]), str(kept["sha256"])
