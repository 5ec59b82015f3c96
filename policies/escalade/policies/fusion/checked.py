"""Any rule, without the nodes that are broken: `HealthChecked`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from escalade.policies.fusion.health import NodeHealth
from escalade.policies.fusion.observations import checked_posteriors, checked_weights
from escalade.policies.fusion.rule import Fused, FusionRule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from escalade.policies.fusion.reports import NodeReport


class HealthChecked(FusionRule):
    """Fuses by another rule, from the nodes that `NodeHealth` trusts.

    A node that is not trusted counts as one that did not report. An event that only such nodes reported has
    no answer: uniform, score ``-inf``. `fuse` uses the trust of now; `step` is for events in their order of
    arrival and answers each with the trust that the events before it left.

    Parameters
    ----------
    rule
        Fuses what is left.
    health
        Watches; default limits for None.

    Examples
    --------
    >>> from escalade.policies.fusion.confidence import MaxConfidence
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 5, 400)
    >>> p = np.full((400, 4, 5), 0.1) + 0.5 * np.eye(5)[truth][:, None]
    >>> p[:, 3] = np.eye(5)[0]                                # certain, and stuck
    >>> plain, checked = MaxConfidence(), HealthChecked(MaxConfidence())
    >>> [(rule.step(p).posterior.argmax(axis=1) == truth).mean().round(2).item() for rule in (plain, checked)]
    [0.19, 0.95]
    >>> checked.report()[3].reason
    'stuck'
    """

    def __init__(self, rule: FusionRule, health: NodeHealth | None = None) -> None:
        self.rule = rule
        self.health = health or NodeHealth()

    @property
    def symmetric(self) -> bool:
        """As the rule, until a node is distrusted."""
        return self.rule.symmetric and bool(self.health.weights.all())

    @property
    def identity(self) -> bool:
        """As the rule, until a node is distrusted."""
        return self.rule.identity and bool(self.health.weights.all())

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[Any]:
        """Leave it to the rule."""
        return self.rule.combine(posteriors, weights)

    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        """Fuse every event from the nodes that are trusted now."""
        p, present = checked_posteriors(posteriors, mask)
        trust = self.health.weights
        return self.rule.fuse(p, present & (trust > 0.0) if len(trust) == p.shape[1] else present, weights)

    def settled(self, posteriors: ArrayLike, mask: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.bool_]:
        """As the rule, for the trust of now: nodes that are not trusted are not waited for."""
        p, present = checked_posteriors(posteriors, mask)
        trust = checked_weights(weights, p.shape[1])
        if len(self.health.weights) == p.shape[1]:
            trust = trust * self.health.weights
        return self.rule.settled(p, present & (trust > 0.0), trust)

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Fit the rule, and the health check, to labelled events of healthy nodes."""
        self.rule.fit(posteriors, labels, mask)
        self.health.fit(posteriors, labels, mask)
        return self

    def observe(self, posteriors: ArrayLike, mask: ArrayLike | None = None, labels: ArrayLike | None = None) -> None:
        """Watch the nodes; let the rule learn from those that were trusted."""
        p, present = checked_posteriors(posteriors, mask)
        trusted = self.health.observe(p, present)
        self.rule.observe(p, present & trusted, labels)

    def step(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        """Fuse events in their order: as ``fuse``, ``observe`` on one event after the other, but at once.

        If the rule itself learns from events, it does so after the batch.
        """
        p, present = checked_posteriors(posteriors, mask)
        trusted = present & self.health.observe(p, present)
        fused = self.rule.fuse(p, trusted, weights)
        self.rule.observe(p, trusted)
        return fused

    def report(self) -> list[NodeReport]:
        """Return how every node is; see `NodeReport`."""
        return self.health.report()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of rule and health check."""
        return {"rule": self.rule.state_dict(), "health": self.health.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over both states."""
        if state and set(state) != {"rule", "health"}:
            raise ValueError(f"HealthChecked keeps 'rule' and 'health', got {sorted(state)}")
        self.rule.load_state_dict(state.get("rule", {}))
        self.health.load_state_dict(state.get("health", {}))

    def __repr__(self) -> str:
        return f"HealthChecked({self.rule!r})"
