"""`escalade outbox`: what an outbox holds that no process has open, and how to send it."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from escalade.cli.serve import SERVICES
from escalade.cli.times import readable_time
from escalade.tiers.config_file import load_config, locate_errors
from escalade.tiers.errors import ConfigError, SetupError
from escalade.tiers.logs import configure_logs
from escalade.tiers.outbox import PRIORITIES, Leased, OutboxError
from escalade.tiers.outbox.file import OUTBOX
from escalade.tiers.outbox.offline import Offline, offline
from escalade.tiers.private import open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from escalade.tiers.outbox.file import Kind as FileKind
    from escalade.tiers.service import Service
    from escalade.tiers.status import OutboxStatus

LOOK_S = 0.1


def list_items(file: Path, limit: int) -> int:
    """Print a summary and the first items in the order in which they would be sent; return 0."""
    with opened(file) as outbox:
        depth, size, oldest_s, damaged = Counter[str](), 0, 0.0, 0
        shown: list[Leased] = []
        for found in outbox.items():
            if not isinstance(found, Leased):
                damaged += 1
                continue
            depth[found.item.priority] += 1
            size += found.item.size
            oldest_s = max(oldest_s, found.age_s)
            if len(shown) < limit:
                shown.append(found)
        total = sum(depth.values())
        by_priority = ", ".join(f"{depth[name]} {name}" for name in PRIORITIES)
        print(f"{file}: {total} items ({by_priority}), {size} bytes, oldest {readable_time(oldest_s)}")
        corrections = [correction.seq for correction in outbox.corrections()]
        if corrections:
            print(f"{len(corrections)} corrections kept for subscribers, the latest {corrections[-1]}")
        print_losses(outbox, damaged)
        if shown:
            print(f"\n{'seq':>8}  {'priority':8}  {'kind':10}  {'age':>8}  {'tries':>5}  {'bytes':>9}  device/id")
        for seq, item, attempts, age_s in shown:
            state = f"{item.priority:8}  {item.kind:10}  {readable_time(age_s):>8}  {attempts:>5}  {item.size:>9}"
            print(f"{seq:>8}  {state}  {f'{item.device}/{item.id}'!a:.60}")
        if total > len(shown):
            print(f"... and {total - len(shown)} more (--limit)")
    return 0


def export(file: Path, out: Path | None, *, quarantined: bool) -> int:
    """Write every item as a line of JSON, payloads in base64, to a file or standard output; return 0.

    Raises
    ------
    SetupError
        The outbox or the file cannot be opened.
    """
    with opened(file) as outbox:
        count = write_lines(_quarantined_lines(outbox) if quarantined else _item_lines(outbox), out)
        print(f"{count} items exported; the outbox is as it was", file=sys.stderr)
    return 0


def drain(file: Path, limit_s: float) -> int:
    """Send what the outbox of a stopped tier holds; return 0 when it is empty, 1 when something is left.

    Parameters
    ----------
    file:
        The tier's YAML.
    limit_s:
        How long to try.

    Raises
    ------
    SetupError
        The configuration does not work, has no outbox, or another process has it open.
    """
    config = load_config(file)
    configure_logs(config.log)
    with locate_errors(file):
        if config.outbox is None:
            raise ConfigError("there is no outbox to drain; add `outbox: {file: ...}`", key="outbox")
        # Only what waits: nothing of this run's own is put into it meanwhile.
        outbox = config.outbox.model_copy(update={"results": False, "telemetry_s": 0.0})
        config = config.model_copy(update={"outbox": outbox})
        return asyncio.run(_drain(SERVICES[config.tier](config), limit_s))


async def _drain(service: Service, limit_s: float) -> int:
    async with service:
        first = outbox = service.status().outbox
        assert first is not None
        assert outbox is not None
        if first.trouble:
            raise SetupError(first.trouble)
        stop = time.monotonic() + limit_s
        while _waiting(outbox) and time.monotonic() < stop:
            await asyncio.sleep(LOOK_S)
            outbox = service.status().outbox
            assert outbox is not None
        given_up = sum(outbox.evictions.values()) - sum(first.evictions.values())
    left = _waiting(outbox)
    print(f"{_waiting(first) - left - given_up} items delivered, {given_up} given up, {left} left")
    return 1 if left else 0


def _waiting(outbox: OutboxStatus) -> int:
    return sum(outbox.depth.values())


def drop_quarantine(file: Path, kind: FileKind = OUTBOX) -> int:
    """Delete the damaged items and files that were set aside; return 0."""
    with opened(file, kind) as outbox:
        items, files = outbox.drop_quarantine()
    print(f"{items} damaged items and {files} damaged files deleted")
    return 0


@contextmanager
def opened(file: Path, kind: FileKind = OUTBOX) -> Iterator[Offline]:
    """Open a stopped tier's outbox, or inbox; SetupError when that cannot be."""
    try:
        with offline(file, kind) as outbox:
            yield outbox
    except OutboxError as error:
        raise SetupError(str(error)) from error


