"""Replay for policies that learn: inputs come one by one, and what became of them goes back to the policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import UNKNOWN, Action, Batch, Feedback
from escalade.policies.combinator import listens
from escalade.simulations.replay import NO_ANSWER, Recording, Replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from escalade.policies import Policy, Score


def learns(policy: Policy) -> bool:
    """Whether a policy, or a part of it, takes feedback."""
    return listens(policy, "observe")


def replay_online(
    recording: Recording,
    policies: Sequence[Policy],
    *,
    score: Score,
    seed: int = 0,
    audit: float = 0.0,
    on_progress: Callable[[float], None] | None = None,
) -> Replayed:
    """Send the inputs up in their order; after each, tell every policy that decided on it what became of it.

    The feedback is what a tier has in the field: the label of the tier that answered above, only where it was
    asked; the true label only on the inputs that are audited.

    Parameters
    ----------
    recording, policies, score, seed
        As in `replay`. The policies learn: give it copies, and no object twice.
    audit
        Share of the inputs, drawn by chance, whose true label comes back.
    on_progress
        Told the share done, now and then.
    """
    n, hops, rng = len(recording), len(policies), np.random.default_rng(seed)
    everything = np.arange(n)
    batches = [recording.batch(tier, everything, score, rng.random(n)) for tier in range(hops)]
    answers = [recording.answered(tier) for tier in range(len(recording.tiers))]
    sent = [recording.sent(hop) for hop in range(hops)]
    audited = rng.random(n) < audit
    tier, label = np.full(n, NO_ANSWER, np.int8), np.full(n, NO_ANSWER, np.int64)
    reached, bytes_up = np.zeros(n, np.int8), np.zeros(n)
    for row in range(n):
        asked: list[tuple[Batch, int, float]] = []
        level = 0
        while level < hops:
            one = Batch.of_row(*batches[level].row(row))
            decided = policies[level].decide(one)
            action = int(decided.action[0])
            policies[level].commit(one, decided.action)
            asked.append((one, action, float(decided.propensity[0])))
            if action in (Action.ACCEPT, Action.ABSTAIN):
                break
            bytes_up[row] += sent[level][row]
            level += 1
        reached[row] = level
        if level == hops or asked[level][1] == Action.ACCEPT:
            tier[row], label[row] = level, answers[level][row]
        truth = int(recording.labels[row]) if audited[row] else UNKNOWN
        for below, (one, action, propensity) in enumerate(asked):
            policies[below].observe(
                Feedback.of(
                    one.score,
                    local=answers[below][row],
                    action=action,
                    propensity=propensity,
                    upper=label[row] if level > below else UNKNOWN,
                    truth=truth,
                    hops=level - below if label[row] != NO_ANSWER else 0,
                    posterior=one.posterior,
                    time_s=one.time_s,
                    upstream_ms=one.upstream_ms if level > below else np.nan,
                )
            )
        if on_progress and row % 256 == 0:
            on_progress(row / n)
    correct = (tier != NO_ANSWER) & (label == recording.labels)
    return Replayed(recording.tiers, tier, label, correct, bytes_up, reached)
