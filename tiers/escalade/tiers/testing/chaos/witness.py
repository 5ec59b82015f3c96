"""What the tiers wrote down themselves: corrections at the bottom, effects above."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from escalade.tiers.testing.chaos.history import Corrected, Effect, Given

if TYPE_CHECKING:
    from pathlib import Path


def read_corrections(file: Path) -> list[Corrected]:
    """Return the corrections in a file that an endpoint writes; its last line may be half written."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text().splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        old, new = (Given(one["label"], one["tier"], tuple(one["posterior"])) for one in (fields["old"], fields["new"]))
        ids = fields["device"], fields["id"], fields["request_id"]
        found.append(Corrected(fields["seq"], *ids, old, new, fields["delay_s"]))
    return found


def read_effects(tier: str, file: Path) -> list[Effect]:
    """Return what a stopped tier's inbox holds, in the order of the effects."""
    return []
