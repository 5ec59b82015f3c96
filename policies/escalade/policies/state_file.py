"""What a policy has learnt, in a file: `save_state`, `load_state`; and the two forms of it as bytes.

The ending of the name chooses the form: ``.npz`` (compact; arrays in their own type) or ``.json`` (to be read
by people and other programs). Both restore every value exactly: type, shape and bits. Neither can hold code:
there are no pickles in them, and a file that wants one is refused.
"""

from __future__ import annotations

import io
import json
import os
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = 1
"""Number of the layout that this version writes, and the only one that it reads."""

_HEAD = "escalade_state"
_KINDS = "biufU"  # bool, whole numbers, floats, text: what neither form needs pickles for


class HasState(Protocol):
    """A policy, or a fusion rule."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as arrays and scalars."""
        ...


class StateFileError(ValueError):
    """A state file cannot be read or written; the text names the file and says what to do."""


def save_state(path: str | Path, policy: HasState) -> None:
    """Write what a policy, or a fusion rule, has learnt; the old file stays whole until the new one is.

    Parameters
    ----------
    path
        Ends in ``.npz`` or ``.json``. Its folder must exist.
    policy
        Its `state_dict` is written, and its class's name, which `load_state` can be asked to compare.

    Raises
    ------
    StateFileError
        If the file cannot be written, its name has another ending, or the state holds what does not travel.

    Examples
    --------
    >>> import tempfile
    >>> from escalade.policies.budgeted import Budgeted
    >>> from escalade.policies.threshold import Threshold
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(f"{folder}/state.json", Budgeted(Threshold(0.8), share=0.2))
    ...     load_state(f"{folder}/state.json")
    {'debt': 0.0, 'since': 0.0, 'decisions': 0}
    """
    path = Path(path)
    encode = _form(path)[0]
    try:
        data = encode(policy.state_dict(), type(policy).__name__)
    except (TypeError, OverflowError, ValueError) as error:
        raise StateFileError(f"{path}: the state of {type(policy).__name__} cannot be written: {error}") from error
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StateFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def load_state(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Read a state for `Policy.load_state_dict`.

    Parameters
    ----------
    kind
        The class's name that the file must be of; by default any.

    Raises
    ------
    StateFileError
        If the file is not there, is broken or no state file, is of a newer layout or of another policy.
    """
    path = Path(path)
    decode = _form(path)[1]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        state, found = decode(data)
    except StateFileError as error:
        raise StateFileError(f"{path}: {error}") from error
    if kind is not None and found != kind:
        raise StateFileError(f"{path}: is the state of a {found}, not of a {kind}; name that policy's own file")
    return state


def to_json(state: dict[str, Any], kind: str = "") -> bytes:
    """Return a state as JSON text in UTF-8.

    Raises
    ------
    TypeError, ValueError
        For a value that is neither array, number, truth value, text nor None, or a dict of these.

    Examples
    --------
    >>> print(to_json({"limit": np.float32([0.5])}).decode())
    {"escalade_state": 1, "policy": "", "state": {"limit": {"$array": [0.5], "dtype": "<f4", "shape": [1]}}}
    """

    def array(_: str, value: np.ndarray[Any, Any]) -> dict[str, Any]:
        flat = [_plain(item) for item in value.ravel().tolist()]
        return {"$array": flat, "dtype": value.dtype.str, "shape": list(value.shape)}

    head = {_HEAD: FORMAT, "policy": kind, "state": _encoded(state, "", array)}
    return json.dumps(head, ensure_ascii=False, allow_nan=False).encode()


def from_json(data: bytes) -> tuple[dict[str, Any], str]:
    """Return state and class name from what `to_json` wrote; StateFileError if it is nothing of the kind."""

    def array(form: dict[str, Any]) -> np.ndarray[Any, Any]:
        dtype, shape = np.dtype(form["dtype"]), tuple(map(int, form["shape"]))
        if dtype.kind not in _KINDS:
            raise ValueError(f"an array of {dtype}")
        values = [_number(item) for item in form["$array"]] if dtype.kind == "f" else form["$array"]
        return np.array(values, dtype).reshape(shape)

    try:
        return _head(json.loads(data.decode()), array)
    except StateFileError:
        raise
    except Exception as error:
        raise StateFileError(f"is no state file in JSON, or a broken one ({error}); fit the policy again") from error


def to_npz(state: dict[str, Any], kind: str = "") -> bytes:
    """Return a state as an npz archive: its arrays, and ``state`` with the rest as JSON text. Raises as `to_json`."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def array(key: str, value: np.ndarray[Any, Any]) -> dict[str, Any]:
        name = f"{len(arrays)}-{key}"
        arrays[name] = value
        return {"$array": name, "shape": list(value.shape)}

    head = {_HEAD: FORMAT, "policy": kind, "state": _encoded(state, "", array)}
    text = np.array(json.dumps(head, allow_nan=False))
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **{"state": text, **arrays})
    return stream.getvalue()


