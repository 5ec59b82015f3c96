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
    from collections.abc import Mapping
    from pathlib import Path

    from escalade.tiers.config import TierConfig

log = structlog.get_logger(__name__)


def note_start(
    file: Path, config: TierConfig, *, model: str, sha256: str, tls: Mapping[str, Mapping[str, str]]
) -> None:
    """Note what is not as at the last start; SetupError when the log cannot be written or its end is damaged.

    Noted are the effective configuration, the model with its file, and the TLS files; each with its SHA-256 and with
    who runs the tier.

    Parameters
    ----------
    tls:
        `TlsFiles.used`.
    """
    effective = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True).encode()
    _note(file, "configuration", name=config.device, sha256=hashlib.sha256(effective).hexdigest())
    _note(file, "model", name=model, sha256=sha256, path=str(config.model.file))
    for what, facts in tls.items():
        _note(file, what, **facts)


def note_change(file: Path, what: str, facts: Mapping[str, str]) -> None:
    """Note that a changed TLS file is used, with what `TlsFiles.used` says; trouble with the log is logged."""
    try:
        _note(file, what, **facts)
    except SetupError as error:
        log.error("not noted in the audit log", what=what, error=str(error))


def _note(log_file: Path, what: str, **about: str) -> None:
    """Append a line unless the last of its kind says the same."""
    facts = {**about, "user": user()}
    last = audit.last_of(log_file, what) or {}
    if any(last.get(key) != value for key, value in facts.items()):
        audit.append(log_file, what, time.time(), **facts)


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
