"""What the tiers wrote down themselves: corrections at the bottom, effects above."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from escalade.tiers.testing.chaos.history import Corrected, Effect, Given

if TYPE_CHECKING:
    from pathlib import Path


def read_corrections(file: Path) -> list[Corrected]:
    """Return the corrections in a file that an endpoint writes; its last line may be half written."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            fields = json.loads(line)
            ids = fields["device"], fields["id"], fields["request_id"]
            found.append(
                Corrected(fields["seq"], *ids, _given(fields["old"]), _given(fields["new"]), fields["delay_s"])
            )
    return found


def _given(answer: dict[str, Any]) -> Given:
    """Return what the one row of an answer says."""
    (label,), (tier,), (posterior,) = answer["label"], answer["tier"], answer["posterior"]
    return Given(label, tier, tuple(posterior))


def read_effects(tier: str, file: Path) -> list[Effect]:
    """Return what a stopped tier's inbox holds, in the order in which it was stored."""
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT device, id FROM items ORDER BY seq").fetchall()
    return [Effect(tier, device.decode(), name.decode()) for device, name in rows]
