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

log = structlog.get_logger(__name__)


def note_start(file: Path, config: TierConfig, *, model: str, sha256: str) -> None:
    """Note what is not as at the last start; SetupError when the log cannot be written or its end is damaged."""
    effective = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True)
    used = {
        "configuration": (config.device, hashlib.sha256(effective.encode()).hexdigest()),
        "model": (model, sha256),
    }
    for what, (name, digest) in used.items():
        last = audit.last_of(file, what)
        if last is None or last.get("sha256") != digest:
            audit.append(file, what, time.time(), name=name, sha256=digest, user=user())


def note_change(file: Path, what: str) -> None:
    """Note that changed TLS files are used; trouble with the log is logged."""
    try:
        audit.append(file, f"{what} changed", time.time())
    except SetupError as error:
        log.error("not noted in the audit log", what=what, error=str(error))


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
