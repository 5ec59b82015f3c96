"""What can be wrong with a policy, and whose fault it is.

::

    ValueError
    ├── PolicyConfigError    the caller's configuration: a policy or score that cannot be built
    ├── TraceError           the caller's data: not what a trace has to be
    └── FitError             the caller's wish: these data cannot support it
    RuntimeError
    └── NotFittedError       a fitted policy was asked before it was fitted
    AssertionError
    └── ConformanceError    somebody's class breaks rules of the interface that it implements
        └── PolicyCheckError     the policy author's code: it breaks a rule of the policy interface
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class PolicyConfigError(ValueError):
    """A policy or a score cannot be built from its configuration.

    Parameters
    ----------
    key
        Where in the configuration, as a dotted path such as ``policy.threshold``.
    message
        What is wrong there and what to do about it, in one line.

    Examples
    --------
    >>> error = PolicyConfigError("policy.threshold", "expected a number, got 'high'")
    >>> print(error)
    policy.threshold: expected a number, got 'high'
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.key = key
        self.message = message

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class TraceError(ValueError):
    """Recorded data are not what they should be.

    Parameters
    ----------
    array
        Which part, as the reader knows it: ``labels``, ``t2_cal``.
    message
        What is wrong there, in one line.
    row
        The first row where it is, if it is in a row.
    file
        Where the data came from, if from a file.

    Examples
    --------
    >>> print(TraceError("labels", "11 is no class of 10", row=7, file="fashion.npz"))
    fashion.npz: labels, row 7: 11 is no class of 10
    """

    def __init__(self, array: str, message: str, *, row: int | None = None, file: str = "") -> None:
        super().__init__(array, message, row, file)
        self.array, self.message, self.row, self.file = array, message, row, file

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        row = "" if self.row is None else f", row {self.row}"
        return f"{where}{self.array}{row}: {self.message}"

    def named(self, array: str | None = None, file: str = "") -> TraceError:
        """Return the same finding with the names that the reader knows."""
        return TraceError(array or self.array, self.message, row=self.row, file=file or self.file)


class FitError(ValueError):
    """The data cannot support what is asked of a policy; the text says why, and what would."""


class NotFittedError(RuntimeError):
    """A fitted policy was asked to decide before it was fitted or given its state."""


class ConformanceError(AssertionError):
    """A class breaks rules that all of its interface have to keep.

    Parameters
    ----------
    subject
        What was checked, as the reader knows it.
    violations
        One line for each finding: the rule's name, a colon, what was seen.
    """

    def __init__(self, subject: str, violations: Sequence[str]) -> None:
        super().__init__(subject, list(violations))
        self.subject = subject
        self.violations = list(violations)

    @property
    def rules(self) -> list[str]:
        """The names of the broken rules, each once, in the order in which they were found."""
        return list(dict.fromkeys(line.split(":", 1)[0] for line in self.violations))

    def __str__(self) -> str:
        count = len(self.rules)
        lines = "".join(f"\n  - {line}" for line in self.violations)
        return f"{self.subject} breaks {count} rule{'s' if count != 1 else ''}:{lines}"


class PolicyCheckError(ConformanceError):
    """A policy breaks rules that every policy has to keep.

    Parameters
    ----------
    policy
        What was checked, as the reader knows it.
    violations
        One line for each finding: the rule's name, a colon, what was seen.

    Examples
    --------
    >>> print(PolicyCheckError("Mine()", ["deterministic: row 3 was ACCEPT, then ESCALATE"]))
    Mine() breaks 1 rule:
      - deterministic: row 3 was ACCEPT, then ESCALATE
    """

    def __init__(self, policy: str, violations: Sequence[str]) -> None:
        super().__init__(policy, violations)
        self.policy = policy


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return what to put behind "no such name": a close match as a question, or a full stop.

    Examples
    --------
    >>> did_you_mean("treshold", ["threshold"]), did_you_mean("x", ["threshold"])
    ("; did you mean 'threshold'?", '.')
    """
    close = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."
