"""`escalade keys`: make and rotate the keys that encrypt what a tier keeps, and encrypt a model with them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from escalade.tiers.at_rest import MODEL, id_of_key, open_seal, read_model
from escalade.tiers.config_file import load_config, locate_errors
from escalade.tiers.errors import ConfigError, SetupError
from escalade.tiers.key_sources import FileKeys, new_key_line

if TYPE_CHECKING:
    from pathlib import Path


def new(file: Path) -> int:
    """Write a file with a fresh key that its owner alone may read; return 0."""
    _write_private(file, _line().encode())
    return _tell(file, f"{file}: made; whoever loses it loses what is encrypted with it")


def rotate(file: Path) -> int:
    """Put a fresh key before those of a file; what they encrypted stays readable. Return 0."""
    FileKeys(file).keys()  # says what is wrong with it
    draft = file.with_name(f"{file.name}.part")
    draft.unlink(missing_ok=True)
    _write_private(draft, _line().encode() + file.read_bytes())
    draft.replace(file)
    return _tell(
        file, f"{file}: running tiers take the new key within a minute; remove the old one when nothing needs it"
    )


def seal_model(config_file: Path, out: Path) -> int:
    """Write a tier's model encrypted with its current key; return 0.

    Raises
    ------
    SetupError
        The tier has no keys, its model cannot be read, or `out` is there already.
    """
    config = load_config(config_file)
    with locate_errors(config_file):
        if config.at_rest is None:
            raise ConfigError("there is no key; add `at_rest: {key_source: {file: ...}}`", key="at_rest")
        reading = config.at_rest.model_copy(update={"require": False})
        seal = open_seal(reading)
        try:
            content = read_model(config.model.file, seal)
        except OSError as error:
            raise ConfigError(f"cannot read {str(config.model.file)!r}: {error.strerror}", key="model.file") from error
    _write_private(out, seal.seal(content, MODEL))
    print(f"{out}: {len(content)} bytes, encrypted; name it as `model.file`, and delete {config.model.file}")
    return 0


def _line() -> str:
    return new_key_line(f"made {time.strftime('%Y-%m-%d', time.gmtime())}")


def _tell(file: Path, text: str) -> int:
    source = FileKeys(file)
    current, *others = map(bytes.hex, map(id_of_key, source.keys()))
    print(text)
    print(f"encrypts: {current}" + (f"; still decrypts: {', '.join(others)}" if others else ""))
    return 0


def _write_private(file: Path, content: bytes) -> None:
    """Write a new file with mode 0600; SetupError when it is there already or cannot be written."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}; nothing was overwritten") from error
