"""What a policy has learnt comes back from its file to the bit, and a broken file says so."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from escalade.policies import (
    AlwaysEscalate,
    Budgeted,
    Context,
    Policy,
    StateFileError,
    Threshold,
    load_state,
    save_state,
)
from escalade.policies.checks.state import same
from escalade.policies.state_file import from_json, from_npz, to_json, to_npz

ENDINGS = pytest.mark.parametrize("ending", ["npz", "json"])
VALUES = st.one_of(
    st.floats(allow_nan=False),
    st.just(nan),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.bool_]),
        arrays.array_shapes(max_dims=2, min_side=0),
        elements={"allow_nan": False},
    ),
    st.builds(np.float32, st.floats(width=32, allow_nan=False)),
)


class Holds(Threshold):
    """A policy with any state."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__(0.5)
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


@given(st.dictionaries(st.text("abc._", min_size=1), VALUES, max_size=4))
def test_every_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    """Types, shapes and bits are the same from both kinds of file."""
    assert same(from_json(to_json(state, "X")), (state, "X"))
    assert same(from_npz(to_npz(state, "X")), (state, "X"))


@pytest.mark.parametrize(
    "value",
    [
        np.array([nan, inf, -inf, -0.0, 1e-45], np.float32),
        np.array(["a", "bcd"]),
        np.zeros((0, 3)),
        np.array(2.5),
        {"inner": {"deep": np.arange(3)}},
        -0.0,
        inf,
    ],
    ids=repr,
)
def test_unusual_values_travel(value: Any) -> None:
    """Endless and signed numbers, text, empty arrays and mappings within are kept."""
    assert same(from_json(to_json({"value": value})), ({"value": value}, ""))
    assert same(from_npz(to_npz({"value": value})), ({"value": value}, ""))


@pytest.mark.parametrize("value", [{1, 2}, np.array([None]), np.array([1j]), b"bytes", [1, 2], {"$x": 1}], ids=repr)
@ENDINGS
def test_what_cannot_travel_is_refused_before_anything_is_written(value: Any, ending: str, tmp_path: Path) -> None:
    """Objects, lists and complex numbers are no state; the old file stays."""
    file = tmp_path / f"state.{ending}"
    file.write_text("old")
    with pytest.raises(StateFileError, match=r"the state of Holds cannot be written: .*'value'"):
        save_state(file, Holds({"value": value}))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "old"


@ENDINGS
def test_a_policy_goes_on_after_a_restart(ending: str, tmp_path: Path) -> None:
    """What one process saved, another loads; the file names the policy's class."""
    policy, other = (Budgeted(AlwaysEscalate(), share=0.1) for _ in range(2))
    for _ in range(3):
        policy.commit_one(0.5, Context(), AlwaysEscalate().decide_one(0.5, Context()))
    save_state(tmp_path / f"s.{ending}", policy)
    other.load_state_dict(load_state(tmp_path / f"s.{ending}", "Budgeted"))
    assert other.state_dict() == policy.state_dict() == {"debt": 2.8, "since": 2.0, "decisions": 3}
    with pytest.raises(StateFileError, match=r"s\.\w+: is the state of a Budgeted, not of a Threshold"):
        load_state(tmp_path / f"s.{ending}", "Threshold")


def broken_files() -> dict[str, tuple[str, bytes]]:
    good: Policy = Budgeted(AlwaysEscalate(), share=0.1)
    npz, text = to_npz({"a": np.arange(9.0)}, "X"), to_json(good.state_dict(), "X")
    return {
        "empty": (".npz", b""),
        "cut": (".npz", npz[: len(npz) // 2]),
        "flipped": (".npz", npz[:80] + bytes([npz[80] ^ 255]) + npz[81:]),
        "text in npz": (".npz", b"hello"),
        "empty text": (".json", b""),
        "cut text": (".json", text[:20]),
        "no text": (".json", b"\xff\xfe\x00"),
        "another JSON": (".json", b"[1, 2]"),
        "another mapping": (".json", b'{"rate": 1}'),
        "newer": (".json", text.replace(b'"escalade_state": 1', b'"escalade_state": 2')),
        "no mapping": (".json", b'{"escalade_state": 1, "policy": "X", "state": 3}'),
        "no policy": (".json", b'{"escalade_state": 1, "state": {}}'),
        "wrong shape": (".json", json.dumps(_array([1.0, 2.0], "<f4", [3])).encode()),
        "an object": (".json", json.dumps(_array([1.0], "|O", [1])).encode()),
        "no number": (".json", json.dumps(_array(["x"], "<f4", [1])).encode()),
        "deep": (".json", b"[" * 100_000),
    }


def _array(values: list[Any], dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"escalade_state": 1, "policy": "X", "state": {"a": {"$array": values, "dtype": dtype, "shape": shape}}}


@pytest.mark.parametrize("what", broken_files())
def test_a_broken_file_is_named_with_what_to_do(what: str, tmp_path: Path) -> None:
    """Whatever is wrong with it, the error is one line that begins with the file's name."""
    ending, data = broken_files()[what]
    file = tmp_path / f"state{ending}"
    file.write_bytes(data)
    with pytest.raises(StateFileError) as caught:
        load_state(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "again" in str(caught.value) or "name the file that `fit` wrote" in str(caught.value)


def test_an_archive_with_a_pickle_is_not_opened(tmp_path: Path) -> None:
    """A pickle can run code; no state file needs one."""
    np.savez(tmp_path / "s.npz", state=np.array([{"a": 1}], object))
    with pytest.raises(StateFileError, match="broken one"):
        load_state(tmp_path / "s.npz")


def test_a_file_that_is_not_there_or_has_another_ending_is_named(tmp_path: Path) -> None:
    """The text says which file, and which endings there are."""
    with pytest.raises(StateFileError, match=r"none\.npz: cannot be read: No such file"):
        load_state(tmp_path / "none.npz")
    with pytest.raises(StateFileError, match=r"state\.pkl: a state file's name ends in \.npz or \.json"):
        load_state(tmp_path / "state.pkl")
    with pytest.raises(StateFileError, match="cannot be written: No such file"):
        save_state(tmp_path / "none" / "s.json", Threshold(0.5))
