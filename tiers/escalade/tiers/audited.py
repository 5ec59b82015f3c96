"""What a tier writes into its audit log: since when it uses which configuration, model and TLS files."""

from __future__ import annotations

import getpass
import hashlib
import json
import time
from typing import TYPE_CHECKING

import structlog

from escalade.tiers import audit
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.tls_config import TlsConfig

log = structlog.get_logger(__name__)


def note_start(file: Path, config: TierConfig, *, model: str, sha256: str) -> None:
    """Note what is not as at the last start; SetupError when the log cannot be written or its end is damaged.

    Noted are the effective configuration, the model with its file, and the TLS files; each with its SHA-256 and with
    who runs the tier.
    """
    effective = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True).encode()
    _note(file, "configuration", config.device, hashlib.sha256(effective).hexdigest())
    _note(file, "model", model, sha256, path=str(config.model.file))
    for what in ("certificate", "deny", "identities") if config.tls else ():
        if found := _digest(config.tls, what):
            _note(file, what, *found)


def note_change(file: Path, tls: TlsConfig, what: str) -> None:
    """Note that changed TLS files are used: `certificate`, `deny` or `identities`; trouble with the log is logged."""
    try:
        if found := _digest(tls, what):
            _note(file, what, *found)
    except SetupError as error:
        log.error("not noted in the audit log", what=what, error=str(error))


def _note(log_file: Path, what: str, name: str, digest: str, **more: str) -> None:
    """Append a line unless the last of its kind says the same."""
    facts = {"name": name, "sha256": digest, **more, "user": user()}
    last = audit.last_of(log_file, what) or {}
    if any(last.get(key) != value for key, value in facts.items()):
        audit.append(log_file, what, time.time(), **facts)


def _digest(tls: TlsConfig | None, what: str) -> tuple[str, str] | None:
    """Return the name of a TLS file and the digest of its content, of a certificate with that of its CAs."""
    named: Path | None = getattr(tls, what)
    if named is None:
        return None
    files = [named, tls.ca] if tls and what == "certificate" else [named]
    try:
        content = b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}") from error
    return str(named), hashlib.sha256(content).hexdigest()


def note_forgotten(file: Path, device: str, *, by: str, trouble: str) -> None:
    """Note who had a device forgotten, and what could not be deleted; trouble with the log is logged."""
    try:
        audit.append(file, "forgotten", time.time(), name=device, by=by, trouble=trouble)
    except SetupError as error:
        log.error("not noted in the audit log", what="forgotten", error=str(error))


def user() -> str:
    """Return who runs this process, empty where the system does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
