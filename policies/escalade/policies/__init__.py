from escalade.policies.constant import AlwaysAccept, AlwaysEscalate
from escalade.policies.errors import PolicyConfigError
from escalade.policies.loading import load_policy
from escalade.policies.policy import Policy
from escalade.policies.scores import *
from escalade.policies.threshold import Threshold
from escalade.policies.types import Action, Batch, Context, Decisions
from escalade.policies.scores import Score, MAX_PROB, softmax, posterior_one, load_score