def from_npz(data: bytes) -> tuple[dict[str, Any], str]:
    """Return state and class name from what `to_npz` wrote; StateFileError if it is nothing of the kind."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            return _head(json.loads(str(archive["state"])), lambda form: np.array(archive[form["$array"]]))
    except StateFileError:
        raise
    except Exception as error:
        raise StateFileError("is no state file in npz, or a broken one; fit the policy again") from error


_FORMS = {".npz": (to_npz, from_npz), ".json": (to_json, from_json)}


def _form(path: Path) -> tuple[Callable[..., bytes], Callable[[bytes], tuple[dict[str, Any], str]]]:
    if path.suffix not in _FORMS:
        raise StateFileError(f"{path}: a state file's name ends in .npz or .json")
    return _FORMS[path.suffix]


def _head(head: Any, array: Callable[[dict[str, Any]], np.ndarray[Any, Any]]) -> tuple[dict[str, Any], str]:
    if not isinstance(head, dict) or _HEAD not in head:
        raise StateFileError("is no state file: it was not written by escalade; name the file that `fit` wrote")
    if head[_HEAD] != FORMAT:
        raise StateFileError(f"has layout {head[_HEAD]!r}, this version reads {FORMAT}; fit the policy again")
    state = _decoded(head["state"], array)
    if not isinstance(state, dict):
        raise StateFileError("is broken: its state is no mapping; fit the policy again")
    return state, str(head["policy"])


def _encoded(value: Any, key: str, array: Callable[[str, np.ndarray[Any, Any]], dict[str, Any]]) -> Any:
    """Return `value` as what JSON holds; arrays by way of `array`, floats that JSON has no number for by name."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or name.startswith("$"):
                raise TypeError(f"key {name!r}{_of(key)} is no text, or starts with a dollar sign")
        return {name: _encoded(inner, f"{key}.{name}" if key else name, array) for name, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype}{_of(key)}")
        form = array(key, np.asarray(value))
        return {**form, "$scalar": True} if isinstance(value, np.generic) else form
    if isinstance(value, float):
        return value if isfinite(value) else {"$float": _plain(value)}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"a {type(value).__name__}{_of(key)}")


def _decoded(value: Any, array: Callable[[dict[str, Any]], np.ndarray[Any, Any]]) -> Any:
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return _number(value["$float"])
    if "$array" in value:
        found = array(value)
        if list(found.shape) != value["shape"]:
            raise ValueError(f"an array of shape {list(found.shape)} instead of {value['shape']}")
        return found[()] if value.get("$scalar") else found
    return {name: _decoded(inner, array) for name, inner in value.items()}


def _plain(value: Any) -> Any:
    return repr(value) if isinstance(value, float) and not isfinite(value) else value


def _number(value: Any) -> float:
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _of(key: str) -> str:
    return f" in {key!r}" if key else ""
