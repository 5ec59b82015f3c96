"""What a policy gives up and what it saves on a trace, with intervals: `evaluate`, `compare`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import MAX_PROB, FittedPolicy, NotFittedError, Policy, Score, TraceError
from escalade.simulations.bootstrap import RESAMPLES, interval, resampled_means
from escalade.simulations.online import learns, replay_online
from escalade.simulations.oracle import oracle_cost_at, oracle_tiers
from escalade.simulations.replay import Recording, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from escalade.policies import Trace

LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Under which a policy is tried.

    Attributes
    ----------
    score
        What the policies are given.
    seed
        Of the inputs' random numbers and of the resampling.
    row_bytes
        float64 ``[N, hops]``, bytes that an input sends at each hop, or None.
    time_s
        float64 ``[N]``, when the inputs arrive, or None: all at 0.
    latency_ms, energy_mj
        For each tier, what asking it takes, or None.
    deadline_ms
        Time that every input has.
    audit
        Share of the inputs whose true label comes back to policies that learn.
    resamples
        Of the bootstrap.
    """

    score: Score = MAX_PROB
    seed: int = 0
    row_bytes: NDArray[np.float64] | None = None
    time_s: NDArray[np.float64] | None = None
    latency_ms: tuple[float, ...] | None = None
    energy_mj: tuple[float, ...] | None = None
    deadline_ms: float = float("inf")
    audit: float = 0.0
    resamples: int = RESAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of every input.

    Attributes
    ----------
    tier, reached
        int8 ``[N]``, the tier that answered (-1: a policy abstained) and the highest that was asked.
    columns
        float64 ``[N]`` each, by name: ``correct``, ``relative_cost``, ``given_up`` (1 where the top tier alone
        is right, -1 where the cascade alone is), one ``share:NAME`` a tier, and ``bytes_up``, ``latency_ms``,
        ``energy_mj`` where they are known.
    """

    tier: NDArray[np.int8]
    reached: NDArray[np.int8]
    columns: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a policy gives up and saves.

    Attributes
    ----------
    name
        Of the policy, for people.
    values
        Means over the inputs, by the names of `Outcome.columns`, ``correct`` being the accuracy.
    intervals
        Of the same, at 95 %, by the bootstrap.
    facts
        Everything else: about the trace and the oracle, plain values for JSON.
    outcome
        Input by input.
    """

    name: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    facts: dict[str, Any]
    outcome: Outcome = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share of the inputs answered right."""
        return self.values["correct"]

    @property
    def share(self) -> dict[str, float]:
        """Share of the inputs answered by each tier."""
        return {name.removeprefix("share:"): v for name, v in self.values.items() if name.startswith("share:")}

    @property
    def relative_cost(self) -> float:
        """Mean price of the tiers reached, over the price of asking the top tier alone."""
        return self.values["relative_cost"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``evaluation.json`` holds them."""
        others = {k: v for k, v in self.values.items() if k != "correct" and not k.startswith("share:")}
        intervals: dict[str, Any] = {k: list(v) for k, v in self.intervals.items() if k in others}
        intervals["accuracy"] = list(self.intervals["correct"])
        intervals["share"] = {name: list(self.intervals[f"share:{name}"]) for name in self.share}
        return {
            "policy": self.name,
            "accuracy": self.accuracy,
            "accuracy_top": self.facts["accuracy_top"],
            "share": self.share,
            **others,
            **{name: value for name, value in self.facts.items() if name != "accuracy_top"},
            "intervals": intervals,
        }


def cascade(policy: Policy | Sequence[Policy], tiers: int) -> list[Policy]:
    """Return a policy's own copy for each tier but the highest, lowest first.

    Raises
    ------
    TraceError
        If the policy was made for more tiers, or for fewer.
    NotFittedError
        If it needs a fit and has none.
    """
    if not isinstance(policy, Policy):
        if len(policy) != tiers - 1:
            needed = f"{tiers - 1} are needed, one for each below the top"
            raise TraceError("tiers", f"there are {len(policy)} policies for {tiers} tiers; {needed}")
        return [deepcopy(one) for one in policy]
    if isinstance(policy, FittedPolicy) and not policy.fitted:
        raise NotFittedError(f"{type(policy).__name__} is not fitted; run `escalade policy fit` first")
    views = []
    for level in range(tiers - 1):
        try:
            views.append(deepcopy(policy.at_tier(level)))
        except (ValueError, IndexError) as error:
            raise TraceError(
                "tiers", f"there are {tiers}, but the policy does not know tier {level + 1}: {error}"
            ) from error
    if _decides_at(policy, tiers - 1) and not _decides_at(policy, 1_000_000):
        raise TraceError("tiers", f"there are {tiers}; the policy was fitted for more: it decides at tier {tiers} too")
    return views


