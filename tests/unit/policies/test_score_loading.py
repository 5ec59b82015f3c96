"""Scores by the name in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from escalade.policies import ENERGY, ENTROPY, MARGIN, MAX_PROB, PolicyConfigError, Score, load_score


@pytest.mark.parametrize("score", [MAX_PROB, MARGIN, ENTROPY, ENERGY])
def test_a_built_in_score_is_found_by_its_name(score: Score) -> None:
    """Every built-in score is loaded by the name that it carries."""
    assert load_score(score.name, "logits") is score


def test_energy_takes_the_models_temperature() -> None:
    """The energy of a calibrated model is computed at that model's temperature."""
    assert load_score("energy", "logits", temperature=2.0).one([0.0, 0.0]) == pytest.approx(2 * np.log(2))
    assert load_score("margin", "logits", temperature=2.0) is MARGIN


def test_energy_of_probabilities_is_refused() -> None:
    """Energy on a model that already gives probabilities is refused with what to use instead."""
    with pytest.raises(PolicyConfigError, match=r"score: 'energy' needs logits.* use max_prob, margin or entropy"):
        load_score("energy", "posterior")


@pytest.mark.parametrize("name", ["max_prob", "margin", "entropy", "energy"])
def test_a_model_that_is_no_classifier_needs_a_score_of_its_own(name: str) -> None:
    """A built-in score on raw outputs is refused with the two ways out."""
    with pytest.raises(PolicyConfigError, match=r"output_kind is raw; name your own score as module:callable"):
        load_score(name, "raw")


def test_a_misspelt_score_is_met_with_a_suggestion() -> None:
    """An unknown name lists the names and suggests the closest."""
    with pytest.raises(PolicyConfigError) as caught:
        load_score("max_porb", "logits", key="tier.score")
    assert caught.value.key == "tier.score"
    assert str(caught.value) == (
        "tier.score: no score 'max_porb'; did you mean 'max_prob'? "
        "There are max_prob, margin, entropy, energy, or module:callable for your own"
    )


@pytest.mark.parametrize("kind", ["logits", "posterior", "raw"])
def test_a_users_function_is_imported(
    module: Callable[[str], str], kind: Literal["logits", "posterior", "raw"]
) -> None:
    """``module:callable`` names a function of the outputs, whatever the model gives."""
    name = module("def surprise(outputs):\n    return -outputs['error'].mean(axis=1)\n")
    score = load_score(f"{name}:surprise", kind)
    assert (score.name, score.needs) == (f"{name}:surprise", "outputs")
    assert score.batch({"error": np.ones((2, 3))}).tolist() == [-1.0, -1.0]


def test_a_name_that_cannot_be_called_is_refused(module: Callable[[str], str]) -> None:
    """A name of something that is no function is refused with what it is."""
    with pytest.raises(PolicyConfigError, match="is 3, which cannot be called; name a function"):
        load_score(f"{module('limit = 3')}:limit", "raw")
