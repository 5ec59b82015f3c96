"""A user's own code by its name in a configuration: `import_object`."""

from __future__ import annotations

import importlib
import sys

from escalade.policies.errors import PolicyConfigError, did_you_mean


def import_object(target: str, key: str) -> object:
    """Import ``package.module:name``.

    Parameters
    ----------
    target
        Module and attribute, with a colon between; the attribute may be dotted (``Outer.Inner``).
    key
        Where the name stands in the configuration, for errors.

    Raises
    ------
    PolicyConfigError
        If the module is not found or fails when it is imported, or has no such attribute.

    Examples
    --------
    >>> import_object("math:hypot", "score")(3, 4)
    5.0
    """
    module_name, _, path = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise PolicyConfigError(key, f"'{target}' is not of the form package.module:Name")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            raise PolicyConfigError(
                key,
                f"cannot import '{missing}' for '{target}'; put its folder on PYTHONPATH or install it "
                f"(searched: {', '.join(entry or '.' for entry in sys.path)})",
            ) from error
        raise PolicyConfigError(
            key, f"module '{module_name}' imports '{missing}', which is not there; install it"
        ) from error
    except (Exception, SystemExit) as error:
        raise PolicyConfigError(
            key, f"module '{module_name}' fails when it is imported: {type(error).__name__}: {error}"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            names = [other for other in dir(found) if not other.startswith("_")]
            hint = f"{did_you_mean(name, names)} It has {', '.join(names[:20]) or 'no names'}"
            raise PolicyConfigError(key, f"no '{name}' for '{target}'{hint}")
        found = getattr(found, name)
    return found
