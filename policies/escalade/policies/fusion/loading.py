"""From a configuration to a fusion rule: `load_rule`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from escalade.policies.errors import PolicyConfigError, did_you_mean
from escalade.policies.fusion.checked import HealthChecked
from escalade.policies.fusion.confidence import MaxConfidence
from escalade.policies.fusion.dawid_skene import DawidSkene
from escalade.policies.fusion.features import FeatureFusion
from escalade.policies.fusion.health import NodeHealth
from escalade.policies.fusion.mean import MeanProbability
from escalade.policies.fusion.pool import LogOpinionPool
from escalade.policies.fusion.reliability import ReliabilityWeighted
from escalade.policies.fusion.reports import HealthLimits
from escalade.policies.fusion.rule import FusionRule
from escalade.policies.fusion.stacking import Stacking
from escalade.policies.fusion.vote import MajorityVote
from escalade.policies.importing import import_object
from escalade.policies.state_file import StateFileError, load_state

RULES: dict[str, type[FusionRule]] = {
    kind.__name__: kind
    for kind in (
        DawidSkene,
        LogOpinionPool,
        MajorityVote,
        MaxConfidence,
        MeanProbability,
        ReliabilityWeighted,
        Stacking,
    )
}
NEEDS_A_FIT = (Stacking, FeatureFusion)
_OWN_KEYS = ("name", "state", "health")


def load_rule(spec: Mapping[str, Any], *, key: str = "rule", folder: str | Path = ".") -> FusionRule | FeatureFusion:
    """Build the rule that a configuration describes.

    Parameters
    ----------
    spec
        ``name``: one of `RULES`, ``FeatureFusion``, or ``module:Class`` for one's own. ``health``: true (the
        default), false, or `HealthLimits` as a mapping: whether the rule stands behind a health check; one
        of features never does, since features do not say what a node would answer. ``state``: the file of
        what was fitted. All else are parameters of the constructor.
    key
        Where it stands in the configuration, for errors.
    folder
        What the state file's name is relative to.

    Raises
    ------
    PolicyConfigError
        With the key, what is wrong and what to do.

    Examples
    --------
    >>> load_rule({"name": "MeanProbability"})
    HealthChecked(MeanProbability())
    >>> load_rule({"name": "Mean"})
    Traceback (most recent call last):
    escalade.policies.errors.PolicyConfigError: rule.name: no fusion rule 'Mean'. There are DawidSkene, \
FeatureFusion, LogOpinionPool, MajorityVote, MaxConfidence, MeanProbability, ReliabilityWeighted, Stacking, \
or module:Class for your own
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise PolicyConfigError(key, f"expected a mapping such as {{name: MeanProbability}}, got {spec!r}")
    kind = _kind(spec["name"], f"{key}.name")
    values = {name: value for name, value in spec.items() if name not in _OWN_KEYS}
    known = list(inspect.signature(kind).parameters)
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known)
            raise PolicyConfigError(f"{key}.{name}", f"{kind.__name__} has no parameter '{name}'{hint}")
    try:
        rule = kind(**values)
    except Exception as error:
        raise PolicyConfigError(key, f"{kind.__name__} cannot be built: {error}") from error
    whole = _behind_health(rule, spec.get("health", True), f"{key}.health") if isinstance(rule, FusionRule) else rule
    if "state" in spec:
        _load(whole, Path(folder) / str(spec["state"]), f"{key}.state")
    elif kind in NEEDS_A_FIT:
        raise PolicyConfigError(
            f"{key}.state",
            f"{kind.__name__} fuses by what it was fitted to; name the file of that, state: FILE.npz, which "
            "`escalade fusion fit` writes, or take MeanProbability, which needs none",
        )
    return whole


def _kind(name: str, key: str) -> type[FusionRule] | type[FeatureFusion]:
    if name == FeatureFusion.__name__:
        return FeatureFusion
    if ":" in name:
        found = import_object(name, key)
        if isinstance(found, type) and issubclass(found, FusionRule) and not inspect.isabstract(found):
            return found
        raise PolicyConfigError(key, f"'{name}' is no fusion rule; derive it from FusionRule and give it `combine`")
    if name not in RULES:
        names = sorted([*RULES, FeatureFusion.__name__])
        choices = f"There are {', '.join(names)}, or module:Class for your own"
        raise PolicyConfigError(key, f"no fusion rule '{name}'{did_you_mean(name, names)} {choices}")
    return RULES[name]


def _behind_health(rule: FusionRule, health: object, key: str) -> FusionRule:
    if health is False:
        return rule
    try:
        limits = HealthLimits() if health is True else HealthLimits.model_validate(health)
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyConfigError(".".join([key, *map(str, first["loc"])]), str(first["msg"]).lower()) from error
    return HealthChecked(rule, NodeHealth(limits))


def _load(rule: FusionRule | FeatureFusion, file: Path, key: str) -> None:
    """Load what was fitted, by `escalade fusion fit` with or without a health check."""
    try:
        state = load_state(file)
        if isinstance(rule, HealthChecked) and set(state) != {"rule", "health"}:
            state = {"rule": state, "health": {}}
        elif not isinstance(rule, HealthChecked) and set(state) == {"rule", "health"}:
            state = state["rule"]
        rule.load_state_dict(state)
    except StateFileError as error:
        raise PolicyConfigError(key, str(error)) from error
    except Exception as error:
        raise PolicyConfigError(key, f"{file}: does not fit this {type(rule).__name__}: {error}") from error
