"""Encryption of what is kept on the disk: AES-256-GCM, each content bound to its place, each with its key's id."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any

import structlog

from escalade.tiers.errors import ConfigError, EscaladeError
from escalade.tiers.key_sources import key_source
from escalade.tiers.outbox.sealing import KEY_ID_BYTES, MAGIC, UNSEALED, Seal, key_id_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.keeping_config import AtRestConfig
    from escalade.tiers.key_sources import KeySource

log = structlog.get_logger(__name__)

NONCE_BYTES = 12
HEAD_BYTES = len(MAGIC) + KEY_ID_BYTES + NONCE_BYTES
ASK_S = 60.0
"""So often the source is asked for a new key."""
MODEL = b"model"


class Vault:
    """A `Seal` with the keys of a source.

    Stored are: eight bytes that say so, eight of the key's id (a digest of it), a random nonce of twelve, and the
    content as long as it was, with a tag of sixteen. 44 bytes more in all.

    Parameters
    ----------
    require:
        Whether what is not sealed is taken for tampered with; else it is read as it is.
    clock:
        Seconds, monotonic.

    Raises
    ------
    ConfigError
        The source gives no keys, or `cryptography` is missing.
    """

    def __init__(
        self, source: KeySource, *, require: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source, self._require, self._clock = source, require, clock
        self._ciphers: dict[bytes, Any] = {}
        """Once known a key is known until the process ends: what it sealed may still be needed."""
        self._current = b""
        self._refused = ""
        self._take_keys()
        self._ask_at = clock() + ASK_S

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """Return what to store; see `Seal`."""
        now = self._clock()
        if now >= self._ask_at:
            self._ask_at = now + ASK_S
            self._ask_again()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = self._ciphers[self._current].encrypt(nonce, plain, about)
        return b"".join((MAGIC, self._current, nonce, sealed))

    def open(self, stored: bytes, about: bytes) -> bytes:
        """Return what was sealed; see `Seal`."""
        from cryptography.exceptions import InvalidTag

        if not stored.startswith(MAGIC):
            if self._require:
                raise ValueError("it is not encrypted")
            return UNSEALED.open(stored, about)
        key_id = key_id_of(stored)
        if not self.knows(key_id):
            raise ValueError(f"it is encrypted with another key ({key_id.hex()})")
        try:
            plain: bytes = self._ciphers[key_id].decrypt(
                stored[HEAD_BYTES - NONCE_BYTES : HEAD_BYTES], stored[HEAD_BYTES:], about
            )
        except (InvalidTag, ValueError) as error:
            raise ValueError("it is not what was encrypted, or stands where something else stood") from error
        return plain

    def knows(self, key_id: bytes) -> bool:
        """Whether the key is at hand; the source is asked for one that is not."""
        if key_id not in self._ciphers:
            self._ask_again()
        return key_id in self._ciphers

    def _ask_again(self) -> None:
        try:
            self._take_keys()
        except Exception as error:  # noqa: BLE001  # the user's own source
            if str(error) != self._refused:
                log.error("the key source gives no keys; the known ones go on", reason=str(error))
            self._refused = str(error)
        else:
            self._refused = ""

    def _take_keys(self) -> None:
        aead = _aes_gcm()
        keys = self._source.keys()
        if not keys:
            raise ConfigError("the source gives no key", key="at_rest.key_source")
        for key in keys:
            self._ciphers.setdefault(id_of_key(key), aead(key))
        current = id_of_key(keys[0])
        if self._current and current != self._current:
            log.info("encrypting with a new key from now on", key=current.hex())
        self._current = current


def id_of_key(key: bytes) -> bytes:
    """Return what names a key and tells nothing of it."""
    return hashlib.sha256(b"escalade key\0" + key).digest()[:KEY_ID_BYTES]


def open_seal(config: AtRestConfig | None) -> Seal:
    """Return the encryption that a configuration asks for; without one, none.

    Raises
    ------
    ConfigError
        There are no keys.
    """
    if config is None:
        return UNSEALED
    source = key_source(config.key_source)
    try:
        return Vault(source, require=config.require)
    except EscaladeError:
        raise
    except Exception as error:  # the user's own source
        raise ConfigError(f"the source gives no keys: {error}", key="at_rest.key_source") from error


def in_the_clear(config: TierConfig) -> list[str]:
    """Return a line for what the tier writes unencrypted though it encrypts what it keeps; none without `at_rest`."""
    lines = config.outbox and config.outbox.corrections
    if not (config.at_rest and lines):
        return []
    return [f"at_rest is on, but outbox.corrections {lines} is written in the clear"]


def read_model(file: Path, seal: Seal) -> bytes:
    """Return a model's bytes, decrypted where they are encrypted.

    Raises
    ------
    OSError
        The file cannot be read.
    ConfigError
        It is encrypted, and not with a key at hand, or was tampered with.
    """
    content = file.read_bytes()
    if seal is UNSEALED and content.startswith(MAGIC):
        raise ConfigError(f"{str(file)!r} is encrypted; configure at_rest.key_source", key="model.file")
    try:
        return seal.open(content, MODEL)
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} cannot be opened: {error}", key="model.file") from error


def _aes_gcm() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigError(
            "encryption needs cryptography: pip install 'escalade[security]'", key="at_rest.key_source"
        ) from error
    return AESGCM
