"""Naming what is wrong with a node from its recent answers: `reason_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from escalade.policies.fusion.evidence import FIRST_ROW, LOST

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reason = Literal["", "stuck", "noisy", "mis-wired", "drifting", "silent"]

SAME, FEW = 0.8, 5
"""Stuck: at least this share of at least so many answers is one label."""

OFTEN, SHARE, SHARE_OF_MANY = 4, 0.6, 0.5
"""Mis-wired: a class seen so often of which this share is called one other class; if seen twice as often, that."""


def reason_of(table: NDArray[np.int64], alarmed: NDArray[np.bool_], *, gradual: bool = False) -> tuple[Reason, str]:
    """Return reason and detail for a node in alarm.

    Parameters
    ----------
    table
        int ``[C, C]``: recent events by the class that the others saw and the label that the node gave.
    alarmed
        bool ``[2 + C]``: which sums are in alarm.
    gradual
        Whether the node was distrusted while it still agreed more than by chance.

    Notes
    -----
    - ``stuck``: one label whatever the others see.
    - ``mis-wired``: classes are consistently called something else, and these are the classes that gave the
      alarm, or account for half of the disagreement. It takes some four events of a class to see; before
      that a node is ``noisy``.
    - ``noisy``: from one event to the next agrees as chance would.
    - ``drifting``: when it was distrusted, agreed markedly less than before, but more than by chance. That is
      drift or sudden moderate noise: disagreement alone hardly tells them apart.

    Examples
    --------
    >>> alarm = np.array([True, False, False, False])
    >>> reason_of(np.array([[0, 6], [0, 5]]), alarm)
    ('stuck', 'says 1 in 11 of 11 events')
    >>> reason_of(np.array([[0, 6], [6, 0]]), alarm)
    ('mis-wired', 'says 1 for 0, 0 for 1')
    """
    total, classes = int(table.sum()), len(table)
    rows = alarmed[FIRST_ROW:]
    agreed = int(np.trace(table))
    labels = table.sum(axis=0)
    favourite = int(labels.argmax())
    if total >= FEW and labels[favourite] >= SAME * total:
        return "stuck", f"says {favourite} in {labels[favourite]} of {total} events"
    seen = table.sum(axis=1)
    called = table.argmax(axis=1)
    often = (seen >= OFTEN) | rows
    needed = np.where(seen >= 2 * OFTEN, SHARE_OF_MANY, SHARE)
    swapped = often & (called != np.arange(classes)) & (table.max(axis=1) >= needed * np.maximum(seen, 1))
    wrong = seen - np.diag(table)
    if (swapped & rows).any() or (swapped.any() and wrong[swapped].sum() >= 0.5 * wrong[often].sum()):
        return "mis-wired", "says " + ", ".join(f"{called[k]} for {k}" for k in np.flatnonzero(swapped))
    detail = f"agrees with the others in {agreed} of {total} events"
    return ("drifting" if gradual or not alarmed[LOST] else "noisy"), detail
