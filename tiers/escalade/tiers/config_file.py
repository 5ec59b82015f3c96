"""Read a tier's YAML: environment overrides, line numbers, one clear line for each mistake."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from escalade.policies import PolicyConfigError, load_policy, load_score
from escalade.tiers.aggregator.build import check_aggregator
from escalade.tiers.config import TierConfig
from escalade.tiers.errors import ConfigError
from escalade.tiers.paths import check_distinct
from escalade.tiers.yaml_file import line_of, read_yaml, remedy, without_tags

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
        that cannot be loaded, one path for two things.
    """
    path = Path(path)
    data, root = read_yaml(path, "tier, model, policy")
    overridden = _apply_environment(data, os.environ if environment is None else environment)

    def where(keys: Sequence[str | int]) -> str:
        variable = _variable(".".join(map(str, keys)), overridden)
        return variable or f"{path}:{line_of(root, keys)}"

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
        keys = without_tags(first["loc"], data)
        raise fail(keys, remedy(first, keys, TierConfig)) from None
    try:
        load_policy(config.policy, folder=base or Path())
        load_score(config.score, config.model.output_kind)
        if config.aggregator:
            check_aggregator(config.aggregator, base or Path())
    except PolicyConfigError as error:
        keys = [*error.key.split(".")] if error.key else ["policy"]
        text = str(error).removeprefix(f"{error.key}: ")
        raise fail(keys, text) from error
    config = config.in_folder(base or Path())
    try:
        check_distinct(config)
    except ConfigError as error:
        raise fail(error.key.split("."), error.message) from error
    return config


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
        source = variable or f"{path}:{line_of(root, error.key.split('.'))}"
        raise type(error)(error.message, key=error.key, source=source) from error


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
