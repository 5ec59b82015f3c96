"""How sure a model is of each row: posteriors, scores, and scores by name."""

from escalade.policies.scores.custom import CustomScore
from escalade.policies.scores.energy import ENERGY, Energy
from escalade.policies.scores.loading import load_score
from escalade.policies.scores.posterior import ENTROPY, MARGIN, MAX_PROB, Entropy, Margin, MaxProb
from escalade.policies.scores.score import Score
from escalade.policies.scores.softmax import posterior_one, softmax

__all__ = [
    "ENERGY",
    "ENTROPY",
    "MARGIN",
    "MAX_PROB",
    "CustomScore",
    "Energy",
    "Entropy",
    "Margin",
    "MaxProb",
    "Score",
    "load_score",
    "posterior_one",
    "softmax",
]
