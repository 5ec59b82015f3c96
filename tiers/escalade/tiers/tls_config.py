"""The `tls:` section of a tier's YAML, and the rule that plaintext stays on this machine."""

from __future__ import annotations

from pathlib import Path  # pydantic reads it
from typing import Annotated

from pydantic import Field

from escalade.tiers.config_types import Section, is_loopback


class TlsConfig(Section):
    """Certificates, and who is known by them. All files are PEM and are read again when they change."""

    certificate: Path
    """This tier's own, with intermediate ones behind it where there are any."""
    key: Path
    """Its private key, not encrypted, that nobody else can read."""
    ca: Path
    """The CAs whose certificates are believed, of callers and of tiers above."""
    deny: Path | None = None
    """Serial numbers of revoked certificates, one a line in hexadecimal, as `escalade pki revoke` writes them."""
    identities: Path | None = None
    """A YAML mapping from names in certificates of another CA to `ROLE/NAME`. Where it is given, it alone says who
    is who."""
    max_connection_age_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    """Then a caller must connect, and so show its certificate, anew."""

    def in_folder(self, folder: Path) -> TlsConfig:
        """Return the same with relative names of files relative to `folder`."""
        files = {name: file for name in FILES if (file := getattr(self, name)) is not None}
        return self.model_copy(update={name: folder / file for name, file in files.items()})


FILES = ("certificate", "key", "ca", "deny", "identities")


def refuse_plaintext(address: str, *, secured: bool, insecure: bool) -> None:
    """Raise ValueError when bytes would leave this machine unprotected and nobody wrote that they may."""
    if not (secured or insecure or is_loopback(address)):
        raise ValueError(
            f"{address} is not on this machine, and there is no `tls:`; add `tls: {{certificate: ..., key: ..., "
            "ca: ...}` (docs/security.md), or `insecure: true` here to go without"
        )
