"""Times as people read them."""

from __future__ import annotations

from math import isnan


def readable_time(seconds: float) -> str:
    """Return a duration in its largest fitting unit; `-` for NaN.

    Examples
    --------
    >>> readable_time(3.25), readable_time(7200.0), readable_time(float("nan"))
    ('3.2 s', '2 h', '-')
    """
    if isnan(seconds):
        return "-"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
