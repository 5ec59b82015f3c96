"""Events as arrays, for the fusion rule: fused when they are answered, learnt from when nobody is missing any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.fusion import (
    FeatureFusion,
    Fused,
    FusionRule,
    HealthChecked,
    MeanProbability,
    NodeHealth,
    NodeReport,
)
from escalade.policies.fusion.rule import conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from escalade.tiers.aggregator.event import Event

KEEP = float(np.exp(-1.0 / 500.0))
"""A node's reliability is of its last five hundred events or so."""


class Fusing:
    """A fusion rule as the aggregator uses it.

    Events are fused with the trust of the moment. A rule and its health check learn from an event once:
    when every node has reported it, or when no late observation is taken any more. So a node that is
    merely slower than the others is not silent.

    Parameters
    ----------
    rule:
        Of posteriors, or of features; the nodes' posteriors are then watched by a health check of their own.
    """

    def __init__(self, rule: FusionRule | FeatureFusion, *, nodes: int, classes: int) -> None:
        self.rule = rule
        self._nodes, self.classes = nodes, classes
        self._features = rule if isinstance(rule, FeatureFusion) else None
        # Of features only the health is learnt, from the posteriors beside them.
        self._watched = HealthChecked(MeanProbability(), NodeHealth()) if isinstance(rule, FeatureFusion) else rule
        self._agreed = np.zeros((nodes, 2))  # right, wrong
        self.failed: Callable[[Exception], object] = lambda error: None
        """Told what a user's rule raises while it learns, or is asked whether an event is settled."""
        self.changed = False
        """Whether anything was learnt since `state_dict` was last asked for."""
        self.try_out()

    @property
    def feature_size(self) -> int:
        """Numbers in a feature vector that the rule takes; 0 where it takes any, or posteriors."""
        if self._features is None:
            return 0
        rows = len(self._features.state_dict()["weight"])
        return rows // self._nodes if self._features.how == "concat" else rows

    def try_out(self) -> None:
        """Fuse an event that says nothing; raises what a rule raises that is not of these nodes and classes."""
        if self._features is not None:
            blank = np.zeros((1, self._nodes, self.feature_size), np.float32)
            fused = self._features.fuse(blank)
        else:
            uniform = np.full((1, self._nodes, self.classes), 1 / self.classes, np.float32)
            fused = self._watched.fuse(uniform)
        if fused.posterior.shape != (1, self.classes):
            raise ValueError(f"it answers {fused.posterior.shape[1]} classes, not {self.classes}")

    def fuse(self, events: Sequence[Event]) -> Fused:
        """Return the answers to events as they are now."""
        p, mask = arrays(events)
        if self._features is None:
            return self._watched.fuse(p, mask)
        size = self.feature_size
        blank = np.zeros((self._nodes, size), np.float32)
        x = np.stack([blank if event.features is None else event.features for event in events])
        trust = self._trust()
        fused = self._features.fuse(x, mask, trust)
        return Fused(fused.posterior, fused.score, conflict(p, fused.used), fused.used)

    def settled(self, events: Sequence[Event]) -> NDArray[np.bool_]:
        """Return bool `[E]`: whether no missing node can change the label."""
        if self._features is not None:
            return np.array([event.present.all() for event in events])
        try:
            return self._watched.settled(*arrays(events))
        except Exception as error:  # noqa: BLE001  # a user's rule may raise anything
            self.failed(error)
            return np.zeros(len(events), np.bool_)

    def learn(self, events: Sequence[Event]) -> None:
        """Learn from events that nobody is expected to report any more, in this order."""
        p, mask = arrays(events)
        for event in events:
            event.learnt = True
        self.changed = True
        labels = np.array([event.label for event in events])
        for event in events:
            self._agreed[event.present] *= KEEP
            self._count(event, event.label if event.label >= 0 else event.guess)
        try:
            self._watched.observe(p, mask, labels)
        except Exception as error:  # noqa: BLE001  # as above
            self.failed(error)

    def learn_label(self, event: Event) -> None:
        """Learn the truth about an event that was learnt from before without it: counted beside the agreement."""
        p, mask = arrays([event])
        labels = np.array([event.label])
        rule = self._watched.rule if isinstance(self._watched, HealthChecked) else self._watched
        self.changed = True
        self._count(event, event.guess, -1.0)
        self._count(event, event.label)
        try:
            rule.observe(p, mask, labels)
        except Exception as error:  # noqa: BLE001  # as above
            self.failed(error)

    def report(self) -> list[tuple[NodeReport, float]]:
        """Return how every node is, and its reliability: nan before anything was learnt."""
        told = self._watched.report() if isinstance(self._watched, HealthChecked) else []
        reports = told or [NodeReport(node, 1.0, "", "", -1) for node in range(self._nodes)]
        with np.errstate(invalid="ignore"):
            share = self._agreed[:, 0] / self._agreed.sum(axis=1)
        return list(zip(reports, share.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt."""
        self.changed = False
        return {"rule": self._watched.state_dict(), "agreed": self._agreed.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was learnt; ValueError where it is of other nodes, classes or another rule."""
        before = self.state_dict()
        try:
            self._watched.load_state_dict(state["rule"])
            self.try_out()
            self._agreed = np.array(state["agreed"], np.float64).reshape(self._nodes, 2)
        except Exception as error:
            self._watched.load_state_dict(before["rule"])
            raise ValueError(str(error)) from error

    def _count(self, event: Event, truth: int, count: float = 1.0) -> None:
        """Count who agrees with what is taken for the truth, if anything is."""
        if truth >= 0:
            right = event.posteriors.argmax(axis=1) == truth
            self._agreed[event.present & right, 0] += count
            self._agreed[event.present & ~right, 1] += count
            np.maximum(self._agreed, 0.0, out=self._agreed)

    def _trust(self) -> NDArray[np.float32] | None:
        assert isinstance(self._watched, HealthChecked)
        trust = self._watched.health.weights
        return trust if len(trust) else None


def arrays(events: Sequence[Event]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return posteriors `[E, N, C]` and who has reported, `[E, N]`."""
    return np.stack([event.posteriors for event in events]), np.stack([event.present for event in events])
