"""What a configuration writes to the disk: that no two parts write to one place, and that each place can be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from escalade.tiers.errors import ConfigError
from escalade.tiers.tls_config import FILES

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.config import TierConfig


def written_paths(config: TierConfig) -> dict[str, Path]:
    """Return the files and folders that the tier writes to, by their keys."""
    outbox, inbox, ledger, record = config.outbox, config.inbox, config.egress_ledger, config.record
    aggregate, aggregator = config.aggregate, config.aggregator
    events = aggregator.record if aggregator else None
    found = {
        "outbox.file": outbox.file if outbox else None,
        "outbox.corrections": outbox.corrections if outbox else None,
        "inbox.file": inbox.file if inbox else None,
        "aggregate.outbox": aggregate.outbox if aggregate else None,
        "aggregator.file": aggregator.file if aggregator else None,
        "aggregator.record.folder": events.folder if events else None,
        "egress_ledger.file": ledger.file if ledger else None,
        "record.folder": record.folder if record else None,
        "audit": config.audit,
    }
    return {key: path for key, path in found.items() if path is not None}


def check_distinct(config: TierConfig) -> None:
    """Raise ConfigError when two keys name one file or folder, or when one names what the tier only reads."""
    places = {os.path.realpath(config.model.file): "model.file"}
    if config.at_rest and (keys := config.at_rest.key_source.file):
        places[os.path.realpath(keys)] = "at_rest.key_source.file"
    for name in FILES if config.tls else ():
        if file := getattr(config.tls, name):
            places[os.path.realpath(file)] = f"tls.{name}"
    for key, path in written_paths(config).items():
        other = places.setdefault(os.path.realpath(path), key)
        if other != key:
            raise ConfigError(f"{str(path)!r} is {other} too; give each a path of its own", key=key)


def check_usable(config: TierConfig) -> None:
    """Raise ConfigError for a place that the tier could not write to; nothing is opened or made."""
    for key, path in written_paths(config).items():
        is_folder = key.endswith(".folder")
        if path.exists() and path.is_dir() != is_folder:
            what = "a file" if is_folder else "a folder"
            raise ConfigError(
                f"{str(path)!r} is {what}; give the path of a {'folder' if is_folder else 'file'}", key=key
            )
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        if there != path and not there.is_dir():
            raise ConfigError(f"{str(path)!r} cannot be made: {str(there)!r} is no folder", key=key)
        if not os.access(there, os.W_OK):
            raise ConfigError(f"{str(there)!r} cannot be written by this user; give another path", key=key)
