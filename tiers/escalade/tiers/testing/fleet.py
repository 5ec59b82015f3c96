"""A CA and certificates for tests, made in a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.files import OWNER_ONLY, write_new
from escalade.tiers.roles import ROLES
from escalade.tiers.tls_config import TlsConfig

if TYPE_CHECKING:
    from escalade.tiers.roles import Role

DAY_S = 86400.0


class Fleet:
    """A CA, the tiers `server-1` and `node-1` on the loopback, and `my-ROLE` for every role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.init(folder / "ca", "test")
        self.ca = folder / "ca" / "ca.crt"
        self.authority.issue(Identity("edge-server", "server-1"), hosts=["127.0.0.1", "localhost"])
        self.authority.issue(Identity("edge-node", "node-1"), hosts=["127.0.0.1"])
        for role in ROLES:
            self.authority.issue(Identity(role, f"my-{role}"))

    def tls(self, name: str, **more: Any) -> dict[str, Any]:
        """Return a tier's `tls:` section."""
        issued = self.folder / "ca" / "issued"
        files = {"certificate": issued / f"{name}.crt", "key": issued / f"{name}.key", "ca": self.ca}
        return {key: str(value) for key, value in {**files, **more}.items()}

    def client(self, name: str) -> TlsConfig:
        """Return the same as `Client` takes it."""
        return TlsConfig.model_validate(self.tls(name))

    def credentials(self, name: str) -> grpc.ChannelCredentials:
        """Return the same as gRPC takes it."""
        config = self.client(name)
        return grpc.ssl_channel_credentials(
            *(file.read_bytes() for file in (config.ca, config.key, config.certificate))
        )

    def made(self, role: Role, *, shift_days: float = 0, authority: Authority | None = None) -> tuple[bytes, bytes]:
        """Return a new key and a certificate for one day, as PEM; `shift_days`: of a clock that is so wrong."""
        key = x.new_key()
        authority = authority or self.authority
        skewed = Authority(authority.folder, clock=lambda: time.time() + shift_days * DAY_S)
        pem, _ = skewed.sign(Identity(role, f"my-{role}"), x.make_request("x", key), (), days=1)
        return x.key_to_pem(key), pem

    def copied(self, name: str, folder: Path) -> dict[str, str]:
        """Return a `tls:` section with copies of a name's files, for a test that changes them."""
        section = self.tls(name)
        copies = {}
        for part, file in section.items():
            copies[part] = str(folder / f"{name}.{part}")
            write_new(folder / f"{name}.{part}", Path(file).read_bytes(), OWNER_ONLY)
        return copies
