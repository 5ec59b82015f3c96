"""Checking what nodes report, before anything is fused: shapes, sums, masks, weights and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.fusion.errors import FusionInputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-2
"""How far a posterior's sum may be from 1: float16 posteriors of many classes are off by a few thousandths."""


def checked_posteriors(posteriors: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return float32 ``[E, N, C]`` and bool ``[E, N]``; what a masked node holds is not looked at.

    Parameters
    ----------
    posteriors
        ``[E, N, C]``: events, nodes, classes.
    mask
        ``[E, N]``, true where the node reported; None where all did.

    Raises
    ------
    FusionInputError
        If the shapes do not fit, the classes differ between nodes (a ragged list), or a reported posterior
        has a value that is not finite or below 0, or does not sum to one within `SUM_TOLERANCE`.

    Examples
    --------
    >>> p, present = checked_posteriors([[[0.5, 0.5], [float("nan")] * 2]], [[True, False]])
    >>> present.tolist()
    [[True, False]]
    >>> checked_posteriors([[[0.5, 0.5], [0.5, 0.2]]], None)
    Traceback (most recent call last):
    escalade.policies.fusion.errors.FusionInputError: event 0, node 1: the posterior sums to 0.7, not 1
    """
    p = _array(posteriors)
    present = checked_mask(mask, p.shape[0], p.shape[1])
    sums = p @ np.ones(p.shape[2], np.float32)  # nan and inf show in the sum
    wrong = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE)
    if p.size and not p.min() >= 0.0:  # nan fails the comparison too
        with np.errstate(invalid="ignore"):
            wrong |= ~(p >= 0.0).all(axis=2)
    if wrong.any():
        wrong &= present
        if wrong.any():
            event, node = (int(index) for index in np.argwhere(wrong)[0])
            raise FusionInputError(_complaint(p[event, node]), event=event, node=node)
    return p, present


def checked_features(features: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return float32 ``[E, N, F]``, zero where a node did not report, and bool ``[E, N]``.

    Raises
    ------
    FusionInputError
        If the shapes do not fit or a reported feature is not finite.
    """
    x = _array(features)
    present = checked_mask(mask, x.shape[0], x.shape[1])
    wrong = present & ~np.isfinite(x).all(axis=2)
    if wrong.any():
        event, node = (int(index) for index in np.argwhere(wrong)[0])
        raise FusionInputError("the features are not all finite", event=event, node=node)
    return np.where(present[:, :, None], x, np.float32(0.0)), present


def checked_mask(mask: ArrayLike | None, events: int, nodes: int) -> NDArray[np.bool_]:
    """Return bool ``[E, N]``, all true for None."""
    if mask is None:
        return np.ones((events, nodes), bool)
    present = np.asarray(mask)
    if present.shape != (events, nodes) or present.dtype != bool:
        raise FusionInputError(
            f"mask must be bool [{events}, {nodes}], got {present.dtype} of shape {list(present.shape)}"
        )
    return present


def checked_weights(weights: ArrayLike | None, nodes: int) -> NDArray[np.float32]:
    """Return float32 ``[N]``, ones for None."""
    if weights is None:
        return np.ones(nodes, np.float32)
    w = np.asarray(weights, np.float32)
    if w.shape != (nodes,) or not np.isfinite(w).all() or (w < 0).any():
        raise FusionInputError(f"weights must be {nodes} finite numbers, 0 or more, got {np.asarray(weights).tolist()}")
    return w


def checked_labels(labels: ArrayLike, events: int, classes: int, *, unknown: bool = False) -> NDArray[np.int64]:
    """Return int64 ``[E]`` in [0, C), or -1 too where `unknown` ones may stand among them."""
    y = np.asarray(labels)
    lowest = -1 if unknown else 0
    if y.shape != (events,) or y.dtype.kind not in "iu":
        raise FusionInputError(f"labels must be {events} whole numbers, got {y.dtype} of shape {list(y.shape)}")
    y = y.astype(np.int64)
    wrong = (y < lowest) | (y >= classes)
    if wrong.any():
        event = int(np.flatnonzero(wrong)[0])
        raise FusionInputError(f"label {y[event]} is none of {classes} classes", event=event)
    return y


def _array(values: ArrayLike) -> NDArray[np.float32]:
    try:
        array = np.ascontiguousarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise FusionInputError("every node must report equally many numbers: [events, nodes, classes]") from error
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise FusionInputError(f"posteriors must be [events, nodes, classes], got shape {list(array.shape)}")
    return array


def _complaint(row: NDArray[Any]) -> str:
    if not np.isfinite(row).all():
        return "the posterior is not all finite"
    if (row < 0).any():
        return f"the posterior holds {row.min():.4g}, which is below 0"
    return f"the posterior sums to {row.sum():.4g}, not 1"
