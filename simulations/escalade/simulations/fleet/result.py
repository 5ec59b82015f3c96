"""What a run returns: `FleetResult`; and what it is merged from, `Stats`: whole numbers only, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.event_section import MOST_VIEWS
from escalade.simulations.fleet.histogram import BINS, quantile_ms
from escalade.simulations.fleet.scenario import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from escalade.simulations.fleet.scenario import Scenario


class Reason(IntEnum):
    """Why a tier answered that was not the one asked for; or why nobody answered."""

    OK = 0  #: answered by the tier that the policies wanted
    DEADLINE = 1  #: no time was left to ask the tier above
    TIMEOUT = 2  #: the tier above did not answer within the time it was given
    REFUSED = 3  #: the tier above had `max_queue` waiting
    UNAVAILABLE = 4  #: the tier above was down
    BUFFER_FULL = 5  #: the sender could not keep the message, or evicted it
    CIRCUIT_OPEN = 6  #: the breaker was open
    DEFERRED = 7  #: the policy answered provisionally: no fault
    ABSTAINED = 8  #: a policy gave no answer
    OFFLINE = 9  #: the device had left (churn): the input was not seen
    FILTERED = 10  #: the trigger sensor did not wake the device
    DEAD = 11  #: the battery was empty


REASONS = len(Reason)
NO_ANSWER = frozenset({Reason.ABSTAINED, Reason.OFFLINE, Reason.FILTERED, Reason.DEAD})


class Hist(IntEnum):
    """The histograms, by row of `Stats.hist`. All times in ns."""

    ENDPOINT = 0  #: from arrival to the answer, answered by the endpoint as wanted
    EDGE_NODE = 1  #: the same, by the edge node
    EDGE_SERVER = 2  #: the same, by the server
    DEGRADED = 3  #: the same, of degraded answers
    LOCAL = 4  #: from arrival until the endpoint has inferred
    ACCESS = 5  #: from being sent until arrival at the edge node
    EDGE = 6  #: from arrival at the edge node until it has inferred
    UPLINK = 7  #: from being sent until arrival at the server
    SERVER = 8  #: from arrival at the server until it has inferred
    CORRECTION = 9  #: from arrival until a better answer than the one given came, for those where one came
    FUSED = 10  #: from an event until its fused answer


HISTS = len(Hist)


class Count(IntEnum):
    """The counters, by place in `Stats.count`."""

    ARRIVED = 0  #: inputs, those nobody saw among them
    ANSWERED_0 = 1  #: by the endpoint, degraded ones among them; the next two: by edge node and server
    ANSWERED_1 = 2
    ANSWERED_2 = 3
    CORRECT_0 = 4  #: right ones of these
    CORRECT_1 = 5
    CORRECT_2 = 6
    LATENCY_NS_0 = 7  #: summed from arrival to answer, of those answered by that tier as wanted
    LATENCY_NS_1 = 8
    LATENCY_NS_2 = 9
    ESCALATED_0 = 10  #: sent up by the endpoint's policy, feasible or not
    ESCALATED_1 = 11
    BYTES_0 = 12  #: sent by endpoints
    BYTES_1 = 13  #: sent by edge nodes
    BUSY_NS_0 = 14  #: inferring
    BUSY_NS_1 = 15
    BUSY_NS_2 = 16
    SERVED_0 = 17  #: inferences
    SERVED_1 = 18
    SERVED_2 = 19
    BATCHES_1 = 20
    BATCHES_2 = 21
    WAIT_NS_0 = 22  #: from arrival at the tier to the start of the inference
    WAIT_NS_1 = 23
    WAIT_NS_2 = 24
    LATE = 25  #: answered after the service level objective, of those answered
    CORRECTED = 26  #: a better answer came after the one given
    LOST_0 = 27  #: messages given up on the way: all retries lost, or evicted, or refused for room
    LOST_1 = 28
    RETRIES = 29  #: transmissions repeated
    DEATHS = 30  #: batteries that became empty
    EVENTS = 31  #: fused events, those of which no view came among them
    EVENTS_COMPLETE = 32  #: answered from all views
    EVENTS_QUORUM = 33  #: from a quorum
    EVENTS_DEADLINE = 34  #: from what had come at the deadline
    EVENTS_CORRECT = 35  #: answered right, corrections not counted
    EVENTS_CORRECT_LAST = 36  #: the last answer was right
    EVENTS_CORRECTIONS = 37  #: answers after the first
    EVENTS_VIEWS = 38  #: views used in the first answers
    VIEWS_LATE = 39  #: that came after the answer, in time for a correction
    VIEWS_EXPIRED = 40  #: that came later still
    VIEWS_LOST = 41  #: that never came
    BYTES_VIEWS = 42  #: sent by edge nodes; part of BYTES_1


COUNTS = len(Count)


class Series(IntEnum):
    """The columns of `Stats.series`; a row is one control interval, the last all that is later."""

    ARRIVED = 0  #: by arrival
    ANSWERED_0 = 1  #: by the answer's time, as the next six
    ANSWERED_1 = 2
    ANSWERED_2 = 3
    CORRECT = 4
    DEGRADED = 5
    LATE = 6
    LATENCY_NS = 7
    BYTES_0 = 8  #: by the time of sending
    BYTES_1 = 9
    BUSY_NS_0 = 10  #: by the time the inference starts, as the waits
    BUSY_NS_1 = 11
    BUSY_NS_2 = 12
    WAIT_NS_1 = 13
    WAIT_NS_2 = 14
    DEATHS = 15  #: by the time of death
    CORRECTED = 16  #: by the time of the better answer
    LOST = 17  #: messages; by the time of sending
    ABOVE_0 = 18  #: answers from above that endpoints had in time; by the answer's time, as the next three
    ABOVE_NS_0 = 19  #: how long these took
    ABOVE_1 = 20
    ABOVE_NS_1 = 21
    EVENTS = 22  #: answered; by the answer's time, as the next two
    EVENTS_CORRECT = 23
    EVENTS_NS = 24  #: from the events to their answers
    VIEWS = 25  #: that reached the aggregator; by their arrival, as the next
    VIEWS_CORRECT = 26


SERIES = len(Series)


class Class(IntEnum):
    """The columns of `Stats.by_class`; a row is one class of endpoints."""

    ARRIVED = 0
    ANSWERED = 1
    CORRECT = 2
    LATE = 3
    DEGRADED = 4
    SERVED = 5  #: inferences of the endpoints themselves
    BUSY_NS = 6
    ESCALATED = 7
    SENT = 8  #: messages


CLASSES = len(Class)


class ViewCount(IntEnum):
    """The columns of `Stats.by_view`; a row is a place in the groups of nodes that see an event."""

    CAME = 0  #: views that reached the aggregator
    CORRECT = 1  #: right by themselves


VIEW_COUNTS = len(ViewCount)


@dataclass(slots=True, eq=False)
class Stats:
    """Integer sums of one shard or of a whole run; `digest` is a sum of one hash a request, so order cannot matter.

    Attributes
    ----------
    count, reason
        int64, by `Count` and by `Reason`.
    hist
        int64 ``[HISTS, BINS]``.
    series
        int64 ``[intervals + 1, SERIES]``.
    digest
        uint64 ``[1]``: modulo 2 ** 64, over tier, reason, time and correctness of every request and fused event.
    by_class
        int64 ``[classes, CLASSES]``, by class of endpoints and `Class`.
    by_view
        int64 ``[MOST_VIEWS, VIEW_COUNTS]``, by place in a group of nodes and `ViewCount`.
    """

    count: NDArray[np.int64]
    reason: NDArray[np.int64]
    hist: NDArray[np.int64]
    series: NDArray[np.int64]
    digest: NDArray[np.uint64]
    by_class: NDArray[np.int64]
    by_view: NDArray[np.int64]

    @classmethod
    def empty(cls, intervals: int, classes: int) -> Stats:
        """Make zeros."""
        return cls(
            np.zeros(COUNTS, np.int64),
            np.zeros(REASONS, np.int64),
            np.zeros((HISTS, BINS), np.int64),
            np.zeros((intervals + 1, SERIES), np.int64),
            np.zeros(1, np.uint64),
            np.zeros((classes, CLASSES), np.int64),
            np.zeros((MOST_VIEWS, VIEW_COUNTS), np.int64),
        )

    def add(self, other: Stats) -> None:
        """Take in another shard's."""
        self.count += other.count
        self.reason += other.reason
        self.hist += other.hist
        self.series += other.series
        self.digest += other.digest
        self.by_class += other.by_class
        self.by_view += other.by_view

    @classmethod
    def merged(cls, parts: Iterable[Stats]) -> Stats:
        """Return the sum of one or more."""
        first, *rest = parts
        total = cls(*(getattr(first, name).copy() for name in cls.__slots__))
        for one in rest:
            total.add(one)
        return total


