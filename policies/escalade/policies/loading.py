"""From a configuration to a policy: `load_policy`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from escalade.policies.constant import AlwaysAccept, AlwaysEscalate
from escalade.policies.errors import PolicyConfigError, did_you_mean
from escalade.policies.importing import import_object
from escalade.policies.parameters import checked_parameters
from escalade.policies.policy import Policy
from escalade.policies.threshold import Threshold

BUILT_IN: dict[str, type[Policy]] = {kind.__name__: kind for kind in (AlwaysAccept, AlwaysEscalate, Threshold)}


def load_policy(spec: Mapping[str, Any], *, key: str = "policy") -> Policy:
    """Build the policy that a configuration describes.

    Parameters
    ----------
    spec
        ``name``, a built-in's or ``module:Class`` for one's own, and beside it the parameters of its
        constructor. These are validated against the constructor's annotations; a parameter annotated
        as a `Policy` is itself such a mapping.
    key
        Where it stands in the configuration, for errors.

    Raises
    ------
    PolicyConfigError
        If there is no such policy, it cannot be imported, or its parameters do not fit. The text says
        what is wrong, where, and what to do.

    Examples
    --------
    >>> load_policy({"name": "Threshold", "threshold": 0.8})
    Threshold(0.8)
    >>> load_policy({"name": "Threshold", "treshold": 0.8})
    Traceback (most recent call last):
        ...
    escalade.policies.errors.PolicyConfigError: policy.treshold: Threshold has no parameter 'treshold'; \
did you mean 'threshold'? It takes threshold
    """
    if not isinstance(spec, Mapping) or not all(isinstance(name, str) for name in spec):
        raise PolicyConfigError(key, f"expected a mapping such as {{name: Threshold, threshold: 0.8}}, got {spec!r}")
    name = spec.get("name")
    if not isinstance(name, str):
        raise PolicyConfigError(f"{key}.name", f"name the policy: {_choices()}")
    kind = _policy_class(name, f"{key}.name")
    values = {parameter: value for parameter, value in spec.items() if parameter != "name"}
    arguments = checked_parameters(kind, values, key, lambda inner, where: load_policy(inner, key=where))
    try:
        return kind(**arguments)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise PolicyConfigError(key, f"{kind.__name__} cannot be built: {reason}") from error


def _policy_class(name: str, key: str) -> type[Policy]:
    if ":" not in name:
        if name not in BUILT_IN:
            hint = did_you_mean(name, BUILT_IN)
            raise PolicyConfigError(key, f"no policy '{name}'{hint} There are {_choices()}")
        return BUILT_IN[name]
    found = import_object(name, key)
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise PolicyConfigError(key, f"'{name}' is {found!r}, not a policy; derive it from escalade.policies.Policy")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PolicyConfigError(key, f"'{name}' has no method {missing}; every policy needs it")
    return found


def _choices() -> str:
    return f"{', '.join(BUILT_IN)}, or module:Class for your own"
