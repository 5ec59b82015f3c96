"""What every YAML file of escalade is read with: duplicates refused, lines known, mistakes as sentences."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_yaml(path: Path, sections: str) -> tuple[dict[str, Any], Any]:
    """Return a file's mapping and its parse tree, for `line_of`.

    Parameters
    ----------
    sections:
        The names of a few sections, for the error about a file that is no mapping.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no YAML or no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not a text file in UTF-8", source=str(path)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"is not valid YAML: {what}", source=f"{path}{line}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"must be a mapping of sections ({sections}, ...)", source=str(path))
    _refuse_duplicates(root, path)
    return data, root


def without_tags(location: Sequence[str | int], data: Any) -> list[str | int]:
    """Drop what pydantic adds to a location that is no key of the file (the tags of unions)."""
    keys: list[str | int] = []
    for index, part in enumerate(location):
        if isinstance(data, dict):
            if part not in data and index < len(location) - 1:
                continue
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif index > 0 and not isinstance(data, (dict, list)):
            continue
        keys.append(part)
    return keys


def _fields(keys: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """Return the known keys of the section that `keys` points into."""
    section = model
    for key in keys[:-1]:
        if isinstance(key, int):
            continue  # an entry of a list, whose type was found by the list's name
        field = section.model_fields.get(key)
        inner = _sections(field.annotation) if field else []
        if not inner:
            return []
        section = inner[0]
    return [str(field.validation_alias or name) for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names: itself, its choices, or what it is a list of."""
    if _is_section(annotation):
        return [annotation]
    return [found for one in getattr(annotation, "__args__", ()) for found in _sections(one)]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def remedy(error: Any, keys: Sequence[str | int], model: type[BaseModel]) -> str:
    """Return pydantic's message as a sentence with what to do."""
    if error["type"] == "extra_forbidden":
        known = _fields(keys, model)
        close = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}" if known else ""
        return f"unknown key{hint}"
    if error["type"] == "missing":
        return "is required; add it"
    message = str(error["msg"])
    ours = message.removeprefix("Value error, ")  # may begin with what was written, as it was written
    message = message[0].lower() + message[1:] if ours == message else ours
    value = error.get("input")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) and repr(value) not in message else ""
    return message + shown


def line_of(root: Any, keys: Sequence[str | int]) -> int:
    """Return the line of the deepest of `keys` that the file has."""
    node: Any = root
    line: int = root.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_duplicates(root: Any, path: Path) -> None:
    """Raise when a mapping has a key twice: YAML would silently keep the last.

    A node that stands in several places, or in itself (an anchor with aliases), is looked at once.
    """
    waiting, known = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        below: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.value in seen:
                    source = f"{path}:{key.start_mark.line + 1}"
                    raise ConfigError("stands twice in its section; keep one", key=str(key.value), source=source)
                seen.add(key.value)
                below.append(value)
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        for one in reversed(below):
            if id(one) not in known:
                known.add(id(one))
                waiting.append(one)
