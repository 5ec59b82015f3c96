"""Read a scenario's YAML, with overrides: one clear line for each mistake."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import ValidationError

from escalade.simulations.fleet.arrivals import Arrivals
from escalade.simulations.fleet.distribution import Distribution
from escalade.simulations.fleet.hardware import PROFILES, HardwareProfile
from escalade.simulations.fleet.limits import too_much
from escalade.simulations.fleet.scenario import Scenario
from escalade.tiers.errors import ConfigError
from escalade.tiers.yaml_file import line_of, read_yaml, remedy, without_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Keys = Sequence[str | int]

OVERRIDE = "--set"


def load_scenario(path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario of a file.

    Parameters
    ----------
    path
        YAML. Its folder becomes importable, so that `my_module:MyPolicy` may stand beside it.
    overrides
        ``key=value`` each: a dotted key, ``endpoints.0.count`` or, by its name, ``endpoints.camera.count``; the
        value is YAML.

    Raises
    ------
    ConfigError
        For the first mistake: it names file, line and key (or the override), and what to do.
    """
    file = Path(path)
    data, root = read_yaml(file, "endpoints, edge_nodes, edge_servers")
    changed = [_override(data, one) for one in overrides]

    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return parse_scenario(data, folder=file.parent, where=lambda keys: _place(file, root, changed, keys))


def located(error: ConfigError, path: str | Path, overrides: Sequence[str] = ()) -> ConfigError:
    """Return what was found wrong with a scenario after it was read, with the place of its key in the file."""
    if error.source or not error.key:
        return error
    data, root = read_yaml(Path(path), "")
    changed = [_override(data, one) for one in overrides]
    place = _place(Path(path), root, changed, _keys(error.key))
    return ConfigError(error.message, key=error.key, source=place)


def _place(file: Path, root: Any, changed: Sequence[tuple[str, str]], keys: Keys) -> str:
    """Return the override, or file and line, that a key was written at."""
    text = ".".join(map(str, keys))
    by = next((one for key, one in changed if f"{text}.".startswith(f"{key}.")), None)
    return f"{OVERRIDE} {by}" if by else f"{file}:{line_of(root, keys)}"


def _keys(dotted: str) -> list[str | int]:
    return [int(one) if one.isdigit() else one for one in dotted.split(".")]


def parse_scenario(
    data: Mapping[str, Any], *, folder: Path | None = None, where: Callable[[Keys], str] | None = None
) -> Scenario:
    """Return the scenario that a mapping describes, its profiles filled in; see `load_scenario`.

    Parameters
    ----------
    folder
        What names of files are relative to; default the working directory.
    where
        From a key path to the place it was written at, for errors.
    """
    base = folder or Path()

    def fail(keys: Keys, message: str) -> ConfigError:
        return ConfigError(message, key=".".join(map(str, keys)), source=where(keys) if where else "")

    filled = _with_profiles(dict(data), base, fail)
    try:
        scenario = Scenario.model_validate(filled)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        keys = without_tags(first["loc"], filled)
        text = _kinds(keys) if first["type"] == "union_tag_not_found" else remedy(first, keys, Scenario)
        raise fail(*_placed(keys, text, filled)) from None
    big = too_much(scenario)
    if big is not None:
        raise fail(*big)
    return scenario.in_folder(base)


def _kinds(keys: Keys) -> str:
    """Return which kinds a section that has none may be of."""
    choices = get_args(get_args(Arrivals if keys[-1] == "arrivals" else Distribution)[0])
    return f"give kind: {', '.join(get_args(one.model_fields['kind'].annotation)[0] for one in choices)}"


def _placed(keys: Keys, text: str, data: Mapping[str, Any]) -> tuple[Keys, str]:
    """Take the key out of what `Scenario` says of several keys together."""
    head, colon, rest = text.partition(": ")
    named = _keys(head)
    return (named, rest) if colon and not keys and named[0] in data else (keys, text)


def _with_profiles(data: dict[str, Any], folder: Path, fail: Callable[[Keys, str], ConfigError]) -> dict[str, Any]:
    """Put the profile itself in the place of its name."""
    data = dict(data)
    for section in ("edge_nodes", "edge_servers"):
        if isinstance(data.get(section), dict):
            data[section] = _resolved(data[section], (section,), folder, fail)
    if isinstance(data.get("endpoints"), list):
        data["endpoints"] = [
            _resolved(one, ("endpoints", number), folder, fail) if isinstance(one, dict) else one
            for number, one in enumerate(data["endpoints"])
        ]
    return data


def _resolved(
    section: dict[str, Any], keys: Keys, folder: Path, fail: Callable[[Keys, str], ConfigError]
) -> dict[str, Any]:
    name = section.get("profile")
    if not isinstance(name, str) or name in PROFILES:
        return section
    if not name.endswith((".yaml", ".yml")):
        known = ", ".join(PROFILES)
        raise fail(
            [*keys, "profile"], f"no hardware profile {name!r}; there are {known}, or name a file that ends in .yaml"
        )
    file = folder / name
    if not file.is_file():
        raise fail([*keys, "profile"], f"{file}: no such file; give a path from the scenario's folder")
    found, root = read_yaml(file, "service, idle_mw, active_mw")
    try:
        return {**section, "profile": HardwareProfile.model_validate(found).model_dump()}
    except ValidationError as error:
        first = error.errors()[0]
        inner = without_tags(first["loc"], found)
        raise ConfigError(
            remedy(first, inner, HardwareProfile),
            key=".".join(map(str, inner)),
            source=f"{file}:{line_of(root, inner)}",
        ) from None


def _override(data: dict[str, Any], text: str) -> tuple[str, str]:
    """Write one override into the data; return its key, with names of list entries as numbers, and its text."""
    key, equals, value = text.partition("=")
    source = f"{OVERRIDE} {text}"
    if not equals or not key:
        raise ConfigError("write it as key=value, for example edge_nodes.count=20", source=source)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError("the value is no YAML", key=key, source=source) from error
    node: Any = data
    path: list[str] = []
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            index = _entry(node, part)
            if index is None:
                raise ConfigError(
                    f"there is no entry {part!r}; give its number, from 0, or its name", key=key, source=source
                )
            path.append(str(index))
            if last:
                node[index] = parsed
            else:
                node = node[index]
        elif isinstance(node, dict):
            path.append(part)
            if last:
                node[part] = parsed
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        else:
            raise ConfigError(f"{'.'.join(path)!r} is a value, not a section", key=key, source=source)
    return ".".join(path), text


def _entry(entries: list[Any], part: str) -> int | None:
    if part.isdigit() and int(part) < len(entries):
        return int(part)
    return next((i for i, one in enumerate(entries) if isinstance(one, dict) and one.get("name") == part), None)
