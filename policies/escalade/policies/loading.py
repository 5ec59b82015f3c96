"""From a configuration to a policy: `load_policy`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from escalade.policies.back_pressure import BackPressure
from escalade.policies.budgeted import Budgeted
from escalade.policies.constant import AlwaysAccept, AlwaysEscalate
from escalade.policies.cost_aware import CostAware
from escalade.policies.deadline_aware import DeadlineAware
from escalade.policies.drift_guard import DriftGuard
from escalade.policies.errors import PolicyConfigError, did_you_mean
from escalade.policies.explore import Explore
from escalade.policies.first_of import FirstOf
from escalade.policies.hilcb import HILCB
from escalade.policies.hilf import HILF
from escalade.policies.hiln import HILN
from escalade.policies.hysteresis import Hysteresis
from escalade.policies.importing import import_object
from escalade.policies.learned_deferral import LearnedDeferral
from escalade.policies.parameters import checked_parameters
from escalade.policies.per_class_threshold import PerClassThreshold
from escalade.policies.policy import FittedPolicy, Policy
from escalade.policies.risk_controlled import RiskControlled
from escalade.policies.slo_controller import SloController
from escalade.policies.state_file import StateFileError, load_state
from escalade.policies.target_threshold import TargetThreshold
from escalade.policies.threshold import Threshold

_KINDS: tuple[type[Policy], ...] = (
    AlwaysAccept,
    AlwaysEscalate,
    BackPressure,
    Budgeted,
    CostAware,
    DeadlineAware,
    DriftGuard,
    Explore,
    FirstOf,
    HILCB,
    HILF,
    HILN,
    Hysteresis,
    LearnedDeferral,
    PerClassThreshold,
    RiskControlled,
    SloController,
    TargetThreshold,
    Threshold,
)
BUILT_IN: dict[str, type[Policy]] = {kind.__name__: kind for kind in _KINDS}


def load_policy(
    spec: Mapping[str, Any], *, key: str = "policy", folder: str | Path = ".", unfitted: bool = False
) -> Policy:
    """Build the policy that a configuration describes.

    Parameters
    ----------
    spec
        ``name``, a built-in's or ``module:Class`` for one's own, and beside it the parameters of its
        constructor. These are validated against the constructor's annotations; a parameter annotated
        as a `Policy` is itself such a mapping. ``state``, if given, names the file (``.npz`` or ``.json``, see
        `state_file`) of what the policy has learnt; a nested policy may name its own.
    key
        Where it stands in the configuration, for errors.
    folder
        What the names of state files are relative to: the configuration file's folder.
    unfitted
        Whether a policy that has to be fitted may come without a state: to fit it.

    Raises
    ------
    PolicyConfigError
        If there is no such policy, it cannot be imported, its parameters or its state do not fit, or it has to
        be fitted and has no state. The text says what is wrong, where, and what to do.

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
    values = {parameter: value for parameter, value in spec.items() if parameter not in ("name", "state")}

    def nested(inner: Any, where: str) -> Policy:
        return load_policy(inner, key=where, folder=folder, unfitted=unfitted)

    arguments = checked_parameters(kind, values, key, nested)
    try:
        policy = kind(**arguments)
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise PolicyConfigError(key, f"{kind.__name__} cannot be built: {reason}") from error
    if "state" in spec:
        _load(policy, spec["state"], f"{key}.state", Path(folder))
    if isinstance(policy, FittedPolicy) and not (unfitted or policy.fitted):
        raise PolicyConfigError(
            f"{key}.state",
            f"{kind.__name__} decides by what it was fitted to; name the file of that, state: FILE.npz, which "
            "`escalade policy fit` writes",
        )
    return policy


def _load(policy: Policy, name: object, key: str, folder: Path) -> None:
    if not isinstance(name, str):
        raise PolicyConfigError(key, f"expected the name of a file, got {name!r}")
    file = folder / name
    kind = type(policy).__name__
    try:
        policy.load_state_dict(load_state(file, kind))
    except StateFileError as error:
        raise PolicyConfigError(key, str(error)) from error
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise PolicyConfigError(key, f"{file}: does not fit this {kind}: {reason}") from error


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
