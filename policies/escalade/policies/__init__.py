"""What decides whether an input is answered here or asked of the tier above.

Pure: it needs numpy and pydantic, does no I/O, reads no clock and knows nothing of the wire.
"""

from escalade.policies.back_pressure import BackPressure
from escalade.policies.budgeted import Budgeted
from escalade.policies.calibration import (
    cheapest_threshold,
    expected_calibration_error,
    fit_temperature,
)
from escalade.policies.certificate import Certificate
from escalade.policies.checks import check_policy
from escalade.policies.combinator import Combinator, listens
from escalade.policies.constant import AlwaysAccept, AlwaysEscalate
from escalade.policies.cost_aware import CostAware
from escalade.policies.deadline_aware import DeadlineAware
from escalade.policies.drift_guard import DriftGuard
from escalade.policies.errors import FitError, NotFittedError, PolicyCheckError, PolicyConfigError, TraceError
from escalade.policies.explore import Explore
from escalade.policies.feedback import UNKNOWN, Feedback, Telemetry
from escalade.policies.first_of import FirstOf
from escalade.policies.hilcb import HILCB
from escalade.policies.hilf import HILF
from escalade.policies.hiln import HILN
from escalade.policies.hysteresis import Hysteresis
from escalade.policies.learned_deferral import LearnedDeferral
from escalade.policies.loading import load_policy
from escalade.policies.per_class_threshold import PerClassThreshold
from escalade.policies.policy import FittedPolicy, Policy
from escalade.policies.risk_controlled import RiskControlled
from escalade.policies.scores import (
    ENERGY,
    ENTROPY,
    MARGIN,
    MAX_PROB,
    Score,
    load_score,
    posterior_one,
    softmax,
)
from escalade.policies.slo_controller import SloController
from escalade.policies.state_file import StateFileError, load_state, save_state
from escalade.policies.table import Table, to_c_header, to_table
from escalade.policies.target_threshold import TargetThreshold
from escalade.policies.threshold import Threshold
from escalade.policies.trace import Trace
from escalade.policies.types import Action, Batch, Context, Decisions

__all__ = [
    "ENERGY",
    "ENTROPY",
    "HILCB",
    "HILF",
    "HILN",
    "MARGIN",
    "MAX_PROB",
    "UNKNOWN",
    "Action",
    "AlwaysAccept",
    "AlwaysEscalate",
    "BackPressure",
    "Batch",
    "Budgeted",
    "Certificate",
    "Combinator",
    "Context",
    "CostAware",
    "DeadlineAware",
    "Decisions",
    "DriftGuard",
    "Explore",
    "Feedback",
    "FirstOf",
    "FitError",
    "FittedPolicy",
    "Hysteresis",
    "LearnedDeferral",
    "NotFittedError",
    "PerClassThreshold",
    "Policy",
    "PolicyCheckError",
    "PolicyConfigError",
    "RiskControlled",
    "Score",
    "SloController",
    "StateFileError",
    "Table",
    "TargetThreshold",
    "Telemetry",
    "Threshold",
    "Trace",
    "TraceError",
    "cheapest_threshold",
    "check_policy",
    "expected_calibration_error",
    "fit_temperature",
    "listens",
    "load_policy",
    "load_score",
    "load_state",
    "posterior_one",
    "save_state",
    "softmax",
    "to_c_header",
    "to_table",
]
