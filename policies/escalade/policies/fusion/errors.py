"""What can be wrong with observations, and whose fault it is.

::

    ValueError
    └── FusionInputError     a node's observation, or the arrays around it: the text names event and node
    ConformanceError
    └── FusionCheckError     the rule author's code: it breaks a rule of the fusion interface
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.policies.errors import ConformanceError

if TYPE_CHECKING:
    from collections.abc import Sequence


class FusionInputError(ValueError):
    """Observations cannot be fused as they are.

    Parameters
    ----------
    message
        What is wrong, in one line.
    event, node
        Where, if it is one node's observation of one event.

    Examples
    --------
    >>> print(FusionInputError("the posterior sums to 0.7, not 1", event=3, node=1))
    event 3, node 1: the posterior sums to 0.7, not 1
    """

    def __init__(self, message: str, *, event: int | None = None, node: int | None = None) -> None:
        super().__init__(message, event, node)
        self.message, self.event, self.node = message, event, node

    def __str__(self) -> str:
        places = [f"{name} {at}" for name, at in (("event", self.event), ("node", self.node)) if at is not None]
        return f"{', '.join(places)}: {self.message}" if places else self.message


class FusionCheckError(ConformanceError):
    """A fusion rule breaks what every fusion rule has to keep.

    Parameters
    ----------
    rule
        What was checked, as the reader knows it.
    violations
        One line for each finding: the demand's name, a colon, what was seen.

    Examples
    --------
    >>> print(FusionCheckError("Mine()", ["sums to one: event 3 sums to 0.5"]))
    Mine() breaks 1 rule:
      - sums to one: event 3 sums to 0.5
    """

    def __init__(self, rule: str, violations: Sequence[str]) -> None:
        super().__init__(rule, violations)
        self.rule = rule
