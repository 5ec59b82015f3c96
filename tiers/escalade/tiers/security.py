"""A tier's identity at work: its files, and the guard before its port."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from escalade.tiers.audited import note_change
from escalade.tiers.refusals import Refusals
from escalade.tiers.tls_files import TlsFiles, doubts_of, named_by
from escalade.tiers.wire.guard import Guard

if TYPE_CHECKING:
    from escalade.tiers.config import TierConfig
    from escalade.tiers.tls_config import TlsConfig


log = structlog.get_logger(__name__)


class Security:
    """What a tier with a `tls:` section has.

    Raises
    ------
    ConfigError
        The files are not in order, or are of another device.
    """

    def __init__(self, config: TierConfig, tls: TlsConfig) -> None:
        self.files = TlsFiles(tls, time.time)
        self.config = named_by(self.files, config)
        """The configuration, with the device's name as its certificate has it."""
        for doubt in doubts_of(self.files.identity, config):
            log.warning(doubt, certificate=str(tls.certificate))
        labels = {"tier": config.tier, "model": config.model.served_name}
        self.refusals = Refusals(labels, lambda: self.files.credentials.facts.not_after, time.monotonic)
        self.guard = Guard(self.files, self.refusals)
        self.max_connection_age_s = tls.max_connection_age_s
        if audit := config.audit:
            self.files.on_change = lambda what: note_change(audit, what, self.files.used[what])
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Follow the files, and the streams that are open, from now on."""
        self._watching = asyncio.create_task(self.guard.watch())

    async def close(self) -> None:
        """Stop following them."""
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
