"""From a name in a configuration to a score: `load_score`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from escalade.policies.errors import PolicyConfigError, did_you_mean
from escalade.policies.importing import import_object
from escalade.policies.scores.custom import CustomScore
from escalade.policies.scores.energy import ENERGY, Energy
from escalade.policies.scores.posterior import ENTROPY, MARGIN, MAX_PROB

if TYPE_CHECKING:
    from escalade.policies.scores.score import Score

BUILT_IN: dict[str, Score] = {score.name: score for score in (MAX_PROB, MARGIN, ENTROPY, ENERGY)}


def load_score(
    name: str,
    output_kind: Literal["logits", "posterior", "raw"],
    *,
    temperature: float = 1.0,
    key: str = "score",
) -> Score:
    """Return the score of that name, fit for what the model gives.

    Parameters
    ----------
    name
        ``max_prob``, ``margin``, ``entropy``, ``energy``, or ``module:callable`` for one's own function
        of the model's outputs (see `CustomScore`).
    output_kind
        What the model gives: logits, a posterior, or something else (``"raw"``).
    temperature
        The ``T`` of ``energy``; the others take it with their posterior.
    key
        Where the name stands in the configuration, for errors.

    Raises
    ------
    PolicyConfigError
        If there is no such score, or it cannot be computed from this kind of output.

    Examples
    --------
    >>> load_score("margin", "logits")
    <score margin>
    >>> load_score("energy", "posterior")
    Traceback (most recent call last):
        ...
    escalade.policies.errors.PolicyConfigError: score: 'energy' needs logits, but the model gives a \
posterior, whose log-sum-exp says nothing; use max_prob, margin or entropy, or a model that gives logits
    """
    if ":" in name:
        function = import_object(name, key)
        if not callable(function):
            raise PolicyConfigError(key, f"'{name}' is {function!r}, which cannot be called; name a function")
        return CustomScore(name, function)
    if name not in BUILT_IN:
        hint = f"{did_you_mean(name, BUILT_IN)} There are {', '.join(BUILT_IN)}"
        raise PolicyConfigError(key, f"no score '{name}'{hint}, or module:callable for your own")
    if output_kind == "raw":
        raise PolicyConfigError(
            key,
            f"'{name}' needs class probabilities, but the model's output_kind is raw; "
            "name your own score as module:callable, or set output_kind to logits or posterior",
        )
    if name == ENERGY.name and output_kind == "posterior":
        raise PolicyConfigError(
            key,
            f"'{name}' needs logits, but the model gives a posterior, whose log-sum-exp says nothing; "
            "use max_prob, margin or entropy, or a model that gives logits",
        )
    if name == ENERGY.name and temperature != 1.0:
        return Energy(temperature)
    return BUILT_IN[name]
