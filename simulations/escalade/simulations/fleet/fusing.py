"""The fusion rules of a run: `Fusers`, a rule for each group of nodes, the objects that the tiers' aggregator loads."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import PolicyConfigError
from escalade.policies.fusion import FusionRule, HealthChecked, load_rule
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.fusion import Fused
    from escalade.simulations.fleet.compiled import World

NO_LABEL = -1
"""Of an answer that no trusted node took part in."""


def rule_of(world: World) -> FusionRule:
    """Return the rule of a scenario with events, tried on an event that says nothing.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or is one of features, or of other nodes or classes.
    """
    events, sights, key = world.scenario.events, world.sights, "events.rule"
    assert events is not None
    assert sights is not None
    try:
        rule = load_rule(events.rule, key=key, folder=world.scenario.folder)
    except PolicyConfigError as error:
        raise ConfigError(str(error).removeprefix(f"{error.key}: "), key=error.key) from error
    if not isinstance(rule, FusionRule):
        raise ConfigError("fuses features, and views are simulated as posteriors: take another rule", key=key)
    _, views, classes = sights.posterior.shape
    try:
        fused = copy.deepcopy(rule).fuse(np.full((1, views, classes), 1 / classes, np.float32))
    except Exception as error:
        raise ConfigError(
            f"does not fuse {views} views of {classes} classes: {error}; name what it was fitted to (`state:`, "
            "written by `escalade fusion fit`), or take MeanProbability, which needs no fit",
            key=key,
        ) from error
    if fused.posterior.shape != (1, classes):
        raise ConfigError(f"answers {fused.posterior.shape[1]} classes, not {classes}", key=key)
    return rule


class Fusers:
    """Fuses and learns in order of time, each group of nodes by itself; many events at once where that is the same.

    A rule without a memory is one object. One behind a health check is told of all that is to be learnt at once, and
    says who was trusted when. Any other that learns is asked and told step by step.
    """

    def __init__(self, rule: FusionRule) -> None:
        self._rule, self._of = rule, dict[int, FusionRule]()
        self._inner_learns = _learns(rule.rule if isinstance(rule, HealthChecked) else rule)
        self._remembers = self._inner_learns or isinstance(rule, HealthChecked)

    def labels(
        self, group: NDArray[np.int64], learns: NDArray[np.bool_], p: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return the label of each step that fuses; `NO_LABEL` without trusted nodes, and for those that learn.

        Parameters
        ----------
        group, learns
            ``[S]``: whose step it is, ascending, and whether it learns; of a group in their order.
        p, mask
            ``[S, V, C]`` and ``[S, V]``.
        """
        out = np.full(len(group), NO_LABEL, np.int64)
        if not self._remembers:
            fuses = np.flatnonzero(~learns)
            out[fuses] = _labels(self._rule.fuse(p[fuses], mask[fuses]))
            return out
        for part in np.split(np.arange(len(group)), np.flatnonzero(np.diff(group)) + 1) if len(group) else []:
            number = int(group[part[0]])
            if number not in self._of:
                self._of[number] = copy.deepcopy(self._rule)
            steps = _in_turn if self._inner_learns else _watched
            out[part] = steps(self._of[number], learns[part], p[part], mask[part])
        return out

    def unhealthy(self) -> dict[str, int]:
        """Return how many nodes are unwell now, by what is the matter with them."""
        reports = [one for rule in self._of.values() if isinstance(rule, HealthChecked) for one in rule.report()]
        return dict(Counter(one.reason for one in reports if one.reason))


def _learns(rule: FusionRule) -> bool:
    return type(rule).observe is not FusionRule.observe


def _labels(fused: Fused) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = np.where(fused.used.any(axis=1), fused.posterior.argmax(axis=1), NO_LABEL)
    return labels


def _watched(
    rule: FusionRule, learns: NDArray[np.bool_], p: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Fuse by a rule that learns nothing, behind a health check: each event with the trust of its moment."""
    assert isinstance(rule, HealthChecked)
    trusted = rule.health.observe(p[learns], mask[learns])
    now = rule.health.weights > 0.0
    by_step = np.concatenate([trusted, now[None]])
    out = np.full(len(learns), NO_LABEL, np.int64)
    fuses = np.flatnonzero(~learns)
    before = np.cumsum(learns)[fuses]
    out[fuses] = _labels(rule.rule.fuse(p[fuses], mask[fuses] & by_step[before]))
    return out


def _in_turn(
    rule: FusionRule, learns: NDArray[np.bool_], p: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    out = np.full(len(learns), NO_LABEL, np.int64)
    for run in np.split(np.arange(len(learns)), np.flatnonzero(np.diff(learns)) + 1):
        if not learns[run[0]]:
            out[run] = _labels(rule.fuse(p[run], mask[run]))
        else:
            for one in run:
                rule.observe(p[one : one + 1], mask[one : one + 1], np.array([-1]))
    return out