def print_losses(outbox: Offline, damaged: int) -> None:
    """Print what was given up, and what is damaged."""
    counters = outbox.counters()
    for what in ("evicted", "dropped"):  # an outbox's word, and an inbox's
        gone = {name.removeprefix(f"{what}."): count for name, count in counters.items() if name.startswith(f"{what}.")}
        if gone:
            print(f"{what} so far: " + ", ".join(f"{count} {name.replace('.', ' ')}" for name, count in gone.items()))
    if damaged:
        print(f"{damaged} items are damaged; the tier quarantines them when it comes to them")
    kept = sum(1 for _ in outbox.quarantined())
    files = outbox.aside_files()
    if kept or files:
        names = "".join(f"\n  {name}" for name in files)
        command = f"escalade {outbox.kind.name} drop-quarantine"
        print(f"quarantine: {kept} items, {len(files)} files (`{command}` deletes them){names}")


def item_as_json(found: Leased) -> dict[str, Any]:
    """Return what an outbox and an inbox know of an item, its payload in base64."""
    item = found.item
    return {
        "seq": found.seq,
        "device": item.device,
        "id": item.id,
        "kind": item.kind,
        "priority": item.priority,
        "created_s": item.created_s,
        "age_s": round(found.age_s, 3),
        "payload": _base64(item.payload),
    }


def _item_lines(outbox: Offline) -> Iterator[dict[str, Any]]:
    for found in outbox.items():
        if isinstance(found, Leased):
            provisional = _base64(found.item.provisional)
            yield {**item_as_json(found), "attempts": found.attempts, "provisional": provisional}
        else:
            yield {"seq": found.seq, "damaged": [_plain(value) for value in found.columns]}


def _quarantined_lines(outbox: Offline) -> Iterator[dict[str, Any]]:
    for seq, item, columns in outbox.quarantined():
        readable = {"device": item.device, "id": item.id} if item else {}
        yield {"seq": seq, **readable, "damaged": [_plain(value) for value in columns]}


def write_lines(lines: Iterator[dict[str, Any]], out: Path | None) -> int:
    """Write lines of JSON to a new file of mode 0600, or to standard output; return how many.

    SetupError when it cannot be.
    """
    if out is None:
        return _write(lines, sys.stdout)
    try:
        with open_private(out, "x") as stream:
            return _write(lines, stream)
    except OSError as error:
        raise SetupError(f"{out}: {error.strerror or error}") from error


def _write(lines: Iterator[dict[str, Any]], stream: IO[str]) -> int:
    count = 0
    for line in lines:
        stream.write(json.dumps(line) + "\n")
        count += 1
    return count


def _plain(value: object) -> object:
    return {"base64": _base64(value)} if isinstance(value, bytes) else value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
