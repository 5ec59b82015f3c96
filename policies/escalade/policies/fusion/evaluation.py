"""How the rules do on recorded logits, with all nodes well and with one broken: `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.confidence import MaxConfidence
from escalade.policies.fusion.dawid_skene import DawidSkene
from escalade.policies.fusion.default import default_rule
from escalade.policies.fusion.faults import noisy, stuck
from escalade.policies.fusion.mean import MeanProbability
from escalade.policies.fusion.pool import LogOpinionPool
from escalade.policies.fusion.reliability import ReliabilityWeighted
from escalade.policies.fusion.stacking import Stacking
from escalade.policies.fusion.vote import MajorityVote
from escalade.policies.scores import softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.policies.fusion.rule import FusionRule

RULES: dict[str, Callable[[], FusionRule]] = {
    "mean": MeanProbability,
    "pool": LogOpinionPool,
    "vote": MajorityVote,
    "max_confidence": MaxConfidence,
    "reliability": ReliabilityWeighted,
    "dawid_skene": DawidSkene,
    "stacking": Stacking,
    "default": default_rule,
}
"""What is compared, beside ``best_single``: the view that was best on the calibration data."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracies in [0, 1] of one rule: all nodes well, and for every choice of the broken node, in order."""

    healthy: float
    noisy: list[float]
    stuck: list[float]

    @property
    def one_noisy(self) -> float:
        """The mean over which node is noisy."""
        return float(np.mean(self.noisy))

    @property
    def one_stuck(self) -> float:
        """The mean over which node is stuck."""
        return float(np.mean(self.stuck))


def evaluate(
    z_cal: NDArray[np.floating],
    y_cal: NDArray[np.integer],
    z_test: NDArray[np.floating],
    y_test: NDArray[np.integer],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Fit every rule to healthy calibration data and report its accuracy on the test events, in their order.

    Broken nodes are broken from the first test event on: a noisy one gives independent normal logits, a
    stuck one one certain answer (node ``n`` the class ``n mod C``). A rule that learns online starts each of
    these runs from its fit and learns without labels. Where a node is broken ``best_single`` is the best
    of the others.

    Parameters
    ----------
    z_cal, z_test
        Logits ``[N, E, C]``, finite.
    y_cal, y_test
        Labels ``[E]`` in [0, C).
    seed
        Of the noise.
    progress
        Told each rule's name before its turn.
    """
    views, _, classes = z_test.shape
    calibration, test = posteriors(z_cal), posteriors(z_test)
    ruined: dict[str, list[NDArray[np.float32]]] = {"noisy": [], "stuck": []}
    for view in range(views):
        ruined["noisy"].append(softmax(noisy(z_test[view], seed + view)))
        ruined["stuck"].append(softmax(stuck(z_test[view], view % classes)))
    single = (test.argmax(axis=2) == y_test[:, None]).mean(axis=0)
    order = np.argsort(-(calibration.argmax(axis=2) == y_cal[:, None]).mean(axis=0), kind="stable")
    left = [float(single[next((v for v in order if v != broken), broken)]) for broken in range(views)]
    outcomes = {"best_single": Outcome(float(single[order[0]]), left, left)}
    for name, make in RULES.items():
        progress(name)
        rule = make().fit(calibration, y_cal)
        state = rule.state_dict()

        def accuracy(p: NDArray[np.float32], rule: FusionRule = rule, state: dict[str, object] = state) -> float:
            rule.load_state_dict(state)
            return float((rule.step(p).posterior.argmax(axis=1) == y_test).mean())

        broken: dict[str, list[float]] = {"noisy": [], "stuck": []}
        for fault, replaced in ruined.items():
            for view in range(views):
                p = test.copy()
                p[:, view] = replaced[view]
                broken[fault].append(accuracy(p))
        outcomes[name] = Outcome(accuracy(test), broken["noisy"], broken["stuck"])
    return outcomes


def posteriors(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turn logits ``[N, E, C]`` into posteriors, float32 ``[E, N, C]``."""
    return np.ascontiguousarray(np.stack([softmax(view) for view in logits], axis=1))
