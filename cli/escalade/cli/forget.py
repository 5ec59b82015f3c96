"""`escalade forget`: remove what a stopped tier keeps of a device."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import TYPE_CHECKING

from escalade.tiers.aggregator.store import KIND as AGGREGATOR
from escalade.tiers.config_file import load_config
from escalade.tiers.corrections import rewrite
from escalade.tiers.egress_ledger import EgressLedger
from escalade.tiers.errors import SetupError
from escalade.tiers.outbox import OutboxError
from escalade.tiers.outbox.errors import CorruptError
from escalade.tiers.outbox.file import INBOX, OUTBOX, File
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.offline import offline
from escalade.tiers.record import chunks, own
from escalade.tiers.reports import LANE

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.outbox.file import Kind


def forget(device: str, file: Path) -> int:
    """Remove what the tier of a YAML keeps of a device, and say what that was; return 0.

    Raises
    ------
    SetupError
        The tier runs, or something cannot be opened: what was removed before stays removed.
    """
    config = load_config(file)
    try:
        if config.outbox:
            _forget_kept(config.outbox.file, OUTBOX, device)
            if config.outbox.corrections:
                _forget_lines(config.outbox.corrections, device)
        if config.inbox:
            _forget_kept(config.inbox.file, INBOX, device)
        if config.aggregate and config.aggregate.outbox:
            _forget_kept(config.aggregate.outbox, OUTBOX, device)
        if config.aggregator and config.aggregator.file:
            _forget_observations(config.aggregator.file, device)
        if config.egress_ledger:
            ledger = EgressLedger(config.egress_ledger.file)
            lines = ledger.forget(device)
            ledger.write()
            print(f"egress ledger {config.egress_ledger.file}: {lines} lines no longer name it; their sums stay")
    except OutboxError as error:
        raise SetupError(str(error)) from error
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}") from error
    _forget_record(config, device)
    return 0


def _forget_kept(path: Path, kind: Kind, device: str) -> None:
    if not path.exists():
        print(f"{kind.name} {path}: there is none")
        return
    with offline(path, kind) as kept:
        gone = kept.forget({device, device + LANE})
    print(
        f"{kind.name} {path}: {gone.items} items, {gone.corrections} corrections, {gone.quarantined} damaged items and "
        f"{gone.files} damaged files deleted"
    )


def _forget_observations(path: Path, node: str) -> None:
    """Leave out what a node has observed; the answers that it had a part in stay."""
    if not path.exists():
        return
    lock = FileLock(path, AGGREGATOR.name)
    lock.acquire()
    try:
        file = File(path, AGGREGATOR)
        try:
            gone = file.delete_for_good({"observations": "node"}, [node])
        finally:
            file.close()
    except (CorruptError, sqlite3.Error) as error:
        raise OutboxError(f"{AGGREGATOR.name} {path}: {error}") from error
    finally:
        lock.release()
    print(f"{AGGREGATOR.name} {path}: {gone[0]} observations deleted")


def _forget_lines(path: Path, device: str) -> None:
    """Leave out the device's lines of a file of corrections."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if _device_of(line) != device]
    if len(kept) < len(lines):
        rewrite(path, kept)
    print(f"corrections {path}: {len(lines) - len(kept)} lines deleted")


def _device_of(line: str) -> object:
    try:
        return json.loads(line).get("device")
    except (ValueError, AttributeError):  # cut short by a crash
        return None


def _forget_record(config: TierConfig, device: str) -> None:
    if config.record is None:
        return
    folder = config.record.folder
    if device == config.device:
        print(f"recording {folder}: {_drop_chunks(folder)} chunks deleted")
    else:
        print(f"recording {folder}: left, for it names no devices; it holds scores and posteriors of all of them")


def _drop_chunks(folder: Path) -> int:
    """Delete a recording that no process writes; return how many chunks there were."""
    lock = own(folder)
    try:
        files = chunks(folder)
        for file in files:
            file.unlink(missing_ok=True)
        return len(files)
    finally:
        if lock is not None:
            os.close(lock)
