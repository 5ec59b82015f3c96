"""Which onnxruntime execution providers a tier asks for, and which it gets."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from escalade.tiers.errors import ConfigError

_SUFFIX = "ExecutionProvider"


class Provider(NamedTuple):
    """An execution provider by onnxruntime's full name, with its options."""

    name: str
    options: dict[str, Any]
    required: bool = False


def full_name(name: str, *, key: str = "model.providers") -> str:
    """Return onnxruntime's name of a provider: `cuda` and `CUDAExecutionProvider` mean the same.

    Raises
    ------
    ConfigError
        When onnxruntime knows no such provider in any of its builds.
    """
    import onnxruntime  # here, since who only reads a configuration without a model does not need it

    known = {provider.removesuffix(_SUFFIX).lower(): provider for provider in onnxruntime.get_all_providers()}
    short = name.removesuffix(_SUFFIX).lower()
    if short in known:
        return str(known[short])
    close = difflib.get_close_matches(short, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"unknown execution provider {name!r}; {hint}Known: {', '.join(sorted(known))}", key=key)


def split_available(wanted: list[Provider]) -> tuple[list[Provider], list[str]]:
    """Return the providers that this build of onnxruntime offers, in order, and the names that it lacks.

    The CPU provider closes the list, since onnxruntime falls back to it in any case.

    Raises
    ------
    ConfigError
        When a `required` provider is missing.
    """
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    usable: list[Provider] = []
    missing: list[str] = []
    for provider in wanted:
        if provider.name in offered:
            usable.append(provider)
        elif provider.required:
            raise ConfigError(
                f"{provider.name} is required, but this onnxruntime offers only {', '.join(offered)}; "
                "install the onnxruntime build for it, or drop `required`",
                key="model.providers",
            )
        else:
            missing.append(provider.name)
    cpu = f"CPU{_SUFFIX}"
    if all(provider.name != cpu for provider in usable):
        usable.append(Provider(cpu, {}))
    return usable, missing
