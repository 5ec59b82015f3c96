"""A policy as a small table, for where no Python runs: `to_table`, `Table`, `to_c_header`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.types import Action, Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.policy import Policy

_LAST = 0x7F800000
"""The key of ``inf``; ``-inf`` has minus this."""


@dataclass(frozen=True, eq=False)
class Table:
    """What a policy does, by the score alone.

    Attributes
    ----------
    threshold
        float32 ``[K]``, ascending: the first score of each interval but the lowest.
    action
        int8 ``[K + 1]``: the action in each interval.
    of_nan
        The action for a score that is ``nan``.
    """

    threshold: NDArray[np.float32]
    action: NDArray[np.int8]
    of_nan: Action

    def decide(self, score: float) -> Action:
        """Return the action for one score, a float32 value.

        Examples
        --------
        >>> from escalade.policies.threshold import Threshold
        >>> table = to_table(Threshold(0.8))
        >>> table.threshold.tolist(), table.action.tolist(), table.decide(0.9).name, table.decide(nan).name
        ([0.800000011920929], [1, 0], 'ACCEPT', 'ESCALATE')
        """
        if score != score:
            return self.of_nan
        return Action(int(self.action[np.searchsorted(self.threshold, np.float32(score), side="right")]))

    def decide_all(self, score: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return the actions for float32 scores ``[B]``, int8 ``[B]``."""
        found = self.action[np.searchsorted(self.threshold, score, side="right")]
        return np.where(np.isnan(score), np.int8(self.of_nan), found)


def to_table(policy: Policy, bits: int = 16, low: float = 0.0, high: float = 1.0) -> Table:
    """Compile a policy whose action depends on the score alone.

    The policy is asked at ``2 ** bits`` scores in equal steps from `low` to `high`, at as many spread over
    all float32 numbers, and between any two that differ by bisection down to neighbouring float32 numbers: so
    a boundary that is found is exact to the bit.

    Parameters
    ----------
    bits
        8 to 20.
    low, high
        Where the scores of the model lie: `max_prob`, `margin` and `entropy` in [0, 1].

    Raises
    ------
    ValueError
        If the policy is random, has a memory, looks at anything beside the score (its context is varied to
        see), changes its mind too often, or accepts a score that is no number. The text says which.

    Notes
    -----
    An interval of scores narrower than a step may not be seen; 65,536 further scores are tried, so a wide one is.
    That the context has no influence is tried, not proved. A policy that learns is compiled as it is now.
    """
    if not 8 <= bits <= 20:
        raise ValueError(f"bits must be 8 to 20, got {bits}")
    if not -inf < low < high < inf:
        raise ValueError(f"low must be below high and both finite, got {low} and {high}")
    if policy.sequential:
        raise ValueError(f"{policy!r} has a memory of its decisions, which a table has not")
    steps = np.linspace(low, high, 2**bits + 1).astype(np.float32)
    spread = _floats(np.linspace(-_LAST, _LAST, 2**bits + 1).astype(np.int64))
    score = np.unique(np.concatenate([steps, spread, np.array([-inf, 0.0, inf], np.float32)]))
    action = _actions(policy, score)
    _only_the_score(policy, score, action)
    changes = np.flatnonzero(action[1:] != action[:-1])
    below, above = _keys(score[changes]), _keys(score[changes + 1])
    wanted = action[changes]
    while np.any(above - below > 1):
        middle = (below + above) // 2
        same = _actions(policy, _floats(middle)) == wanted
        below, above = np.where(same, middle, below), np.where(same, above, middle)
    threshold = _floats(above)
    after = _actions(policy, threshold)
    of_nan = Action(int(_actions(policy, np.array([nan], np.float32))[0]))
    if Action.ACCEPT in (of_nan, action[0]):
        raise ValueError(f"{policy!r} accepts a score that is no number; see check_policy")
    table = Table(threshold, np.concatenate([action[:1], after]), of_nan)
    between = np.random.default_rng(0).uniform(low, high, 2**16).astype(np.float32)
    for tried, expected in ((score, action), (between, _actions(policy, between))):
        if np.any(table.decide_all(tried) != expected):
            raise ValueError(f"{policy!r} changes its mind more than once within 1/{2**bits} of the range; raise bits")
    return table


