"""Several nodes saw one event: their posteriors, or features, fused into one answer.

Rules for posteriors are `FusionRule`; `default_rule` returns the one to use. Pure, as all of
`escalade.policies`: numpy and pydantic, no I/O, no clock.
"""

from escalade.policies.fusion.baseline import Baseline
from escalade.policies.fusion.checked import HealthChecked
from escalade.policies.fusion.checks import check_fusion
from escalade.policies.fusion.confidence import MaxConfidence
from escalade.policies.fusion.crowd import Crowd, crowd_em
from escalade.policies.fusion.dawid_skene import DawidSkene
from escalade.policies.fusion.default import default_rule
from escalade.policies.fusion.errors import FusionCheckError, FusionInputError
from escalade.policies.fusion.features import FeatureFusion, aggregate
from escalade.policies.fusion.head import Head, fit_head
from escalade.policies.fusion.health import NodeHealth
from escalade.policies.fusion.loading import load_rule
from escalade.policies.fusion.mean import MeanProbability
from escalade.policies.fusion.pool import LogOpinionPool
from escalade.policies.fusion.reliability import ReliabilityWeighted
from escalade.policies.fusion.reports import HealthLimits, NodeReport
from escalade.policies.fusion.rule import Fused, FusionRule
from escalade.policies.fusion.stacking import Stacking
from escalade.policies.fusion.vote import MajorityVote

__all__ = [
    "Baseline",
    "Crowd",
    "DawidSkene",
    "FeatureFusion",
    "Fused",
    "FusionCheckError",
    "FusionInputError",
    "FusionRule",
    "Head",
    "HealthChecked",
    "HealthLimits",
    "LogOpinionPool",
    "MajorityVote",
    "MaxConfidence",
    "MeanProbability",
    "NodeHealth",
    "NodeReport",
    "ReliabilityWeighted",
    "Stacking",
    "aggregate",
    "check_fusion",
    "crowd_em",
    "default_rule",
    "fit_head",
    "load_rule",
]
