"""Where kernels put what became of requests: `Sink`; and the one kernel that counts it.

Kernels write short records; `tally` reads them once. A helper that counted by itself would be compiled into every
kernel, and its arrays' reference counts would cost more than the counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import GOLDEN, Purpose, mix
from escalade.simulations.fleet.histogram import BINS, FIRST, SHIFT
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Class, Count, Hist, Reason, Series
from escalade.simulations.fleet.rows import CORRECTED, ENDED, FAR, FED, Ended, Fed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import Stats

AT_ENDED, AT_FED, AT_UP, LEARNS = range(4)


class Sink(NamedTuple):
    """Buffers for one call of a kernel; `size` int64 ``[4]`` says how far they, and what goes up, are filled.

    Its last number is 1 where a policy learns; else `fed` is for the edge nodes' telemetry, and gets their rows only.
    """

    ended: NDArray[np.int64]
    fed: NDArray[np.int64]
    """Without rows where no policy learns."""
    size: NDArray[np.int64]


class Scratch:
    """Memory that kernels write to and that is used again: fresh memory costs more than what is written to it."""

    def __init__(self) -> None:
        self._flat: dict[str, NDArray[np.int64]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: what is here was read before."""
        return {"_flat": {}}

    def take(self, name: str, rows: int, columns: int) -> NDArray[np.int64]:
        """Return int64 ``[rows, columns]`` of any content, good until the same name is taken again."""
        size = rows * columns
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = np.empty(size + size // 4, np.int64)
        return flat[:size].reshape(rows, columns)

    def sink(self, rows: int, ends: int, *, fed: bool, learns: bool) -> Sink:
        """Return buffers for what becomes of so many requests, each of which is put down `ends` times at most."""
        return Sink(
            self.take("ended", ends * rows, ENDED),
            self.take("fed", 3 * rows if fed else 0, FED),
            np.array([0, 0, 0, learns], np.int64),
        )


@inline
def bin_of_one(ns: Any) -> Any:
    """Return the bin of one time; see `histogram.bin_of`."""
    if ns < 1:
        return 0
    place = (np.float64(ns).view(np.int64) >> SHIFT) - FIRST
    return min(place, BINS - 1)


@inline
def put_end(
    ended: Any, size: Any, cell: Any, rid: Any, t: Any, device: Any, kind: Any, tier: Any, why: Any, at: Any, row: Any,
    asked: Any,
) -> None:  # fmt: skip
    """Put down how a request ended."""
    place = size[AT_ENDED]
    ended[place, Ended.CELL] = cell
    ended[place, Ended.RID] = rid
    ended[place, Ended.T] = t
    ended[place, Ended.DEVICE] = device
    ended[place, Ended.KIND] = kind
    ended[place, Ended.TIER] = tier
    ended[place, Ended.REASON] = why
    ended[place, Ended.AT] = at
    ended[place, Ended.ROW] = row
    ended[place, Ended.ASKED] = asked
    size[AT_ENDED] = place + 1


@inline
def put_fed(
    fed: Any, size: Any, level: Any, known: Any, cell: Any, rid: Any, device: Any, row: Any, action: Any,
    propensity: Any, decided: Any, upper: Any, upper_row: Any, took: Any,
) -> None:  # fmt: skip
    """Put down what came of a decision, where a policy learns."""
    if fed.shape[0] > 0 and (level == 1 or size[LEARNS] == 1):
        place = size[AT_FED]
        fed[place, Fed.LEVEL] = level
        fed[place, Fed.KNOWN] = known
        fed[place, Fed.CELL] = cell
        fed[place, Fed.RID] = rid
        fed[place, Fed.DEVICE] = device
        fed[place, Fed.ROW] = row
        fed[place, Fed.ACTION] = action
        fed[place, Fed.PROPENSITY] = propensity
        fed[place, Fed.T] = decided
        fed[place, Fed.UPPER] = upper
        fed[place, Fed.UPPER_ROW] = upper_row
        fed[place, Fed.TOOK] = took
        fed[place, Fed.NODE] = -1
        size[AT_FED] = place + 1


def count_ended(
    ended: NDArray[np.int64],
    stats: Stats,
    keys: NDArray[np.uint64],
    slo: NDArray[np.int64],
    right: tuple[NDArray[np.uint8], ...],
    interval: int,
) -> None:
    """Count how requests ended; `Ended.ROW` then says whether the answer was right."""
    _tally(
        ended, keys, slo, right[0], right[1], right[2], stats.count, stats.reason, stats.hist, stats.series,
        stats.digest, stats.by_class, interval,
    )  # fmt: skip


@kernel
def _tally(
    ended: Any, keys: Any, slo: Any, right_0: Any, right_1: Any, right_2: Any, count: Any, reason: Any, hist: Any,
    series: Any, digest: Any, by_class: Any, interval: Any,
) -> None:  # fmt: skip
    total = np.uint64(0)
    last = series.shape[0] - 1
    begin, row = np.int64(0), np.int64(0)
    for i in range(ended.shape[0]):
        cell, rid, t, at = ended[i, Ended.CELL], ended[i, Ended.RID], ended[i, Ended.T], ended[i, Ended.AT]
        why, tier = ended[i, Ended.REASON], ended[i, Ended.TIER]
        key = keys[cell, Purpose.HASH] + np.uint64(rid) * GOLDEN
        took = at - t
        if at < begin or at - begin >= interval:
            row = min(at // interval, last)
            begin = row * interval
        if why == CORRECTED:
            if at < FAR:
                total += mix(mix(key + np.uint64(0xFFFF)) ^ np.uint64(at))
                count[Count.CORRECTED] += 1
                hist[Hist.CORRECTION, bin_of_one(took)] += 1
                series[row, Series.CORRECTED] += 1
            continue
        right, place = np.int64(0), ended[i, Ended.ROW]
        if tier == 0:
            right = np.int64(right_0[place])
        elif tier == 1:
            right = np.int64(right_1[place])
        elif tier == 2:
            right = np.int64(right_2[place])
        ended[i, Ended.ROW] = right
        total += mix(mix(key + np.uint64((why << 8) | ((tier + 1) << 4) | right)) ^ np.uint64(at))
        reason[why] += 1
        if tier < 0:
            continue
        kind = ended[i, Ended.KIND]
        late = 1 if took > slo[kind] else 0
        count[Count.ANSWERED_0 + tier] += 1
        count[Count.CORRECT_0 + tier] += right
        count[Count.LATE] += late
        series[row, Series.ANSWERED_0 + tier] += 1
        series[row, Series.CORRECT] += right
        series[row, Series.LATE] += late
        series[row, Series.LATENCY_NS] += took
        by_class[kind, Class.ANSWERED] += 1
        by_class[kind, Class.CORRECT] += right
        by_class[kind, Class.LATE] += late
        asked = ended[i, Ended.ASKED]
        if tier > 0 and asked >= 0:
            series[row, Series.ABOVE_0] += 1
            series[row, Series.ABOVE_NS_0] += at - asked
        if why == Reason.OK or why == Reason.DEFERRED:
            hist[Hist.ENDPOINT + tier, bin_of_one(took)] += 1
            count[Count.LATENCY_NS_0 + tier] += took
        else:
            hist[Hist.DEGRADED, bin_of_one(took)] += 1
            series[row, Series.DEGRADED] += 1
            by_class[kind, Class.DEGRADED] += 1
    digest[0] += total
