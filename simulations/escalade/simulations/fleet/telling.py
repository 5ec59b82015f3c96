"""What telemetry tells policies that retune: counted where it happens, device by device, as kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.local import ESCALATE
from escalade.simulations.fleet.result import Reason
from escalade.simulations.fleet.rows import CORRECTED, Ended, Fed, Outcome, Up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


class Counts(NamedTuple):
    """What a cell, or the servers, counted in this control interval and telemetry was not told of.

    Whole numbers ``[devices, 3]``: answers, those in time, escalations; no rows for policies that do not retune, and
    where every edge node's policy retunes for itself.
    """

    endpoints: NDArray[Any]
    edge: NDArray[np.int32]
    first: NDArray[np.int64]
    """Of each class of endpoints, a device's number in the fleet minus its place in these arrays."""
    class_first: NDArray[np.int64]


def taken(counts: NDArray[Any]) -> NDArray[np.int32]:
    """Return a copy, and set what was counted back to zero."""
    out = np.empty(counts.shape, np.int32)
    _take(counts, out)
    return out


@kernel
def _take(counts: Any, out: Any) -> None:
    for i in range(counts.shape[0]):
        for column in range(3):
            out[i, column] = counts[i, column]
            counts[i, column] = 0


def columns(counts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return what was counted as int64 ``[3, devices]``."""
    out = np.empty((3, len(counts)), np.int64)
    _columns(counts, out)
    return out


@kernel
def _columns(counts: Any, out: Any) -> None:
    for i in range(counts.shape[0]):
        out[0, i], out[1, i], out[2, i] = counts[i, 0], counts[i, 1], counts[i, 2]


def tell_ended(counts: Counts, ended: Rows, slo: NDArray[np.int64], edge: int, later: Rows) -> int:
    """Count answers as the endpoints' telemetry does: in time unless degraded or late.

    Those known from `edge` on, ns, are put into `later`, int64 ``[room, OUTCOME]``; returns how many.
    """
    n: int = _tell_ended(counts.endpoints, counts.first, ended, slo, edge, later)
    return n


@kernel
def _tell_ended(counts: Any, first: Any, ended: Any, slo: Any, edge: Any, later: Any) -> Any:
    n = 0
    for i in range(ended.shape[0]):
        why, at, kind, number = ended[i, Ended.REASON], ended[i, Ended.AT], ended[i, Ended.KIND], ended[i, Ended.DEVICE]
        if ended[i, Ended.TIER] < 0 or why == CORRECTED:
            continue
        in_time = 0
        if (why == Reason.OK or why == Reason.DEFERRED) and at - ended[i, Ended.T] <= slo[kind]:
            in_time = 1
        if at < edge:
            counts[number - first[kind], 0] += 1
            counts[number - first[kind], 1] += in_time
        else:
            later[n, Outcome.LEVEL] = 0
            later[n, Outcome.NODE] = -1
            later[n, Outcome.UNIT] = number
            later[n, Outcome.KNOWN] = at
            later[n, Outcome.IN_TIME] = in_time
            later[n, Outcome.ANSWERED] = 1
            later[n, Outcome.ESCALATED] = 0
            n += 1
    return n


def tell_fed(counts: Counts, fed: Rows, slo: NDArray[np.int64], edge: int, later: Rows) -> int:
    """Count answers as the edge nodes' telemetry does: in time if the tier that was wanted gave them.

    As `tell_ended`; where nothing is counted by device all are put into `later`, with their node.
    """
    n: int = _tell_fed(counts.edge, counts.first, counts.class_first, fed, edge, later)
    return n


@kernel
def _tell_fed(counts: Any, first: Any, class_first: Any, fed: Any, edge: Any, later: Any) -> Any:
    n, kind = 0, 0
    for i in range(fed.shape[0]):
        if fed[i, Fed.LEVEL] != 1:
            continue
        number, known = fed[i, Fed.DEVICE], fed[i, Fed.KNOWN]
        in_time = 1 if fed[i, Fed.ACTION] != ESCALATE or fed[i, Fed.UPPER] >= 0 else 0
        if known < edge and counts.shape[0] > 0:
            while number < class_first[kind]:
                kind -= 1
            while number >= class_first[kind + 1]:
                kind += 1
            counts[number - first[kind], 0] += 1
            counts[number - first[kind], 1] += in_time
        else:
            later[n, Outcome.LEVEL] = 1
            later[n, Outcome.NODE] = fed[i, Fed.NODE]
            later[n, Outcome.UNIT] = number
            later[n, Outcome.KNOWN] = known
            later[n, Outcome.IN_TIME] = in_time
            later[n, Outcome.ANSWERED] = 1
            later[n, Outcome.ESCALATED] = 0
            n += 1
    return n


@kernel
def tell_escalated(counts: Any, rows: Any, which: Any, action: Any) -> None:
    """Count what the edge nodes of a cell escalate: of `rows`, int64 ``[n, UP]``, those in `which`."""
    for place in range(which.shape[0]):
        if action[place] == ESCALATE:
            counts[rows[which[place], Up.DEVICE], 2] += 1
