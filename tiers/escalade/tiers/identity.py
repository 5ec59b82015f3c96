"""Who a certificate is: a role and a name, from its subject alternative names."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

import yaml

from escalade.tiers.errors import ForbiddenError
from escalade.tiers.roles import OWN, ROLES, Role, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SCHEME = "escalade://"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
"""What a name may be: it stands in certificates, logs and names of files."""


class Identity(NamedTuple):
    """Who somebody is; written `escalade://ROLE/NAME`."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.role}/{self.name}"


class Speaker(NamedTuple):
    """Who asks, and for whom it may.

    Attributes
    ----------
    refused:
        Told when it speaks for another than it may.
    """

    identity: Identity
    scope: Scope
    refused: Callable[[], None] = lambda: None

    def device(self, claimed: str) -> str:
        """Return the device that a request is about: itself, where nothing is claimed.

        Raises
        ------
        ForbiddenError
            It may not speak for the device that it claims.
        """
        if not claimed or claimed == self.identity.name:
            return self.identity.name
        if self.scope == OWN:
            self.refused()
            raise ForbiddenError(f"{self.identity} may not speak for another device")
        return claimed


SPEAKER: ContextVar[Speaker | None] = ContextVar("speaker", default=None)
"""Who asks, in the task that answers the call; None where the tier does not know: plaintext, or in process."""


def speaking_for(claimed: str) -> str:
    """Return the device that the call under way is about; ForbiddenError where its caller may not speak for it."""
    speaker = SPEAKER.get()
    return claimed if speaker is None else speaker.device(claimed)


def may_hear_of(device: str) -> bool:
    """Whether the caller of the call under way may be told what concerns a device."""
    speaker = SPEAKER.get()
    return speaker is None or speaker.scope != OWN or speaker.identity.name == device


def parse_identity(text: str) -> Identity | None:
    """Return what `escalade://ROLE/NAME` or `ROLE/NAME` says; None for anything else."""
    role, _, name = text.removeprefix(SCHEME).partition("/")
    return Identity(role, name) if role in ROLES and NAME.fullmatch(name) else None


def identity_of(
    uris: Iterable[str], dns_names: Iterable[str], mapping: Mapping[str, Identity] | None = None
) -> Identity | None:
    """Return who a certificate with these subject alternative names is.

    None where they name nobody, or more than one: two names are no identity.

    Parameters
    ----------
    mapping:
        Where it is given, it alone says who is who. A CA that is not ours may let anybody write anything into
        a URI, `escalade://operator/root` too.
    """
    if mapping is None:
        found = {parse_identity(uri) for uri in uris if uri.startswith(SCHEME)}
    else:
        found = {mapping[name] for name in (*uris, *dns_names) if name in mapping}
    return found.pop() if len(found) == 1 else None


def read_identities(text: str) -> dict[str, Identity]:
    """Return the mapping that a YAML text holds; ValueError says what is wrong with it.

    Examples
    --------
    >>> read_identities("camera-7.plant.example: endpoint/camera-7")
    {'camera-7.plant.example': Identity(role='endpoint', name='camera-7')}
    """
    try:
        data = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("is not valid YAML") from error
    if not isinstance(data, dict):
        raise ValueError("must be a mapping: `camera-7.plant.example: endpoint/camera-7`")
    mapping = {}
    for san, written in data.items():
        identity = parse_identity(str(written))
        if identity is None:
            raise ValueError(f"{san}: {written!r} is not ROLE/NAME with a role of {', '.join(ROLES)}")
        mapping[str(san)] = identity
    return mapping


def read_denied(text: str) -> frozenset[int]:
    """Return the serial numbers of a deny-list: hexadecimal, one a line, `#` begins a comment.

    ValueError says which line is none, or that the file is not whole: its first line is a comment and its last
    line has an end, so that what a full disk or a broken copy leaves of it lets nobody in again.

    Examples
    --------
    >>> sorted(read_denied("# revoked\\n0A:FF  # camera-7, lost\\n\\n10\\n"))
    [16, 2815]
    """
    if not text.startswith("#"):
        raise ValueError("does not begin with a comment line (`# ...`): it is empty or cut; copy the deny-list anew")
    if not text.endswith("\n"):
        raise ValueError("its last line has no end: it is cut; copy the deny-list anew")
    serials = set()
    for number, line in enumerate(text.splitlines(), 1):
        serial = line.partition("#")[0].strip().replace(":", "")
        if not serial:
            continue
        try:
            serials.add(int(serial, 16))
        except ValueError:
            raise ValueError(f"line {number}: {serial!r} is not a serial number in hexadecimal") from None
    return frozenset(serials)
