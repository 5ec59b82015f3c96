"""Which nodes are broken, from their disagreement: `NodeHealth`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.fusion.baseline import Baseline
from escalade.policies.fusion.errors import FusionInputError
from escalade.policies.fusion.evidence import FIRST_ROW, LOST, WEAK, Evidence, increments
from escalade.policies.fusion.observations import checked_labels, checked_posteriors
from escalade.policies.fusion.reasons import Reason, reason_of
from escalade.policies.fusion.reports import HealthLimits, NodeReport

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RECENT = 256
"""Events kept for naming the reason."""

BLOCK = 256
"""Events whose evidence is computed at once, until trust changes."""

GRADUAL = 0.35
"""A node that agreed in at least this share of the events that led to the alarm had not lost all sense at once."""

_OBSERVED = ("total", "alarmed", "right", "events", "recent", "began", "since", "gradual", "last_seen")


class NodeHealth:
    """Watches nodes online and distrusts those that cease to agree with the others as they used to.

    For every event and node the trusted other nodes' answers give a posterior; the node's own answer is
    compared with what it would give if it were well (`Baseline`), and the evidence is summed up
    (`Evidence`). Nodes with an alarm are no longer consulted about others. `fit` measures healthy nodes; unfitted,
    they are assumed to be right three times in four.

    Parameters
    ----------
    limits
        See `HealthLimits`.

    Notes
    -----
    With the default limits and four nodes that are right in 65 to 85 % of cases of ten classes, each of a
    stuck, a noisy and a mis-wired node (all labels) is distrusted within 60 events of the fault and taken
    back within 60 of the repair; two swapped labels, which show only in events of these classes, within
    200 and 200; a node half of whose answers are chance within 100 and 100; a drifting one by the time
    that two in five of its answers are; a silent one after `silent_after`. These are the worst of a few
    hundred trials, rounded up, not bounds.

    What it needs, and does not promise otherwise: at least three nodes of which most are well; faults that
    begin one after another (of two that break at once the worse is found first); events of more than one
    class (a stuck node that happens to be right is right). Nodes that err together are not noticed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 5, (300, 1))
    >>> labels = np.where(rng.random((300, 4)) < 0.85, truth, rng.integers(0, 5, (300, 4)))
    >>> labels[100:200, 2] = 3                                   # node 2 is stuck for a hundred events
    >>> health = NodeHealth()
    >>> trusted = health.observe(np.eye(5)[labels])
    >>> np.flatnonzero(~trusted[:, 2])[[0, -1]].tolist()
    [131, 215]
    >>> health = NodeHealth()
    >>> _ = health.observe(np.eye(5)[labels[:150]])
    >>> print(health.report()[2].reason, health.report()[2].detail, sep=": ")
    stuck: says 3 in 48 of 48 events
    """

    def __init__(self, limits: HealthLimits | None = None) -> None:
        self.limits = limits or HealthLimits()
        self._baseline: Baseline | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was observed, but not what was fitted."""
        self._evidence: Evidence | None = None
        self._events = 0
        self._began = np.empty((0, 0), np.int64)  # [N, 2 + C] the last event at which the sum was 0
        self._since = np.empty(0, np.int64)  # [N] the event at which it was distrusted
        self._gradual = np.empty(0, bool)  # [N] whether it then still agreed more than by chance
        self._last_seen = np.empty(0, np.int64)  # [N]
        self._recent = np.empty((0, 0, 2), np.int64)  # [<= RECENT, N, 2]: the others' class or -1, its answer

    def fit(self, posteriors: ArrayLike, labels: ArrayLike | None = None, mask: ArrayLike | None = None) -> Self:
        """Measure healthy nodes on events with labels, or without, and forget what was observed."""
        p, present = checked_posteriors(posteriors, mask)
        events, _, classes = p.shape
        if not events:
            raise FusionInputError("no events to measure healthy nodes by")
        y = np.full(events, -1) if labels is None else checked_labels(labels, events, classes, unknown=True)
        self._baseline = Baseline.of(p.argmax(axis=2), present, y, classes)
        self.reset()
        return self

    @property
    def weights(self) -> NDArray[np.float32]:
        """1 for each node that is trusted, 0 for others: float32 ``[N]``, empty before the first event."""
        return np.empty(0, np.float32) if self._evidence is None else self._evidence.trusted.astype(np.float32)

    def observe(self, posteriors: ArrayLike, mask: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Learn from events in their order; return who was trusted before each, bool ``[E, N]``.

        The cut into batches does not matter.

        Raises
        ------
        FusionInputError
            If posteriors or mask are not what they should be, or nodes or classes are not as before.
        """
        p, present = checked_posteriors(posteriors, mask)
        events, nodes, classes = p.shape
        baseline, evidence = self._prepared(nodes, classes)
        answers = p.argmax(axis=2)
        before = np.empty((events, nodes), bool)
        reference = np.empty((events, nodes), np.int64)
        start = 0
        while start < events:
            part = slice(start, min(start + BLOCK, events))
            added, seen, sure_of = increments(baseline, answers[part], present[part], evidence, self.limits.min_others)
            before[part] = evidence.trusted
            reference[part] = seen
            for increment, answer, sure in zip(added, answers[part], sure_of, strict=True):
                changed = evidence.add(increment, answer, sure, self.limits.alarm)
                self._began[evidence.total <= 0.0] = self._events + start
                start += 1
                if changed:
                    trusted = evidence.trusted
                    self._since[trusted] = -1
                    new = ~trusted & (self._since < 0)
                    self._since[new] = self._events + start - 1
                    for node in np.flatnonzero(new).tolist():
                        lost = bool(evidence.alarmed[node, LOST])
                        self._gradual[node] = not lost and self._agreed(node, reference[:start], answers[:start])
                    break
        self._remember(reference, answers, present)
        return before

    def report(self) -> list[NodeReport]:
        """Return how every node is, in the order of the nodes; empty before the first event."""
        if self._evidence is None:
            return []
        trusted = self._evidence.trusted
        missed = self._events - 1 - self._last_seen
        reports = []
        for node in range(len(trusted)):
            reason: Reason = ""
            detail, since = "", -1
            if not trusted[node]:
                reason, detail = reason_of(
                    self._table(node), self._evidence.alarmed[node], gradual=bool(self._gradual[node])
                )
                since = int(self._since[node])
            if missed[node] >= self.limits.silent_after:
                reason, detail = "silent", f"missed the last {missed[node]} events"
                since = int(self._last_seen[node]) + self.limits.silent_after
            reports.append(NodeReport(node, float(trusted[node]), reason, detail, since))
        return reports

    def _prepared(self, nodes: int, classes: int) -> tuple[Baseline, Evidence]:
        if self._baseline is None:
            self._baseline = Baseline.assumed(nodes, classes)
        if self._baseline.confusion.shape[:2] != (nodes, classes):
            known = self._baseline.confusion.shape
            raise FusionInputError(f"watching {known[0]} nodes of {known[1]} classes, got {[nodes, classes]}")
        if self._evidence is None:
            self._evidence = Evidence.none(nodes, classes)
            self._began, self._since = np.full((nodes, classes + FIRST_ROW), -1), np.full(nodes, -1)
            self._gradual = np.zeros(nodes, bool)
            self._last_seen = np.full(nodes, -1)
            self._recent = np.empty((0, nodes, 2), np.int64)
        return self._baseline, self._evidence

    def _remember(self, reference: NDArray[np.int64], answers: NDArray[np.int64], present: NDArray[np.bool_]) -> None:
        events = len(answers)
        if events:
            numbers = np.where(present, self._events + np.arange(events)[:, None], -1)
            self._last_seen = np.maximum(self._last_seen, numbers.max(axis=0))
        pairs = np.stack([reference, answers], axis=2)
        self._recent = np.concatenate([self._recent, pairs])[-RECENT:]
        self._events += events

    def _agreed(self, node: int, reference: NDArray[np.int64], answers: NDArray[np.int64]) -> bool:
        new = np.stack([reference[:, node], answers[:, node]], axis=1)
        pairs = np.concatenate([self._recent[:, node], new])[-RECENT:]
        number = np.arange(len(pairs)) + self._events + len(new) - len(pairs)
        pairs = pairs[(number > self._began[node, WEAK]) & (pairs[:, 0] >= 0)]
        return not len(pairs) or bool((pairs[:, 0] == pairs[:, 1]).mean() >= GRADUAL)

    def _table(self, node: int) -> NDArray[np.int64]:
        if self._evidence is None:
            return np.empty((0, 0), np.int64)
        alarmed = self._evidence.alarmed[node]
        classes = len(alarmed) - FIRST_ROW
        age = np.arange(self._events - len(self._recent), self._events)
        first = np.flatnonzero(alarmed)[:1]  # the most general alarm, hence the latest
        pairs = self._recent[age > self._began[node, first].max(initial=-1), node]
        pairs = pairs[pairs[:, 0] >= 0]
        table = np.zeros((classes, classes), np.int64)
        np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
        return table

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted and observed."""
        state: dict[str, Any] = {}
        if self._baseline is not None:
            b = self._baseline
            state |= {"confusion": b.confusion.copy(), "prior": b.prior.copy(), "temperature": b.temperature}
        if self._evidence is not None:
            state |= {"total": self._evidence.total.copy(), "alarmed": self._evidence.alarmed.copy()}
            state |= {"right": self._evidence.right.copy()}
            state |= {"events": self._events, "recent": self._recent.copy()}
            state |= {"began": self._began.copy(), "since": self._since.copy()}
            state |= {"gradual": self._gradual.copy(), "last_seen": self._last_seen.copy()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another has fitted and observed; ValueError if it is not a state of this class."""
        fitted, observed = {"confusion", "prior", "temperature"}, set(_OBSERVED)
        if set(state) not in (set(), fitted, fitted | observed):
            raise ValueError(f"NodeHealth keeps {sorted(fitted | observed)}, got {sorted(state)}")
        self._baseline = None
        self.reset()
        if state:
            self._baseline = Baseline(
                np.array(state["confusion"]), np.array(state["prior"]), float(state["temperature"])
            )
        if "total" in state:
            self._evidence = Evidence(
                np.array(state["total"]), np.array(state["alarmed"], bool), np.array(state["right"], bool)
            )
            self._events = int(state["events"])
            self._recent = np.array(state["recent"], np.int64)
            self._began = np.array(state["began"], np.int64)
            self._since = np.array(state["since"], np.int64)
            self._gradual = np.array(state["gradual"], bool)
            self._last_seen = np.array(state["last_seen"], np.int64)

    def __repr__(self) -> str:
        return f"NodeHealth({self.limits!r})"