@dataclass(frozen=True, slots=True)
class Failure:
    """A policy raised: where, and what was done until then is in the result.

    Attributes
    ----------
    time_s
        Simulated time at which the batch was decided: that of its first row.
    tier, cell
        Whose policy; -1 where it is not a cell's (`observe`, `retune`).
    rows
        How many rows the batch had.
    call
        ``decide``, ``commit``, ``observe`` or ``retune``.
    batch
        The first rows, as text.
    traceback
        Of the policy.
    """

    time_s: float
    tier: str
    cell: int
    rows: int
    call: str
    batch: str
    traceback: str

    def __str__(self) -> str:
        last = self.traceback.strip().splitlines()[-1]
        return f"the policy of the {self.tier} raised in {self.call} at {self.time_s:g} s, {self.rows} rows: {last}"


@dataclass(slots=True, eq=False)
class FleetResult:
    """What became of every request of a run.

    Attributes
    ----------
    scenario, seed, backend
        What was run.
    stats
        All counters.
    simulated_s
        How far it got: less than the scenario's duration after an interruption or a failure.
    complete
        Whether it ran to its end.
    failure
        What a policy raised, else None.
    warnings
        Of unstable load and the like, a sentence each.
    wall_s, cpu_s, peak_rss_mb
        Of the run; CPU time and peak memory are those of this process (and of Ray's workers, where there are any).
    requests_table
        With ``keep_requests``: columns by name, one row a request that ended, in order of cell and number.
    devices
        With batteries: ``charge_share`` left at the end, float64 ``[devices]``; ``died_s``, nan where alive.
    unhealthy
        With fused events: how many nodes are unwell at the end, by what health checks found.
    """

    scenario: Scenario
    seed: int
    backend: str
    stats: Stats
    simulated_s: float
    complete: bool = True
    failure: Failure | None = None
    warnings: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mb: float = 0.0
    requests_table: dict[str, NDArray[Any]] | None = None
    devices: dict[str, NDArray[np.float64]] | None = None
    unhealthy: dict[str, int] | None = None

    @property
    def hash(self) -> str:
        """Return 16 hexadecimal digits over what became of every request and event; the same on every backend."""
        return f"{int(self.stats.digest[0]):016x}"

    @property
    def requests(self) -> int:
        """Inputs that arrived."""
        return int(self.stats.count[Count.ARRIVED])

    @property
    def answered(self) -> int:
        """Inputs that were answered."""
        return int(self.stats.count[Count.ANSWERED_0 : Count.ANSWERED_2 + 1].sum())

    @property
    def share(self) -> dict[str, float]:
        """Share of the answered that each tier answered; nan without any."""
        total = self.answered
        return {
            tier: int(self.stats.count[Count.ANSWERED_0 + level]) / total if total else float("nan")
            for level, tier in enumerate(TIERS)
        }

    @property
    def accuracy(self) -> float:
        """Share of the answered that were answered right; nan without any."""
        total = self.answered
        right = int(self.stats.count[Count.CORRECT_0 : Count.CORRECT_2 + 1].sum())
        return right / total if total else float("nan")

    @property
    def degraded_share(self) -> float:
        """Share of the answered that were answered below the tier that was asked for; nan without any."""
        faults = [Reason.DEADLINE, Reason.TIMEOUT, Reason.REFUSED, Reason.UNAVAILABLE]
        faults += [Reason.BUFFER_FULL, Reason.CIRCUIT_OPEN]
        total = self.answered
        return int(self.stats.reason[faults].sum()) / total if total else float("nan")

    def latency_ms(self, hist: Hist) -> dict[str, float]:
        """Return p50, p95, p99 and the count of one histogram."""
        counts = self.stats.hist[hist]
        return {
            "p50": quantile_ms(counts, 0.5),
            "p95": quantile_ms(counts, 0.95),
            "p99": quantile_ms(counts, 0.99),
            "count": int(counts.sum()),
        }

    def utilisation(self) -> dict[str, float]:
        """Return each tier's busy share of its workers over the simulated time, at most 1, as the series count it.

        What is drained after the end is left out.
        """
        able_ns = np.array(self.workers) * max(self.simulated_s, 1e-9) * 1e9
        shares = self.busy_ns()[:-1].sum(axis=0) / able_ns
        return {tier: min(float(share), 1.0) for tier, share in zip(TIERS, shares, strict=True)}

    def busy_ns(self) -> NDArray[np.float64]:
        """Return how long the workers of each tier were busy in each interval that began, and after the run, ns.

        Work counts in one interval, whole. Where the run ended within an interval, what was drained after it is
        in that one too; it counts there as far as the workers had time before the end.
        """
        rows = self.stats.series[:, Series.BUSY_NS_0 : Series.BUSY_NS_2 + 1].astype(np.float64)
        found: NDArray[np.float64] = np.append(
            rows[: self.begun], rows[self.begun :].sum(axis=0, keepdims=True), axis=0
        )
        interval_s = self.scenario.control.interval_s
        length_s = self.simulated_s - (self.begun - 1) * interval_s
        if self.begun and length_s < interval_s * (1 - 1e-9):
            found[-2] = np.minimum(found[-2], np.array(self.workers) * length_s * 1e9)
        return found

    @property
    def workers(self) -> tuple[int, int, int]:
        """How many there are in each tier; an endpoint is one."""
        edge, server = self.scenario.edge_nodes, self.scenario.edge_servers
        return self.scenario.device_count, edge.count * edge.workers, server.count * server.workers

    @property
    def begun(self) -> int:
        """How many control intervals began before the run ended."""
        intervals = ceil(self.simulated_s / self.scenario.control.interval_s - 1e-9)
        return min(intervals, len(self.stats.series) - 1)
