"""The conformance kit for fusion rules: `check_fusion`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice

from escalade.policies.fusion.checks import demands
from escalade.policies.fusion.errors import FusionCheckError
from escalade.policies.fusion.rule import FusionRule

Demand = Callable[[FusionRule, int, int, int], Iterator[str]]

#: Every demand by its name; its docstring says what it is.
DEMANDS: dict[str, Demand] = {
    "well formed": demands.well_formed,
    "sums to one": demands.sums_to_one,
    "no node, no answer": demands.no_node_no_answer,
    "masked equals absent": demands.masked_equals_absent,
    "weight 0 equals absent": demands.weightless_equals_absent,
    "order of nodes": demands.order_of_nodes,
    "one node is the identity": demands.one_node_is_the_identity,
    "events are independent": demands.events_are_independent,
    "fuse is pure": demands.fuse_is_pure,
    "pickles": demands.pickles,
    "state round trip": demands.state_round_trip,
}

_LINES = 3


def check_fusion(rule: FusionRule, *, nodes: int = 4, classes: int = 5, seed: int = 0) -> None:
    """Try a rule on many events and report every promise of the interface that it breaks.

    Call it in a test of one's own rule. A rule that has to be fitted is given fitted, with the `nodes` and
    `classes` that it was fitted to. The rule itself is not changed where it can be copied.

    Parameters
    ----------
    rule
        What to check, as it would be used.
    nodes, classes
        Of the events it is tried on, both 2 or more.
    seed
        Of the events.

    Raises
    ------
    FusionCheckError
        If a promise is broken: it lists all of them, each with up to three findings.

    Notes
    -----
    The order of the nodes is demanded of rules that say `symmetric`, the identity of those that say
    `identity`, everything else of all. Passing is evidence, not proof: events are sampled.

    Examples
    --------
    >>> from escalade.policies.fusion.mean import MeanProbability
    >>> check_fusion(MeanProbability())

    >>> class First(FusionRule):
    ...     '''Believes the first node, even where it did not report.'''
    ...
    ...     def combine(self, posteriors, weights):
    ...         return posteriors[:, 0]
    >>> try:
    ...     check_fusion(First())
    ... except FusionCheckError as error:
    ...     print(error.rules[:2])
    ['order of nodes', 'one node is the identity']
    """
    violations: list[str] = []
    for name, demand in DEMANDS.items():
        try:
            found = list(islice(demand(_copy(rule), nodes, classes, seed), _LINES))
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
            found = [f"raised {type(error).__name__}: {error}"]
        violations += [f"{name}: {line}" for line in found]
    if violations:
        raise FusionCheckError(repr(rule), violations)


def _copy(rule: FusionRule) -> FusionRule:
    """Copy the rule, so that what one demand does to it does not show in another."""
    try:
        return copy.deepcopy(rule)
    except Exception:  # noqa: BLE001 - that it cannot be copied shows in the demand that copies it
        return rule
