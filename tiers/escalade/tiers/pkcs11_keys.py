"""Keys that an HSM has wrapped: a `KeySource` over PKCS#11."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escalade.tiers.errors import ConfigError
from escalade.tiers.key_sources import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = "at_rest.key_source.parameters"


class Pkcs11Keys:
    """Data keys in a file, wrapped (RFC 3394) by an AES key that never leaves a token.

    Whoever has the file and the disk has nothing without the token and its PIN. The data keys themselves are in the
    tier's memory while it runs.

    Parameters
    ----------
    library:
        The HSM's PKCS#11 library.
    token, key:
        Labels of the token, and of the AES key in it.
    file:
        Wrapped keys, one a line in base64, the current one first; made of `new_line`.
    pin_environment:
        The variable that holds the PIN.
    """

    def __init__(
        self, *, library: str, token: str, key: str, file: str, pin_environment: str = "ESCALADE_PKCS11_PIN"
    ) -> None:
        self._library, self._token, self._key = library, token, key
        self._file, self._pin_environment = Path(file), pin_environment

    def keys(self) -> list[bytes]:
        """Have the token unwrap the keys; ConfigError when it does not."""
        try:
            lines = self._file.read_text(encoding="ascii").split()
            wrapped = [base64.b64decode(line, validate=True) for line in lines]
        except OSError as error:
            raise ConfigError(f"cannot read {str(self._file)!r}: {error.strerror}", key=f"{AT}.file") from error
        except (UnicodeDecodeError, binascii.Error) as error:
            raise ConfigError(f"{str(self._file)!r}: is not base64, a key a line", key=f"{AT}.file") from error
        with self._wrapping_key() as (pkcs11, _, wrapping):
            return [_unwrapped(pkcs11, wrapping, one) for one in wrapped]

    def new_line(self) -> str:
        """Return a line for the file: a fresh key that the token made and wrapped."""
        with self._wrapping_key() as (pkcs11, session, wrapping):
            fresh = session.generate_key(pkcs11.KeyType.AES, 8 * KEY_BYTES, store=False, template=_readable(pkcs11))
            wrapped = wrapping.wrap_key(fresh, mechanism=pkcs11.Mechanism.AES_KEY_WRAP)
            return base64.b64encode(wrapped).decode() + "\n"

    @contextmanager
    def _wrapping_key(self) -> Iterator[tuple[Any, Any, Any]]:
        """Open a session; ConfigError for whatever the token has against it."""
        try:
            import pkcs11
        except ImportError as error:
            raise ConfigError("an HSM needs python-pkcs11: pip install 'escalade[hsm]'", key=AT) from error
        pin = os.environ.get(self._pin_environment)
        if pin is None:
            raise ConfigError(f"the variable {self._pin_environment} is not set; put the PIN into it", key=AT)
        try:
            token = pkcs11.lib(self._library).get_token(token_label=self._token)
            with token.open(user_pin=pin) as session:
                key = session.get_key(pkcs11.ObjectClass.SECRET_KEY, pkcs11.KeyType.AES, label=self._key)
                yield pkcs11, session, key
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            what = f"{type(error).__name__} {error}".strip()
            raise ConfigError(f"token {self._token!r}, key {self._key!r} of {self._library}: {what}", key=AT) from error


def _unwrapped(pkcs11: Any, wrapping: Any, wrapped: bytes) -> bytes:
    key = wrapping.unwrap_key(
        pkcs11.ObjectClass.SECRET_KEY,
        pkcs11.KeyType.AES,
        wrapped,
        mechanism=pkcs11.Mechanism.AES_KEY_WRAP,
        store=False,
        template=_readable(pkcs11),
    )
    return bytes(key[pkcs11.Attribute.VALUE])


def _readable(pkcs11: Any) -> dict[Any, bool]:
    """Return what makes a data key, unlike the one that wraps it, one that may leave the token."""
    return {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False}
