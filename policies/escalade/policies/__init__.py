"""What decides whether an input is answered here or asked of the tier above.

Pure: it needs numpy and pydantic, does no I/O, reads no clock and knows nothing of the wire.
"""

from escalade.policies.calibration import (
    cheapest_threshold,
    expected_calibration_error,
    fit_temperature,
)
from escalade.policies.checks import check_policy
from escalade.policies.constant import AlwaysAccept, AlwaysEscalate
from escalade.policies.errors import FitError, NotFittedError, PolicyCheckError, PolicyConfigError, TraceError
from escalade.policies.feedback import UNKNOWN, Feedback, Telemetry
from escalade.policies.loading import load_policy
from escalade.policies.policy import FittedPolicy, Policy
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
from escalade.policies.threshold import Threshold
from escalade.policies.trace import Trace
from escalade.policies.types import Action, Batch, Context, Decisions

__all__ = [
    "ENERGY",
    "ENTROPY",
    "MARGIN",
    "MAX_PROB",
    "UNKNOWN",
    "Action",
    "AlwaysAccept",
    "AlwaysEscalate",
    "Batch",
    "Context",
    "Decisions",
    "Feedback",
    "FitError",
    "FittedPolicy",
    "NotFittedError",
    "Policy",
    "PolicyCheckError",
    "PolicyConfigError",
    "Score",
    "Telemetry",
    "Threshold",
    "Trace",
    "TraceError",
    "cheapest_threshold",
    "check_policy",
    "expected_calibration_error",
    "fit_temperature",
    "load_policy",
    "load_score",
    "posterior_one",
    "softmax",
]
