"""From a scenario's policy blocks, or a caller's objects, to the policies of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import Policy, PolicyConfigError, load_policy
from escalade.simulations.fleet.columns import NAMES, LazyBatch
from escalade.simulations.fleet.deciding import checked
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from escalade.simulations.fleet.compiled import World

Given = Policy | Mapping[str, Policy] | None


def policies_of(world: World, given: Given) -> list[Policy]:
    """Return the policy of each class of endpoints, then that of the edge nodes, each tried on a few rows.

    Parameters
    ----------
    given
        A policy for all endpoints, or a mapping from ``edge_node`` and names of classes (``endpoint`` for all) to
        policies, in place of the scenario's. Each is used as it is: a run that learns changes it.

    Raises
    ------
    ConfigError
        If one cannot be loaded, does not fit the score, fails on the score table, or is not simulated.
    """
    scenario = world.scenario
    chosen = {"endpoint": given} if isinstance(given, Policy) else dict(given or {})
    names = [one.name for one in scenario.endpoints]
    unknown = set(chosen) - {"endpoint", "edge_node", *names}
    if unknown:
        raise ConfigError(f"no tier or class {min(unknown)!r}; there are endpoint, edge_node, {', '.join(names)}")
    found: list[Policy] = []
    for number, one in enumerate(scenario.endpoints):
        key = f"endpoints.{number}.policy"
        mine = chosen.get(one.name, chosen.get("endpoint"))
        found.append(_ready(world, mine or _loaded(world, one.policy, key), 0, key))
    mine = chosen.get("edge_node")
    key = "edge_nodes.policy"
    found.append(_ready(world, mine or _loaded(world, scenario.edge_nodes.policy, key), 1, key))
    return found


def reads(world: World, policy: Policy, level: int) -> frozenset[str]:
    """Return which columns of a batch a policy reads, as far as a try shows."""
    batch = _sample(world, level)
    policy.decide(batch)
    return batch.read


def _loaded(world: World, spec: Mapping[str, object], key: str) -> Policy:
    try:
        return load_policy(spec, key=key, folder=world.scenario.folder)
    except PolicyConfigError as error:
        raise ConfigError(str(error).removeprefix(f"{error.key}: "), key=error.key) from error


def _ready(world: World, policy: Policy, level: int, key: str) -> Policy:
    mine = policy.at_tier(level)
    try:
        mine.check_score(world.scenario.scores.score)
        sample = _sample(world, level)
        checked(mine.decide(sample), len(sample))
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"does not work on this scenario's score table: {reason}", key=key) from error
    return mine


def _sample(world: World, level: int) -> LazyBatch:
    table = world.tables[level]
    rows = np.arange(min(16, table.samples))
    columns = {
        "score": table.score[rows],
        "posterior": table.posterior[rows],
        "time_s": np.zeros(len(rows)),
        "uniform": (rows + 0.5) / len(rows),
        "remaining_ms": np.full(len(rows), 1000.0),
        "bytes_up": np.full(len(rows), 784, np.int64),
        "upstream_ms": np.full(len(rows), 20.0),
        "device": rows.astype(np.int64),
        "upstream_load": np.zeros(len(rows)),
    }
    return LazyBatch(len(rows), {name: _constant(columns[name]) for name in NAMES})


def _constant(value: object) -> Callable[[], object]:
    return lambda: value
