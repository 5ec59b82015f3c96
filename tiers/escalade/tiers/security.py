"""A tier's identity at work: its files, and the guard before its port."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from escalade.tiers.audited import note_change
from escalade.tiers.refusals import Refusals
from escalade.tiers.tls_files import TlsFiles, named_by
from escalade.tiers.wire.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.tls_config import TlsConfig


class Security:
    """What a tier with a `tls:` section has.

    Parameters
    ----------
    labels:
        The tier's, for metrics.

    Raises
    ------
    ConfigError
        The files are not in order.
    """

    def __init__(self, config: TlsConfig, labels: Mapping[str, str]) -> None:
        self.files = TlsFiles(config, time.time)
        self.refusals = Refusals(labels, lambda: self.files.credentials.facts.not_after, time.monotonic)
        self.guard = Guard(self.files, self.refusals)
        self.max_connection_age_s = config.max_connection_age_s
        self._watching: asyncio.Task[None] | None = None

    def named(self, config: TierConfig) -> TierConfig:
        """Return the configuration with the device's name as its certificate has it; ConfigError as `named_by`."""
        return named_by(self.files, config)

    def watch(self, audit: Path | None) -> None:
        """Follow the files from now on, and note their changes in the audit log where there is one."""
        if audit:
            self.files.on_change = lambda what: note_change(audit, what)
        self._watching = asyncio.create_task(self.guard.watch())

    async def close(self) -> None:
        """Stop following them."""
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
