"""Who may read what a tier keeps."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from escalade.cli.outbox import write_lines
from escalade.tiers.corrections import rewrite
from escalade.tiers.egress_ledger import EgressLedger
from escalade.tiers.outbox.database import Database
from escalade.tiers.outbox.file import INBOX, OUTBOX, Kind


@pytest.fixture(autouse=True)
def _generous() -> Iterator[None]:
    """A umask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def write(path: Path, kind: Kind = OUTBOX) -> Database:
    database = Database(path, kind, now=0.0, wall_s=0.0)
    database.run(database.count(Counter({"x": 1})))
    return database


@pytest.mark.parametrize("kind", [OUTBOX, INBOX])
def test_an_outbox_is_for_its_owner_alone(tmp_path: Path, kind: Kind) -> None:
    """With its log, from the first moment on."""
    database = write(tmp_path / "x.db", kind)
    assert modes(tmp_path) == {"x.db": 0o600, "x.db-wal": 0o600}
    database.close()


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o600), (0o666, 0o600), (0o640, 0o640)])
def test_what_everybody_may_read_is_tightened(tmp_path: Path, before: int, after: int) -> None:
    """When it is opened next; what a group was given stays the group's."""
    first = write(tmp_path / "first.db")
    left = tmp_path / "left"  # by a power cut
    left.mkdir()
    for end in ("", "-wal"):
        shutil.copy(tmp_path / f"first.db{end}", left / f"x.db{end}")
        (left / f"x.db{end}").chmod(before)
    first.close()
    database = Database(left / "x.db", OUTBOX, now=0.0, wall_s=0.0)
    assert modes(left) == {"x.db": after, "x.db-wal": after}
    assert database.counters() == {"x": 1}
    database.close()


def test_a_ledger_is_for_its_owner_alone(tmp_path: Path) -> None:
    """One of an earlier version too, as soon as it is read; nor is what a crash left."""
    file = tmp_path / "egress.json"
    EgressLedger(file)
    (tmp_path / "egress.json.part").touch()
    ledger = EgressLedger(file)
    ledger.sent("label", "a:1", "cam", 3)
    ledger.write()
    assert modes(tmp_path) == {"egress.json": 0o600}
    file.chmod(0o644)
    EgressLedger(file)
    assert modes(tmp_path) == {"egress.json": 0o600}


def test_an_export_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds inputs."""
    assert write_lines(iter([{"payload": ""}]), tmp_path / "out.jsonl") == 1
    assert modes(tmp_path) == {"out.jsonl": 0o600}


def test_corrections_stay_as_open_as_they_were_made(tmp_path: Path) -> None:
    """Applications read them, as users of their own."""
    (tmp_path / "c.jsonl").touch(0o644)
    rewrite(tmp_path / "c.jsonl", ["{}\n"])
    assert modes(tmp_path) == {"c.jsonl": 0o644}
