"""`escalade inbox`: the reports that came to a stopped tier."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from escalade.cli import outbox
from escalade.cli.outbox import item_as_json, opened, print_losses, write_lines
from escalade.cli.times import readable_time
from escalade.tiers.outbox import Leased
from escalade.tiers.outbox.file import INBOX
from escalade.tiers.outbox.item import REPORT_KINDS
from escalade.tiers.reports import LANE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from escalade.tiers.outbox.offline import Offline


def list_reports(file: Path, limit: int) -> int:
    """Print a summary and the first reports in the order in which they came; return 0."""
    with opened(file, INBOX) as inbox:
        kinds, size, oldest_s, damaged = Counter[str](), 0, 0.0, 0
        shown: list[Leased] = []
        for found in inbox.items():
            if not isinstance(found, Leased):
                damaged += 1
                continue
            kinds[found.item.kind] += 1
            size += found.item.size
            oldest_s = max(oldest_s, found.age_s)
            if found.item.kind in REPORT_KINDS and len(shown) < limit:
                shown.append(found)
        total = sum(kinds[kind] for kind in REPORT_KINDS)
        by_kind = ", ".join(f"{kinds[kind]} {kind}" for kind in REPORT_KINDS)
        print(
            f"{file}: {total} reports ({by_kind}), {kinds['escalation']} answers remembered, {size} bytes, "
            f"oldest {readable_time(oldest_s)}"
        )
        print_losses(inbox, damaged)
        if shown:
            print(f"\n{'seq':>8}  {'kind':10}  {'age':>8}  {'bytes':>9}  device/id")
        for seq, item, _, age_s in shown:
            name = f"{item.device.removesuffix(LANE)}/{item.id}"
            print(f"{seq:>8}  {item.kind:10}  {readable_time(age_s):>8}  {item.size:>9}  {name!a:.60}")
        if total > len(shown):
            print(f"... and {total - len(shown)} more (--limit)")
    return 0


def export(file: Path, out: Path | None, after: int) -> int:
    """Write every report with a greater number than `after` as a line of JSON, payloads in base64; return 0.

    Raises
    ------
    SetupError
        The inbox or the file cannot be opened.
    """
    with opened(file, INBOX) as inbox:
        count = write_lines(_lines(inbox, after), out)
        print(f"{count} reports exported; the inbox is as it was", file=sys.stderr)
    return 0


def drop_quarantine(file: Path) -> int:
    """Delete the damaged items and files that were set aside; return 0."""
    return outbox.drop_quarantine(file, INBOX)


def _lines(inbox: Offline, after: int) -> Iterator[dict[str, Any]]:
    for found in inbox.items():
        if isinstance(found, Leased) and found.item.kind in REPORT_KINDS and found.seq > after:
            yield {**item_as_json(found), "device": found.item.device.removesuffix(LANE)}
