"""The rule to use unless one knows better: `default_rule`."""

from __future__ import annotations

from escalade.policies.fusion.checked import HealthChecked
from escalade.policies.fusion.stacking import Stacking


def default_rule() -> HealthChecked:
    """Return stacking behind a health check, to be fitted to labelled events of healthy nodes.

    Stacking is the best rule measured while all nodes are well, and its imputer makes it nearly as good on
    what remains as a head fitted to that would be; the health check sees to it that broken nodes are
    missing. Without labelled events use ``HealthChecked(MeanProbability())``.

    Examples
    --------
    >>> default_rule()
    HealthChecked(Stacking(l2=0.0001))
    """
    return HealthChecked(Stacking())
