"""Strict JSON, which has neither nan nor inf: `plain`."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return what strict JSON can hold: null for numbers that are not finite, Python's for NumPy's."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
