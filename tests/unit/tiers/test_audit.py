from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers import audit
from escalade.tiers.audited import note_change
from escalade.tiers.errors import SetupError


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("audit") / "audit.log"
    for number in range(5):
        audit.append(file, "issued", 1.7e9 + number, identity=f"escalade://endpoint/cam-{number}", umlaut="ä\n")
    assert audit.verify(file).trouble == ""
    return file.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "audit.log"


def verified(file: Path, data: bytes, known: str | None = None) -> audit.Verdict:
    file.write_bytes(data)
    return audit.verify(file, known)


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_no_byte_can_be_changed(five: bytes, scratch: Path, place: int, byte: int) -> None:
    """The lines before it stay good."""
    place %= len(five)
    if five[place] == byte:
        return
    changed = five[:place] + bytes([byte]) + five[place + 1 :]
    verdict = verified(scratch, changed)
    assert verdict.trouble
    assert verdict.entries == five[:place].count(b"\n")


@pytest.mark.parametrize("order", [[0, 2, 3, 4], [1, 2, 3, 4], [0, 1, 1, 2, 3, 4], [1, 0, 2, 3, 4]])
def test_no_line_can_be_removed_repeated_or_moved(five: bytes, scratch: Path, order: list[int]) -> None:
    """Though each of them is as it was written."""
    lines = five.splitlines(keepends=True)
    assert verified(scratch, b"".join(lines[index] for index in order)).trouble


def test_a_cut_off_end_shows_to_who_knew_it(five: bytes, scratch: Path) -> None:
    """And to nobody else: that is what the printed hash is for."""
    lines = five.splitlines(keepends=True)
    head = json.loads(lines[-1])["hash"]
    assert verified(scratch, five, head).trouble == ""
    cut = verified(scratch, b"".join(lines[:3]), head)
    assert (cut.entries, "its end is missing" in cut.trouble) == (3, True)
    assert verified(scratch, b"".join(lines[:3])).trouble == ""


def test_nothing_is_appended_to_a_damaged_end(five: bytes, tmp_path: Path) -> None:
    """Half a line, as a power cut leaves it: somebody must look."""
    file = tmp_path / "audit.log"
    file.write_bytes(five[:-10])
    with pytest.raises(SetupError, match="its end is damaged"):
        audit.append(file, "issued", 0.0)
    note_change(file, "deny", {"name": "denied.txt"})  # a tier goes on, and says it in its log
    assert file.read_bytes() == five[:-10]


def test_several_processes_share_a_log(tmp_path: Path) -> None:
    """Every line is there, and the chain holds."""
    file = tmp_path / "audit.log"
    program = (
        "import sys; from pathlib import Path; from escalade.tiers import audit\n"
        "for n in range(20): audit.append(Path(sys.argv[1]), 'issued', 0.0, n_=n)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program, str(file)]) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert audit.verify(file)[::2] == (40, "")
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_last_line_of_a_kind_is_found(five: bytes, scratch: Path) -> None:
    """None without such a line, none without a log."""
    scratch.write_bytes(five)
    found = audit.last_of(scratch, "issued")
    assert found is not None
    assert found["identity"].endswith("cam-4")
    assert audit.last_of(scratch, "revoked") is None
    assert audit.last_of(scratch.with_name("none"), "issued") is None


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    """One line, with the file."""
    with pytest.raises(SetupError, match="cannot be read"):
        audit.verify(tmp_path / "none")
    with pytest.raises(SetupError, match="cannot be written"):
        audit.append(tmp_path, "issued", 0.0)