def to_c_header(table: Table, name: str) -> str:
    """Return a C99 header with the function ``int NAME_decide(float score)``, which answers as `Table.decide`.

    It works on the bits of the score as an integer: no floating-point instruction, no library but
    ``string.h``, and the same answer with ``-ffast-math`` or where subnormal numbers are flushed to zero.

    Parameters
    ----------
    name
        A C identifier; the header's names begin with it.

    Raises
    ------
    ValueError
        If `name` is no identifier.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> header = to_c_header(to_table(Threshold(0.5)), "doorbell")
    >>> [line for line in header.splitlines() if "0.5" in line]
    ['        1056964608, /* 0.5 */']
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no C identifier")
    count, upper = len(table.threshold), name.upper()
    keys = _keys(table.threshold).tolist()
    rows = [f"        {key}, /* {value!r} */" for key, value in zip(keys, table.threshold.tolist(), strict=True)]
    rows = rows or ["        0 /* none: one action for every score */"]
    names = "\n".join(f"#define {upper}_{action.name} {int(action)}" for action in Action)
    actions = ", ".join(f"{upper}_{Action(int(action)).name}" for action in table.action)
    thresholds = "\n".join(rows)
    return f"""\
/* What to do with an input, by its score. Written by escalade; C99, no floating point used. */
#ifndef ESCALADE_{upper}_H
#define ESCALADE_{upper}_H

#include <stdint.h>
#include <string.h>

{names}

/* The score is an IEEE 754 single. Not a number gives {upper}_{table.of_nan.name}. */
static inline int {name}_decide(float score)
{{
    static const int32_t first[] = {{
{thresholds}
    }};
    static const int8_t action[] = {{{actions}}};
    uint32_t bits;
    int32_t key, index = 0;

    memcpy(&bits, &score, sizeof bits);
    key = (int32_t)(bits & 0x7fffffffu);
    if (key > 0x7f800000)
        return {upper}_{table.of_nan.name};
    if (bits >> 31)
        key = -key;
    while (index < {count} && key >= first[index])
        index++;
    return action[index];
}}

#endif
"""


def _actions(policy: Policy, score: NDArray[np.float32]) -> NDArray[np.int8]:
    return policy.decide(Batch.of(score)).action


def _only_the_score(policy: Policy, score: NDArray[np.float32], action: NDArray[np.int8]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice(len(score), min(len(score), 4096), replace=False)
    count = len(rows)
    plain = Batch.of(score[rows])
    posterior = rng.dirichlet(np.full(10, 0.3), count).astype(np.float32)
    others = {
        "a random number": replace(plain, uniform=rng.random(count)),
        "the posterior": replace(plain, posterior=posterior),
        "the time": replace(plain, time_s=rng.random(count) * 1e9),
        "the deadline": replace(plain, remaining_ms=rng.exponential(50.0, count)),
        "the size of the input": replace(plain, bytes_up=rng.integers(0, 1_000_000, count)),
        "the latency of the tier above": replace(plain, upstream_ms=rng.exponential(50.0, count)),
        "the load of the tier above": replace(plain, upstream_load=rng.integers(0, 9, count) / 8),
        "the device": replace(plain, device=rng.integers(0, 1000, count)),
    }
    others["several things"] = replace(
        others["the latency of the tier above"],
        posterior=posterior,
        upstream_load=others["the load of the tier above"].upstream_load,
        remaining_ms=others["the deadline"].remaining_ms,
        uniform=others["a random number"].uniform,
    )
    for what, batch in others.items():
        decided = policy.decide(batch)
        if np.any(decided.action != action[rows]) or np.any(decided.propensity < 1.0):
            raise ValueError(f"{policy!r} looks at {what}, not at the score alone: a table cannot do that")


def _keys(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return whole numbers in the order of the scores, neighbours for neighbours; -0 and 0 are one."""
    bits = score.view(np.uint32).astype(np.int64)
    size = bits & 0x7FFFFFFF
    return np.where(bits >> 31, -size, size)


def _floats(key: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = np.where(key < 0, -key | 0x80000000, key)
    return bits.astype(np.uint32).view(np.float32)
