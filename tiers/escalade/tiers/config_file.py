"""Read a tier's YAML: environment overrides, line numbers, one clear line for each mistake."""

from __future__ import annotations

import difflib
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from escalade.policies import PolicyConfigError, load_policy, load_score
from escalade.tiers.aggregator.build import check_aggregator
from escalade.tiers.config import TierConfig
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PREFIX = "ESCALADE__"


def load_config(path: str | Path, environment: Mapping[str, str] | None = None) -> TierConfig:
    """Return the effective configuration of a tier.

    Parameters
    ----------
    path:
        The YAML file. Its folder becomes importable, so that `my_module:MyPolicy` may stand beside it;
        relative paths in it are relative to it.
    environment:
        Where `ESCALADE__SECTION__KEY=value` overrides come from (values are YAML); default `os.environ`.

    Raises
    ------
    ConfigError
        For the first mistake found: unreadable file, bad YAML, unknown or wrong key, a policy or a score
        that cannot be loaded.
    """
    path = Path(path)
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
        raise ConfigError("must be a mapping of sections (tier, model, policy, ...)", source=str(path))
    _refuse_duplicates(root, path)
    overridden = _apply_environment(data, os.environ if environment is None else environment)

    def where(keys: Sequence[str | int]) -> str:
        variable = _variable(".".join(map(str, keys)), overridden)
        return variable or f"{path}:{_line(root, keys)}"

    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return parse_config(data, base=path.parent, where=where)


def parse_config(data: Mapping[str, Any], *, base: Path | None = None, where: Any = None) -> TierConfig:
    """Return the configuration that a mapping describes; see `load_config` for files.

    Parameters
    ----------
    base:
        What relative paths are relative to; default the working directory.
    where:
        Function from a key path to the place it was written at, for errors.
    """

    def fail(keys: Sequence[str | int], message: str) -> ConfigError:
        return ConfigError(message, key=".".join(map(str, keys)), source=where(keys) if where else "")

    try:
        config = TierConfig.model_validate(dict(data))
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        keys = _without_tags(first["loc"], data)
        raise fail(keys, _remedy(first, keys)) from None
    try:
        load_policy(config.policy, folder=base or Path())
        load_score(config.score, config.model.output_kind)
        if config.aggregator:
            check_aggregator(config.aggregator, base or Path())
    except PolicyConfigError as error:
        keys = [*error.key.split(".")] if error.key else ["policy"]
        text = str(error).removeprefix(f"{error.key}: ")
        raise fail(keys, text) from error
    return config.in_folder(base or Path())


@contextmanager
def locate_errors(path: str | Path) -> Iterator[None]:
    """Say where the value stands that a ConfigError blames by its key alone: one raised after loading.

    The place is the file with its line, or the variable of `os.environ` that overrode it.
    """
    try:
        yield
    except ConfigError as error:
        if error.source or not error.key:
            raise
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        variable = _variable(error.key, {_dotted(name): name for name in os.environ if name.startswith(PREFIX)})
        source = variable or f"{path}:{_line(root, error.key.split('.'))}"
        raise ConfigError(error.message, key=error.key, source=source) from error


def show_config(config: TierConfig) -> str:
    """Return the effective values as YAML."""
    values = config.model_dump(mode="json", by_alias=True)
    values["model"]["name"] = config.model.served_name
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _apply_environment(data: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Write the overrides into `data`; return which variable set which dotted key."""
    overridden = {}
    for name in sorted(environment):
        if not name.startswith(PREFIX):
            continue
        keys = _dotted(name).split(".")
        try:
            value = yaml.safe_load(environment[name])
        except yaml.YAMLError as error:
            raise ConfigError("is not a YAML value", key=".".join(keys), source=name) from error
        section = data
        for key in keys[:-1]:
            inner = section.get(key)
            if inner is None:
                inner = section[key] = {}
            if not isinstance(inner, dict):
                raise ConfigError(f"{key!r} is a value, not a section", key=".".join(keys), source=name)
            section = inner
        section[keys[-1]] = value
        overridden[".".join(keys)] = name
    return overridden


def _dotted(name: str) -> str:
    """Return the key that a variable overrides."""
    return name.removeprefix(PREFIX).lower().replace("__", ".")


def _variable(key: str, overridden: Mapping[str, str]) -> str | None:
    """Return the variable that set a dotted key, by itself or as part of a section."""
    return next((name for part, name in overridden.items() if f"{key}.".startswith(f"{part}.")), None)


def _without_tags(location: Sequence[str | int], data: Any) -> list[str | int]:
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


def _fields(keys: Sequence[str | int]) -> list[str]:
    """Return the known keys of the section that `keys` points into."""
    section: type[BaseModel] = TierConfig
    for key in keys[:-1]:
        if isinstance(key, int):
            continue
        field = section.model_fields.get(key)
        annotation = field.annotation if field else None
        inner = [one for one in [annotation, *getattr(annotation, "__args__", ())] if _is_section(one)]
        if not inner:
            return []
        section = inner[0]
    return [str(field.validation_alias or name) for name, field in section.model_fields.items()]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _remedy(error: Any, keys: Sequence[str | int]) -> str:
    """Return pydantic's message as a sentence with what to do."""
    if error["type"] == "extra_forbidden":
        known = _fields(keys)
        close = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}" if known else ""
        return f"unknown key{hint}"
    if error["type"] == "missing":
        return "is required; add it"
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) and repr(value) not in message else ""
    return message[0].lower() + message[1:] + shown


def _line(root: Any, keys: Sequence[str | int]) -> int:
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


def _refuse_duplicates(node: Any, path: Path) -> None:
    """Raise when a mapping has a key twice: YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                source = f"{path}:{key.start_mark.line + 1}"
                raise ConfigError("stands twice in its section; keep one", key=str(key.value), source=source)
            seen.add(key.value)
            _refuse_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, path)