def _decides_at(policy: Policy, level: int) -> bool:
    try:
        policy.at_tier(level)
    except (ValueError, IndexError):
        return False
    return True


def recording_of(trace: Trace, conditions: Conditions) -> Recording:
    """Return a trace as what `replay` takes."""
    hops = trace.tiers - 1
    return Recording(
        trace.names,
        trace.posteriors,
        trace.labels,
        (0.0,) * hops,
        logits=trace.logits,
        predictions=trace.predictions,
        time_s=conditions.time_s,
        row_bytes=conditions.row_bytes,
        latency_ms=conditions.latency_ms,
        deadline_ms=conditions.deadline_ms,
    )


def run(
    trace: Trace,
    policy: Policy | Sequence[Policy],
    conditions: Conditions = Conditions(),
    on_progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Send every input of a trace up the cascade; nothing that is given is changed.

    Policies that learn are replayed input by input, with feedback; the others as arrays.
    """
    policies, recording = cascade(policy, trace.tiers), recording_of(trace, conditions)
    if any(learns(one) for one in policies):
        done = replay_online(
            recording,
            policies,
            score=conditions.score,
            seed=conditions.seed,
            audit=conditions.audit,
            on_progress=on_progress,
        )
    else:
        done = replay(recording, policies, score=conditions.score, seed=conditions.seed)
    return outcome(trace, done.tier, done.reached, done.correct, conditions)


def outcome(
    trace: Trace,
    tier: NDArray[np.int8],
    reached: NDArray[np.int8],
    correct: NDArray[np.bool_],
    conditions: Conditions,
) -> Outcome:
    """Return what it comes to when inputs reach these tiers."""
    top = trace.costs[-1]
    if not top > 0:
        raise ValueError("the price of the top tier is 0: relative cost has no meaning; give --costs")
    right, best = correct.astype(np.float64), trace.correct(trace.tiers - 1).astype(np.float64)
    columns = {
        "correct": right,
        "relative_cost": np.cumsum(trace.costs)[reached] / top,
        "given_up": best - right,
        **{f"share:{name}": (tier == index).astype(np.float64) for index, name in enumerate(trace.names)},
    }
    if conditions.row_bytes is not None:
        total = np.concatenate([np.zeros((len(trace), 1)), np.cumsum(conditions.row_bytes, axis=1)], axis=1)
        columns["bytes_up"] = np.take_along_axis(total, reached[:, None].astype(np.intp), axis=1)[:, 0]
    for name, each in (("latency_ms", conditions.latency_ms), ("energy_mj", conditions.energy_mj)):
        if each is not None:
            columns[name] = np.cumsum(each)[reached]
    return Outcome(tier, reached, columns)


def evaluate(
    trace: Trace,
    policy: Policy | Sequence[Policy],
    conditions: Conditions = Conditions(),
    *,
    name: str = "",
    on_progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Run a policy over a trace and say what it gives up and saves, beside the oracle.

    Parameters
    ----------
    trace
        Not the data that the policy was fitted to.
    policy
        One for all tiers, of which `Policy.at_tier` is asked, or one for each tier but the highest.
    on_progress
        Told the share done.

    Raises
    ------
    TraceError
        If the policy was made for another number of tiers.
    NotFittedError
        If it needs a fit and has none.
    """
    label = name or (repr(policy) if isinstance(policy, Policy) else ", ".join(map(repr, policy)))
    seen = run(trace, policy, conditions, on_progress)
    means = resampled_means(
        np.stack(list(seen.columns.values()), axis=1), resamples=conditions.resamples, seed=conditions.seed
    )
    values = {key: float(column.mean()) for key, column in seen.columns.items()}
    intervals = {key: interval(means[:, index], LEVEL) for index, key in enumerate(seen.columns)}
    facts = trace_facts(trace, conditions) | oracle_facts(trace, values["correct"], values["relative_cost"])
    return Evaluation(label, values, intervals, facts, seen)


def compare(
    evaluations: Sequence[Evaluation], *, seed: int = 0, resamples: int = RESAMPLES
) -> list[dict[str, dict[str, Any]]]:
    """Return how each evaluation differs from the first, with paired intervals.

    Returns
    -------
    list
        For each but the first, by name of the quantity: ``difference`` (it minus the first), ``interval``, and
        ``sure``, whether the interval leaves out 0.

    Notes
    -----
    The policies have seen the same inputs, so the bootstrap draws the differences input by input: two
    policies that err on the same inputs are told apart by the few on which they do not.
    """
    first, found = evaluations[0], []
    for other in evaluations[1:]:
        shared = [key for key in other.outcome.columns if key in first.outcome.columns and key != "given_up"]
        columns = np.stack([other.outcome.columns[key] - first.outcome.columns[key] for key in shared], axis=1)
        means = resampled_means(columns, resamples=resamples, seed=seed)
        rows: dict[str, dict[str, Any]] = {}
        for index, key in enumerate(shared):
            low, high = interval(means[:, index], LEVEL)
            label = "accuracy" if key == "correct" else key
            rows[label] = {
                "difference": float(columns[:, index].mean()),
                "interval": [low, high],
                "sure": bool(low > 0 or high < 0),
            }
        found.append(rows)
    return found


def trace_facts(trace: Trace, conditions: Conditions) -> dict[str, Any]:
    """Return what the trace says by itself."""
    return {
        "rows": len(trace),
        "score": conditions.score.name,
        "seed": conditions.seed,
        "costs": dict(zip(trace.names, trace.costs, strict=True)),
        "accuracy_top": float(trace.correct(trace.tiers - 1).mean()),
        "accuracy_by_tier": {name: float(trace.correct(t).mean()) for t, name in enumerate(trace.names)},
        "trace_digest": trace.digest(),
    }


def oracle_facts(trace: Trace, accuracy: float, relative_cost: float) -> dict[str, Any]:
    """Return the oracle (`oracle_tiers`) and how far a policy is from it."""
    top, best = trace.costs[-1], oracle_tiers(trace)
    right = np.stack([trace.correct(tier) for tier in range(trace.tiers)]).any(axis=0)
    reached = float(right.mean())
    cost = float(np.cumsum(trace.costs)[best].mean() / top)
    same = oracle_cost_at(trace, accuracy) / top
    return {
        "oracle": {
            "accuracy": reached,
            "relative_cost": cost,
            "share": {name: float((best == t).mean()) for t, name in enumerate(trace.names)},
            "relative_cost_at_the_same_accuracy": same,
        },
        "gap_to_oracle": {"accuracy": reached - accuracy, "relative_cost": relative_cost - same},
    }


def curve(trace: Trace, conditions: Conditions, tier: int = 0, points: int = 200) -> Mapping[str, NDArray[np.float64]]:
    """Return accuracy against the share that leaves a tier, for a threshold there; the rest is asked of the top.

    Returns
    -------
    Mapping
        float64 of equal lengths: ``share_up``, ``accuracy``, ``threshold`` (of the inputs at that point, the least
        that is still accepted). The points are spread over the shares; equal scores move together.
    """
    score = trace.score(tier, conditions.score)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    here, above = trace.correct(tier)[order], trace.correct(trace.tiers - 1)[order]
    right = np.concatenate([[0], np.cumsum(here)]) + above.sum() - np.concatenate([[0], np.cumsum(above)])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1  # after each run of equal scores
    ends = np.concatenate([[0], ends])
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(np.intp))]
    threshold = np.append(np.inf, ranked[ends[1:] - 1])
    return {"share_up": 1 - ends / len(trace), "accuracy": right[ends] / len(trace), "threshold": threshold}
