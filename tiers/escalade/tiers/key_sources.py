"""Where the keys come from that encrypt what is kept."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from typing import TYPE_CHECKING, Protocol, cast

from escalade.policies.errors import PolicyConfigError
from escalade.policies.importing import import_object
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from escalade.tiers.keeping_config import KeySourceConfig

KEY_BYTES = 32
AT = "at_rest.key_source"


class KeySource(Protocol):
    """A port: keys from a file, an HSM, a TPM, a secret store.

    An adapter whose keys never leave a chip lets the chip unwrap keys that were wrapped for it.
    """

    def keys(self) -> Sequence[bytes]:
        """Return keys of 32 bytes: the one that encrypts from now on, then those that still decrypt.

        Asked at the start, and about once a minute, so that keys rotate without a restart. What it raises at the start
        ends the start; later it is logged, and the known keys go on.
        """
        ...


class FileKeys:
    """Keys in a text file: one a line, in base64, the current one first; `#` begins a comment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keys(self) -> list[bytes]:
        """Return the keys.

        Raises
        ------
        ConfigError
            The file cannot be read, may be read by others, or holds no keys.
        """
        key = f"{AT}.file"
        try:
            with self._path.open(encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(
                f"cannot read {str(self._path)!r}: {why}; put it back, or name another (only for a tier that has not "
                "encrypted anything yet: `escalade keys new FILE` makes one)",
                key=key,
            ) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{str(self._path)!r} may be read by others; chmod 600 it", key=key)
        return parse_keys(text, str(self._path), key)


class EnvironmentKeys:
    """Keys in a variable of the environment, in the same form, with blanks for line ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def keys(self) -> list[bytes]:
        """Return the keys; ConfigError when there are none."""
        key = f"{AT}.environment"
        if self._name not in os.environ:
            raise ConfigError(f"the variable {self._name} is not set; put the key into it in base64", key=key)
        return parse_keys("\n".join(os.environ[self._name].split()), f"the variable {self._name}", key)


def parse_keys(text: str, where: str, key: str) -> list[bytes]:
    """Return the keys of a text; ConfigError, which never quotes them, when it is not of the form."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        try:
            found.append(base64.b64decode(written, validate=True))
        except binascii.Error:
            raise ConfigError(f"{where}, line {number}: is not base64", key=key) from None
        if len(found[-1]) != KEY_BYTES:
            raise ConfigError(f"{where}, line {number}: a key has {KEY_BYTES} bytes, not {len(found[-1])}", key=key)
    if not found:
        raise ConfigError(f"{where}: there is no key; `escalade keys new FILE` makes one", key=key)
    return found


def new_key_line(comment: str) -> str:
    """Return a line of a key file with a fresh key."""
    return f"{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}  # {comment}\n"


def key_source(config: KeySourceConfig) -> KeySource:
    """Return the source that a configuration names; ConfigError when it cannot be made."""
    if config.file:
        return FileKeys(config.file)
    if config.environment:
        return EnvironmentKeys(config.environment)
    assert config.source is not None, "the configuration has one of three"
    try:
        made = cast("Callable[..., KeySource]", import_object(config.source, f"{AT}.source"))
        return made(**config.parameters)
    except PolicyConfigError as error:
        raise ConfigError(error.message, key=error.key) from error
    except Exception as error:  # the user's own code
        raise ConfigError(f"{config.source} cannot be made: {error}", key=f"{AT}.source") from error
