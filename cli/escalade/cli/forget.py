"""`escalade forget`: remove what a tier keeps of a device; one that runs does so itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from typing import TYPE_CHECKING

from escalade.tiers.aggregator.store import KIND as AGGREGATOR
from escalade.tiers.audited import note_forgotten, user
from escalade.tiers.client import Client
from escalade.tiers.config_file import load_config
from escalade.tiers.corrections import drop_lines
from escalade.tiers.egress_ledger import EgressLedger
from escalade.tiers.errors import EscaladeError, SetupError
from escalade.tiers.forgetting import told_of_ledger, told_of_others_recording, told_of_recording
from escalade.tiers.outbox import OutboxBusyError, OutboxError
from escalade.tiers.outbox.errors import CorruptError
from escalade.tiers.outbox.file import INBOX, OUTBOX, File
from escalade.tiers.outbox.lock import FileLock
from escalade.tiers.outbox.offline import offline
from escalade.tiers.outbox.salvage import drop_aside_files
from escalade.tiers.record import own
from escalade.tiers.record_chunk import chunks
from escalade.tiers.reports import LANE

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.outbox.file import Kind
    from escalade.tiers.tls_config import TlsConfig


def forget_at(address: str, device: str, tls: TlsConfig | None) -> int:
    """Have a running tier remove what it keeps of a device, and say what that was; return 0, or 1 when it did not.

    Parameters
    ----------
    tls:
        An operator's; None: plaintext.
    """
    return asyncio.run(_forget_at(address, device, tls))


async def _forget_at(address: str, device: str, tls: TlsConfig | None) -> int:
    async with Client(address, tls=tls) as client:
        try:
            print("\n".join(await client.forget(device)) or "this tier keeps nothing of devices")
        except EscaladeError as error:
            print(f"escalade: {address}: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    return 0


def forget(device: str, file: Path) -> int:
    """Remove what the stopped tier of a YAML keeps of a device, and say what that was; return 0.

    Raises
    ------
    SetupError
        The tier runs, or something cannot be opened: what was removed before stays removed.
    """
    config, trouble = load_config(file), ""
    try:
        _forget_everywhere(config, device)
        _forget_record(config, device)
    except SetupError as error:
        trouble = str(error)
        raise
    finally:
        if config.audit:
            note_forgotten(config.audit, device, by=user(), trouble=trouble)
    return 0


def _forget_everywhere(config: TierConfig, device: str) -> None:
    """Remove it from all places but the recording."""
    try:
        if config.outbox:
            _forget_kept(config.outbox.file, OUTBOX, device)
            if file_of_lines := config.outbox.corrections:
                print(f"corrections {file_of_lines}: {drop_lines(file_of_lines, device)} lines deleted")
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
            print(told_of_ledger(config.egress_ledger.file, lines))
    except OutboxBusyError as error:
        raise SetupError(f"{error}; a tier that runs is asked: `escalade forget {device} --at HOST:PORT`") from error
    except OutboxError as error:
        raise SetupError(str(error)) from error
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}") from error


def _forget_kept(path: Path, kind: Kind, device: str) -> None:
    if not path.exists():
        print(f"{kind.name} {path}: there is none")
        return
    with offline(path, kind) as kept:
        gone = kept.forget({device, device + LANE})
    print(f"{kind.name} {path}: {gone}")


def _forget_observations(path: Path, node: str) -> None:
    """Leave out what a node has observed; the answers that it had a part in stay."""
    if not path.exists():
        return
    lock = FileLock(path, AGGREGATOR.name)
    lock.acquire()
    try:
        file = File(path, AGGREGATOR)
        try:
            (gone,) = file.delete_for_good({"observations": "node"}, [node])
            files = drop_aside_files(path)
        finally:
            file.close()
    except (CorruptError, sqlite3.Error) as error:
        raise OutboxError(f"{AGGREGATOR.name} {path}: {error}") from error
    finally:
        lock.release()
    print(f"{AGGREGATOR.name} {path}: {gone} observations and {files} damaged files deleted")


def _forget_record(config: TierConfig, device: str) -> None:
    if config.record is None:
        return
    folder = config.record.folder
    if device == config.device:
        print(told_of_recording(folder, _drop_chunks(folder)))
    else:
        print(told_of_others_recording(folder))


def _drop_chunks(folder: Path) -> int:
    """Delete a recording that no process writes; return how many chunks there were."""
    lock = own(folder)
    try:
        files = chunks(folder)
        for file in [*files, *folder.glob("*.part")]:
            file.unlink(missing_ok=True)
        return len(files)
    finally:
        if lock is not None:
            os.close(lock)
