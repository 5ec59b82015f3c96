"""A tier's TLS files, read again when they change: certificates, CAs, the deny-list, the identities."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from escalade.tiers.errors import ConfigError
from escalade.tiers.identity import Identity, identity_of, read_denied, read_identities
from escalade.tiers.roles import DELIVER, INFER, OBSERVE, ROLES, scope_of
from escalade.tiers.tls_check import Certificate, check_tls
from escalade.tiers.tls_config import FILES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.tls_config import TlsConfig

    Signature = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""Between two looks at whether a file has changed: what is revoked is refused soon after."""


class Credentials(NamedTuple):
    """What a handshake needs, as PEM, and what the certificate says."""

    certificate: bytes
    key: bytes
    ca: bytes
    facts: Certificate


class TlsFiles:
    """What the files said when they were last in order.

    A file that is changed for the worse (half written, emptied, expired, of another CA) is logged once, and what was
    read before stays. May be asked from any thread: gRPC does so at every handshake.

    Parameters
    ----------
    clock:
        Seconds since the epoch.

    Raises
    ------
    ConfigError
        The files are not in order at the start.
    """

    def __init__(self, config: TlsConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock, self._lock = config, clock, threading.Lock()
        self._last_read: dict[str, dict[str, str]] = {}
        self._seen = self._signature()
        self.denied = self._read("deny", read_denied) or frozenset[int]()
        """Serial numbers of certificates that are believed no more."""
        self.identities: dict[str, Identity] | None = self._read("identities", read_identities)
        self.credentials = self._read_credentials()
        self.used = dict(self._last_read)
        """By `certificate`, `deny` and `identities` what is in use: its file as `name`, its `sha256` (a certificate's
        with that of its CAs), and the certificate's `serial` or the number of `serials`."""
        self.version = 0
        """Grows with every change of `credentials`."""
        self.on_change: Callable[[str], None] = lambda _: None
        """Told the name of what changed: `certificate`, `deny` or `identities`."""

    @property
    def identity(self) -> Identity | None:
        """Who this tier is by its own certificate; None where only the other side's mapping tells."""
        facts = self.credentials.facts
        return identity_of(facts.uris, facts.dns_names, self.identities)

    def refresh(self) -> None:
        """Look whether files have changed, and read those; whatever is wrong with them is logged, never raised."""
        with self._lock:
            now, before = self._signature(), self._seen
            if now == before:
                return
            self._seen = now
            changed = {name for name, old, new in zip(FILES, before, now, strict=True) if old != new}
            if "deny" in changed:
                self._take("deny", "denied", lambda: self._read("deny", read_denied))
            if "identities" in changed:
                self._take("identities", "identities", lambda: self._read("identities", read_identities))
            if changed & {"certificate", "key", "ca"}:
                self._take("certificate", "credentials", self._renewed)

    def _take(self, name: str, attribute: str, read: Callable[[], Any]) -> None:
        try:
            value = read()
        except Exception as error:  # noqa: BLE001  # a surprise in a file must not end the watching of all files
            said = error.message if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            log.warning("changed file is not used; the one before stays", what=name, error=said)
            return
        if name == "deny" and (gone := self.denied - (value or frozenset())):
            log.warning("serial numbers have vanished from the deny-list: they are believed again", count=len(gone))
        setattr(self, attribute, value)
        self.used[name] = self._last_read[name]
        if attribute == "credentials":
            self.version += 1
        log.info("changed file is used", what=name, **self.used[name])
        try:
            self.on_change(name)
        except Exception as error:  # a listener's fault
            log.error("a changed file cannot be told of", what=name, exc_info=error)

    def _renewed(self) -> Credentials:
        """Return new credentials of the same identity."""
        credentials = self._read_credentials()
        facts = credentials.facts
        found, own = identity_of(facts.uris, facts.dns_names, self.identities), self.identity
        if found != own:
            raise ConfigError(f"{self.config.certificate} is {found}, not {own}; start anew", key="tls.certificate")
        return credentials

    def _read_credentials(self) -> Credentials:
        config = self.config
        facts = check_tls(config, self._clock())
        certificate, key, ca = (file.read_bytes() for file in (config.certificate, config.key, config.ca))
        if check_tls(config, self._clock()) != facts:
            raise ConfigError(f"{config.certificate} is being replaced", key="tls.certificate")
        self._note("certificate", config.certificate, certificate + ca, serial=f"{facts.serial:X}")
        return Credentials(certificate, key, ca, facts)

    def _read(self, name: str, parse: Callable[[str], Any]) -> Any:
        file: Path | None = getattr(self.config, name)
        if file is None:
            return None
        try:
            content = file.read_bytes()
            parsed = parse(content.decode("utf-8"))
            self._note(name, file, content, **({"serials": str(len(parsed))} if name == "deny" else {}))
            return parsed
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}", key=f"tls.{name}") from error
        except ValueError as error:
            raise ConfigError(f"{file}: {error}", key=f"tls.{name}") from error

    def _note(self, what: str, file: Path, content: bytes, **more: str) -> None:
        self._last_read[what] = {"name": str(file), "sha256": hashlib.sha256(content).hexdigest(), **more}

    def _signature(self) -> Signature:
        """Return what tells whether a file has changed: of each its time, size and inode."""
        return tuple(_stat(getattr(self.config, name)) for name in FILES)


def named_by(files: TlsFiles, config: TierConfig) -> TierConfig:
    """Return the configuration with the device's name as its certificate has it.

    Raises
    ------
    ConfigError
        It is written otherwise, or of a role that may not ask: the tiers above would refuse all that it asks.
    """
    own = files.identity
    if own is not None:
        _check_role(own, config)
    if own is not None and config.aggregate and config.aggregate.node != own.name and not config.aggregate.insecure:
        text = f"{config.aggregate.node!r} is {own.name!r} by its certificate, and the aggregator believes that"
        raise ConfigError(f"{text}; write it", key="aggregate.node")
    if own is None or own.name == config.device:
        return config
    if "device" in config.model_fields_set:
        text = f"{config.device!r} is {own.name!r} by its certificate; write that, or leave it out"
        raise ConfigError(text, key="device")
    return config.model_copy(update={"device": own.name})


def doubts_of(own: Identity | None, config: TierConfig) -> list[str]:
    """Return what of a tier's identity is perhaps not meant, a sentence each, for the log."""
    if own is None:
        nobody = "its certificate says no role and name (escalade://ROLE/NAME), or several: tiers above refuse it"
        return [f"{nobody}, unless their `tls.identities` name it"]
    if own.role != config.tier.replace("_", "-"):
        return [f"its certificate is {own}'s, and it serves as {config.tier}; issue it one of that role"]
    return []


def _check_role(own: Identity, config: TierConfig) -> None:
    outbox, links = config.outbox, [link for link in config.links if not link.insecure]
    reports = bool(outbox and (outbox.results or outbox.telemetry_s))
    asks = {
        INFER: ("ask the tier above", bool(links)),
        DELIVER: ("report to the tier above", bool(links and reports)),
        OBSERVE: ("report to an aggregator", bool(config.aggregate and not config.aggregate.insecure)),
    }
    for method, (what, wanted) in asks.items():
        if wanted and scope_of(method, own.role) is None:
            roles = ", ".join(role for role in ROLES if scope_of(method, role))
            raise ConfigError(f"{own} may not {what}; issue this tier a certificate of {roles}", key="tls.certificate")


def _stat(file: Path | None) -> tuple[int, int, int] | None:
    try:
        facts = file.stat() if file else None
    except OSError:
        return None
    return facts and (facts.st_mtime_ns, facts.st_size, facts.st_ino)
