"""Where kernels count what became of requests: `Sink`, and the only functions that write to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import GOLDEN, mix
from escalade.simulations.fleet.histogram import BINS, FIRST, SHIFT
from escalade.simulations.fleet.jit import inline
from escalade.simulations.fleet.result import Class, Count, Hist, Reason, Series
from escalade.simulations.fleet.rows import ENDED, FAR, FED, OUTCOME, Ended, Fed, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import Stats

PLACES = 4
AT_ENDED, AT_OUTCOME, AT_FED, AT_UP = range(PLACES)


class Sink(NamedTuple):
    """Counters, and buffers for single requests, which are empty where nobody asks for them.

    `size` int64 ``[PLACES]`` says how far the buffers are filled; the last place counts messages going up.
    """

    count: NDArray[np.int64]
    reason: NDArray[np.int64]
    hist: NDArray[np.int64]
    series: NDArray[np.int64]
    digest: NDArray[np.uint64]
    by_class: NDArray[np.int64]
    ended: NDArray[np.int64]
    outcome: NDArray[np.int64]
    fed: NDArray[np.int64]
    size: NDArray[np.int64]
    interval: int


def sink_for(stats: Stats, interval_ns: int, rows: int, *, keep: bool, outcomes: bool, fed: bool) -> Sink:
    """Return a sink with room for what `rows` requests may give in one call of a kernel."""
    return Sink(
        stats.count,
        stats.reason,
        stats.hist,
        stats.series,
        stats.digest,
        stats.by_class,
        np.empty((ENDED, rows if keep else 0), np.int64),
        np.empty((OUTCOME, 2 * rows if outcomes else 0), np.int64),
        np.empty((FED, 2 * rows if fed else 0), np.int64),
        np.zeros(PLACES, np.int64),
        interval_ns,
    )


@inline
def bin_of_one(ns: Any) -> Any:
    """Return the bin of one time; see `histogram.bin_of`."""
    if ns < 1:
        return 0
    place = (np.float64(ns).view(np.int64) >> SHIFT) - FIRST
    return min(place, BINS - 1)


@inline
def row_of(sink: Any, t: Any) -> Any:
    """Return the row of the time series that a time falls in."""
    return min(t // sink.interval, sink.series.shape[0] - 1)


@inline
def note_outcome(sink: Any, level: Any, unit: Any, known: Any, in_time: Any, answered: Any, escalated: Any) -> None:
    """Keep one outcome for telemetry, where it is asked for."""
    if sink.outcome.shape[1] > 0:
        place = sink.size[AT_OUTCOME]
        sink.outcome[Outcome.LEVEL, place] = level
        sink.outcome[Outcome.UNIT, place] = unit
        sink.outcome[Outcome.KNOWN, place] = known
        sink.outcome[Outcome.IN_TIME, place] = in_time
        sink.outcome[Outcome.ANSWERED, place] = answered
        sink.outcome[Outcome.ESCALATED, place] = escalated
        sink.size[AT_OUTCOME] = place + 1


@inline
def note_end(
    sink: Any, key: Any, cell: Any, rid: Any, t: Any, device: Any, kind: Any, slo: Any, tier: Any, at: Any, why: Any,
    right: Any,
) -> None:  # fmt: skip
    """Count how one request ended; `tier` -1 for one without an answer, `device` the fleet's number."""
    code = np.uint64((why << 8) | ((tier + 1) << 4) | right)
    sink.digest[0] += mix(mix(key + np.uint64(rid) * GOLDEN + code) ^ np.uint64(at))
    sink.reason[why] += 1
    if tier >= 0:
        late = 1 if at - t > slo else 0
        row = row_of(sink, at)
        sink.count[Count.ANSWERED_0 + tier] += 1
        sink.count[Count.CORRECT_0 + tier] += right
        sink.count[Count.LATE] += late
        sink.series[row, Series.ANSWERED_0 + tier] += 1
        sink.series[row, Series.CORRECT] += right
        sink.series[row, Series.LATE] += late
        sink.series[row, Series.LATENCY_NS] += at - t
        sink.by_class[kind, Class.ANSWERED] += 1
        sink.by_class[kind, Class.CORRECT] += right
        sink.by_class[kind, Class.LATE] += late
        sound = why == Reason.OK or why == Reason.DEFERRED
        if sound:
            sink.hist[Hist.ENDPOINT + tier, bin_of_one(at - t)] += 1
            sink.count[Count.LATENCY_NS_0 + tier] += at - t
        else:
            sink.hist[Hist.DEGRADED, bin_of_one(at - t)] += 1
            sink.series[row, Series.DEGRADED] += 1
            sink.by_class[kind, Class.DEGRADED] += 1
        note_outcome(sink, 0, device, at, 1 if sound and late == 0 else 0, 1, 0)
    if sink.ended.shape[1] > 0:
        place = sink.size[AT_ENDED]
        sink.ended[Ended.CELL, place] = cell
        sink.ended[Ended.RID, place] = rid
        sink.ended[Ended.T, place] = t
        sink.ended[Ended.DEVICE, place] = device
        sink.ended[Ended.TIER, place] = tier
        sink.ended[Ended.REASON, place] = why
        sink.ended[Ended.AT, place] = at
        sink.ended[Ended.CORRECT, place] = right
        sink.size[AT_ENDED] = place + 1


@inline
def note_correction(sink: Any, key: Any, rid: Any, t: Any, at: Any) -> None:
    """Count a better answer that came after the one given."""
    if at < FAR:
        sink.digest[0] += mix(mix(key + np.uint64(rid) * GOLDEN + np.uint64(0xFFFF)) ^ np.uint64(at))
        sink.count[Count.CORRECTED] += 1
        sink.hist[Hist.CORRECTION, bin_of_one(at - t)] += 1
        sink.series[row_of(sink, at), Series.CORRECTED] += 1


@inline
def note_fed(
    sink: Any, level: Any, known: Any, cell: Any, rid: Any, device: Any, row: Any, action: Any, propensity: Any,
    decided: Any, upper: Any, upper_row: Any, took: Any,
) -> None:  # fmt: skip
    """Keep what came of one decision, where a policy observes."""
    if sink.fed.shape[1] > 0:
        place = sink.size[AT_FED]
        sink.fed[Fed.LEVEL, place] = level
        sink.fed[Fed.KNOWN, place] = known
        sink.fed[Fed.CELL, place] = cell
        sink.fed[Fed.RID, place] = rid
        sink.fed[Fed.DEVICE, place] = device
        sink.fed[Fed.ROW, place] = row
        sink.fed[Fed.ACTION, place] = action
        sink.fed[Fed.PROPENSITY, place] = propensity
        sink.fed[Fed.T, place] = decided
        sink.fed[Fed.UPPER, place] = upper
        sink.fed[Fed.UPPER_ROW, place] = upper_row
        sink.fed[Fed.TOOK, place] = took
        sink.size[AT_FED] = place + 1
