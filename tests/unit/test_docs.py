"""What the documents list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from escalade.tiers import REASONS
from escalade.tiers.roles import TABLE

ARCHITECTURE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


def test_every_degraded_reason_is_explained() -> None:
    """The table of reasons has exactly those that a tier can give."""
    table = ARCHITECTURE.split("## What each degraded reason means")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(REASONS)


def test_every_rpc_stands_in_the_table_of_who_may_call_it() -> None:
    """By its name; metadata, health and reflection by their kind."""
    table = (
        (Path(__file__).parents[2] / "docs" / "security.md").read_text().split("## Who may do what")[1].split("##")[0]
    )
    for service, method in (name[1:].split("/") for name in TABLE if TABLE[name]):
        if not method.endswith("Metadata") and not service.startswith("grpc."):
            assert re.search(rf"[`.]{method}`", table), method


def test_every_file_on_a_requests_way_exists() -> None:
    """The architecture page names files that are there."""
    root = Path(__file__).parents[2]
    for name in re.findall(r"\*\*`tiers/([\w/]+\.py)`", ARCHITECTURE):
        assert (root / "tiers" / "escalade" / "tiers" / name).is_file(), name
