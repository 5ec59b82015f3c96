"""The conformance kit for policies: `check_policy`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice

from escalade.policies.checks import decisions, memory, state
from escalade.policies.checks.rows import ordinary_rows
from escalade.policies.errors import NotFittedError, PolicyCheckError
from escalade.policies.policy import FittedPolicy, Policy

Rule = Callable[[Policy, int, int], Iterator[str]]

#: Every rule by its name; the rule's docstring says what it demands.
RULES: dict[str, Rule] = {
    "well formed": decisions.well_formed,
    "batch equals loop": decisions.batch_equals_loop,
    "rows are independent": decisions.rows_are_independent,
    "deterministic": decisions.deterministic,
    "unusable never accepted": decisions.unusable_never_accepted,
    "awkward input": decisions.awkward_input,
    "propensity is honest": decisions.propensity_is_honest,
    "input untouched": state.input_untouched,
    "state untouched": state.state_untouched,
    "pickles": state.pickles,
    "state round trip": state.state_round_trip,
    "state travels": state.state_travels,
    "a batch decides as the loop decide_one, commit": memory.batch_equals_loop_with_commit,
    "commit alone changes the memory": memory.commit_changes_the_memory,
    "memory is declared": memory.memory_is_declared,
    "learns from anything": memory.learns_from_anything,
    "the fit is the state": memory.the_fit_is_the_state,
}

_LINES = 3


def check_policy(policy: Policy, *, classes: int = 10, seed: int = 0) -> None:
    """Try a policy on many rows and report every rule of the interface that it breaks.

    Call it in a test of one's own policy. It takes well under a second for a policy that works on
    arrays. The policy itself is not changed where it can be copied.

    Parameters
    ----------
    policy
        What to check, as it would be given to a tier.
    classes
        Number of classes of the posteriors it is tried on.
    seed
        Of the rows. The same seed gives the same rows.

    Raises
    ------
    PolicyCheckError
        If a rule is broken: it lists all of them, each with up to three findings. A `FittedPolicy` that is not
        fitted cannot be checked, and that is then the finding.

    Notes
    -----
    Passing is evidence, not proof: rows are sampled, and a policy that reads a clock is only noticed
    if that changes a decision within the run.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> check_policy(Threshold(0.8))

    >>> from escalade.policies.types import Action
    >>> class Naive(Threshold):
    ...     def decide_one(self, score, context):
    ...         return Action.ACCEPT if score >= self.threshold else Action.ESCALATE
    >>> try:  # doctest: +ELLIPSIS
    ...     check_policy(Naive(0.9))
    ... except PolicyCheckError as error:
    ...     print(error.violations[0])
    batch equals loop: score 0.8999999761581421: decide gives ACCEPT, decide_one ESCALATE; ...
    """
    if isinstance(policy, FittedPolicy) and not policy.fitted:
        raise PolicyCheckError(repr(policy), _unfitted(policy))
    violations: list[str] = []
    for name, rule in RULES.items():
        try:
            found = list(islice(rule(_copy(policy), classes, seed), _LINES))
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
            found = [f"raised {type(error).__name__}: {error}"]
        violations += [f"{name}: {line}" for line in found]
    if violations:
        raise PolicyCheckError(repr(policy), violations)


def _unfitted(policy: FittedPolicy) -> list[str]:
    """Return what there is to say of a policy that cannot decide yet."""
    found = ["fitted: it is not; fit it, or load its state, before it is checked"]
    try:
        policy.decide(ordinary_rows(2, 0))
    except NotFittedError:
        return found
    except Exception as error:  # noqa: BLE001 - whatever an author's code raises is a finding
        return [*found, f"unfitted: decide raised {type(error).__name__}, not NotFittedError: {error}"]
    return [*found, "unfitted: decide decided, though the policy says that it is not fitted"]


def _copy(policy: Policy) -> Policy:
    """Copy the policy, so that what one rule does to it does not show in another."""
    try:
        return copy.deepcopy(policy)
    except Exception:  # noqa: BLE001 - that it cannot be copied shows in the rule that copies it
        return policy
