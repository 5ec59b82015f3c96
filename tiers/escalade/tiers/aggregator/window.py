"""Which observations meet in one event, when it is answered, and what is refused. No clock, no I/O.

**Meeting.** An observation with a key belongs to that event. One without joins the event of its zone whose
first observation lies nearest in time, at most half a window away, by the nodes' corrected clocks; else it
begins an event of its own, whose key is made of zone and time.

**Closing.** An open event is answered as soon as all nodes have reported (`complete`), the quorum has
(`quorum`), no missing node can change the label (`settled`), or `deadline_ms` have passed since its first
observation arrived (`deadline`).

**Late.** For `late_ms` after that an observation still counts; if it changes the label, a correction
follows (`late`). Then the event is final and what comes is `expired`.

**One node, one voice.** The first observation of a node counts; a repeat of its id is a `duplicate`, another
id is `repeated`.

**Bounds.** Events that are open or may be corrected number at most `max_events`; each node may have begun an
equal share of them, so that one that sends nonsense keys is refused (`full`) and no other. None of them is
ever given up. Of final events `max_kept` are remembered, the oldest forgotten first. An observation that is
older than an event can live begins none: `expired`, so nothing is begun twice.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, Protocol

from escalade.tiers.aggregator.clocks import Skew
from escalade.tiers.aggregator.event import Event, State
from escalade.tiers.aggregator.observation import Observation, RefusalError, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from escalade.tiers.aggregator.checks import Checks
    from escalade.tiers.aggregator.config import AggregatorConfig

STALE = 1024
"""Entries of the queue of what is due that may have been overtaken."""
DEADLINE_SLACK_S = 1e-6
"""Two sums of the same times may differ by rounding."""


class Settles(Protocol):
    """The part of `Fusing` that decides about early closing."""

    def settled(self, events: Sequence[Event]) -> NDArray[np.bool_]:
        """Return bool `[E]`: whether no missing node can change the label."""
        ...


class Accepted(NamedTuple):
    """An observation that was taken, to be kept on disk: with its place, its event and when it came."""

    observation: Observation
    place: int
    event: Event
    now: float


class Changes(NamedTuple):
    """What one call has changed."""

    verdicts: list[Verdict]
    accepted: list[Accepted]
    closed: list[tuple[Event, str]]
    """Newly closed, with the cause; to be answered."""
    late: list[Event]
    """Closed before; an observation has come since."""
    learn: list[Event]
    """Nobody is expected to report these any more, and the rule has not learnt from them."""
    final: list[Event]
    """What is stored of their observations may go."""


class Window:
    """The events of one aggregator.

    Parameters
    ----------
    checks:
        Holds each observation against what it should be.
    rule:
        Says when an event is settled.
    """

    def __init__(self, config: AggregatorConfig, classes: int, checks: Checks, rule: Settles) -> None:
        self._config, self._classes, self._checks, self._rule = config, classes, checks, rule
        self.nodes = config.nodes
        self._places = {name: place for place, name in enumerate(config.nodes)}
        self._deadline_s, self._late_s = config.deadline_ms / 1e3, config.late_ms / 1e3
        self._half_window_s, self._life_s = config.window_ms / 2e3, (config.deadline_ms + config.late_ms) / 1e3
        self._quorum = config.quorum or len(config.nodes)
        self._share = max(1, config.max_events // len(config.nodes))
        self._live: dict[str, Event] = {}
        self._kept: OrderedDict[str, Event] = OrderedDict()
        self._zones: dict[str, list[Event]] = {}
        """Live events that were found by time, in the order of their times."""
        self._opened = [0] * len(config.nodes)
        self._due: list[tuple[float, int, Event]] = []
        self._count = 0
        self.open = 0
        """Events that are not closed."""
        self.skews = [Skew() for _ in config.nodes]
        self.last_seen_s = [0.0] * len(config.nodes)
        self.counts: list[Counter[str]] = [Counter() for _ in config.nodes]
        """By node: `accepted`, `late`, and every reason of `REFUSALS`."""
        self.strangers: Counter[str] = Counter()
        """Refused observations of nodes that are not expected, and of other tenants', by reason."""

    def __len__(self) -> int:
        return len(self._live)

    def find(self, key: str) -> Event | None:
        """Return an event that is live or remembered."""
        return self._live.get(key) or self._kept.get(key)

    def next_due_s(self) -> float | None:
        """Return when `tick` has something to do; None: when something was observed."""
        while self._due and _stale(self._due[0]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def observe(self, observations: Sequence[Observation], tenant: str, sent_s: float | None, now: float) -> Changes:
        """Take a batch in; one bad observation does not touch the others.

        Parameters
        ----------
        tenant:
            Whose nodes these are.
        sent_s:
            When they were sent, by the sender's clock; None: it does not say.
        now:
            Seconds since the epoch; never runs back.
        """
        changes = self.tick(now)
        if sent_s is not None and tenant == self._config.tenant:
            self._note_clock({one.node for one in observations}, sent_s, now)
        touched: dict[str, Event] = {}
        late: dict[str, Event] = {}
        for index, observation in enumerate(observations):
            try:
                if tenant != self._config.tenant:
                    raise RefusalError("tenant", f"this aggregator is not of tenant {tenant[:60]!r}")
                if index >= self._config.max_batch:
                    raise RefusalError(
                        "too_many", f"at most {self._config.max_batch} observations fit a request; send less"
                    )
                accepted = self._take(observation, sent_s, now)
            except RefusalError as refusal:
                changes.verdicts.append(refusal.verdict)
                self._count_refusal(observation.node, refusal.verdict.reason)
                continue
            event = accepted.event
            changes.verdicts.append(Verdict(event=event.key))
            changes.accepted.append(accepted)
            (touched if event.state is State.OPEN else late)[event.key] = event
        self._close_early(list(touched.values()), changes, now)
        changes.late.extend(late.values())
        changes.learn.extend(event for event in late.values() if event.present.all() and not event.learnt)
        return changes

    def tick(self, now: float) -> Changes:
        """Close what is due, and forget what is past."""
        changes = Changes([], [], [], [], [], [])
        while self._due and self._due[0][0] <= now + DEADLINE_SLACK_S:
            entry = heappop(self._due)
            if _stale(entry):
                continue
            event = entry[2]
            if event.state is State.OPEN:
                changes.closed.append((event, self._close(event, "deadline", now)))
            else:
                self._finish(event, changes)
        return changes

    def restore(self, event: Event, closed_s: float | None, now: float) -> None:
        """Put back an event of an earlier run: open, or closed at `closed_s`."""
        event.opened_s = min(event.opened_s, now)  # the clock may have been set back meanwhile
        self._begin(event)
        if closed_s is not None:
            event.learnt = bool(event.present.all())
            self._close(event, "", min(closed_s, now))

    def remember(self, event: Event) -> None:
        """Put back a final event."""
        event.state = State.FINAL
        self._kept[event.key] = event
        while len(self._kept) > self._config.max_kept:
            self._kept.popitem(last=False)

    def _take(self, observation: Observation, sent_s: float | None, now: float) -> Accepted:
        """Add one observation to its event; raise RefusalError and change nothing."""
        place = self._checks.place(observation)
        time_s = self._corrected(observation, place, sent_s, now)
        event = self._live.get(observation.event) if observation.event else self._nearest(observation.zone, time_s)
        if event is None:
            event = self._new(observation, place, time_s, now)
        elif event.present[place]:
            again = "duplicate" if event.ids[place] == observation.id else "repeated"
            text = "it was taken before" if again == "duplicate" else "this node's first observation counts"
            raise RefusalError(again, text, event.key)
        event.add(observation, place)
        self.last_seen_s[place] = now
        self.counts[place]["accepted" if event.state is State.OPEN else "late"] += 1
        return Accepted(observation, place, event, now)

    def _corrected(self, observation: Observation, place: int, sent_s: float | None, now: float) -> float:
        """Return when something was observed, by our clock."""
        skew, most_s = self.skews[place], self._config.max_skew_ms / 1e3
        offset_s = skew.offset_s
        if sent_s is not None:  # more than the estimate is a long way, less is a clock that was set
            offset_s = min(offset_s, now - sent_s) if skew.known(now) else now - sent_s
        if abs(offset_s) > most_s:
            raise RefusalError(
                "skew", f"the node's clock is {offset_s:+.1f} s from ours; set it, or raise `max_skew_ms`"
            )
        if observation.observed_s is None:
            return now
        time_s = observation.observed_s + offset_s
        if time_s > now + self._config.future_ms / 1e3:
            raise RefusalError("future", f"it was observed {time_s - now:.1f} s from now; set the node's clock")
        return time_s

    def _note_clock(self, names: set[str], sent_s: float, now: float) -> None:
        """Learn from a report how far its sender's clock is off, unless it is absurd."""
        if abs(now - sent_s) <= self._config.max_skew_ms / 1e3:
            for place in (self._places[name] for name in names if name in self._places):
                self.skews[place].saw(sent_s, now)

    def _nearest(self, zone: str, time_s: float) -> Event | None:
        """Return the event of a zone that lies nearest, if it is near enough."""
        events = self._zones.get(zone, [])
        place = bisect_left(events, time_s, key=_time)
        near = min(events[max(0, place - 1) : place + 1], key=lambda event: abs(event.time_s - time_s), default=None)
        return near if near is not None and abs(near.time_s - time_s) <= self._half_window_s else None

    def _new(self, observation: Observation, place: int, time_s: float, now: float) -> Event:
        key = observation.event or f"{observation.zone}@{round(time_s * 1e3)}"
        if not observation.event:
            while key in self._live or key in self._kept:  # another event of the same millisecond
                key += "'"
        elif key in self._kept:
            raise RefusalError("expired", "the event is final", key)
        if now - time_s > self._life_s:
            raise RefusalError("expired", f"it was observed {now - time_s:.1f} s ago, and its event is past")
        if self._opened[place] >= self._share:
            raise RefusalError("full", f"this node has begun {self._share} events that are not over; try again later")
        event = Event.first(
            key, observation, place, nodes=len(self.nodes), classes=self._classes, time_s=time_s, now=now
        )
        self._begin(event)
        return event

    def _begin(self, event: Event) -> None:
        self._live[event.key] = event
        self.open += 1
        self._opened[event.opener] += 1
        if event.by_keyless:
            insort(self._zones.setdefault(event.zone, []), event, key=_time)
        self._change_at(event, event.opened_s + self._deadline_s)

    def _close_early(self, events: list[Event], changes: Changes, now: float) -> None:
        waiting = []
        for event in events:
            reported = len(event.ids)
            if reported == len(self.nodes):
                changes.closed.append((event, self._close(event, "complete", now)))
                changes.learn.append(event)
            elif reported >= self._quorum:
                changes.closed.append((event, self._close(event, "quorum", now)))
            else:
                waiting.append(event)
        if waiting and self._config.early_close:
            for event, settled in zip(waiting, self._rule.settled(waiting).tolist(), strict=True):
                if settled:
                    changes.closed.append((event, self._close(event, "settled", now)))

    def _close(self, event: Event, cause: str, now: float) -> str:
        event.state = State.CLOSED
        self.open -= 1
        self._change_at(event, now + self._late_s)
        return cause

    def _finish(self, event: Event, changes: Changes) -> None:
        if not event.learnt:
            changes.learn.append(event)
        changes.final.append(event)
        event.raws.clear()
        del self._live[event.key]
        self._opened[event.opener] -= 1
        if event.by_keyless:
            zone = self._zones[event.zone]
            del zone[zone.index(event, bisect_left(zone, event.time_s, key=_time))]
            if not zone:
                del self._zones[event.zone]
        self.remember(event)

    def _change_at(self, event: Event, due_s: float) -> None:
        event.due_s = due_s
        self._count += 1
        heappush(self._due, (due_s, self._count, event))
        if len(self._due) > 2 * len(self._live) + STALE:  # of events that closed long before their deadline
            self._due = [entry for entry in self._due if not _stale(entry)]
            heapify(self._due)

    def _count_refusal(self, node: str, reason: str) -> None:
        place = None if reason == "tenant" else self._places.get(node)
        counts = self.strangers if place is None else self.counts[place]
        counts[reason] += 1


def _time(event: Event) -> float:
    return event.time_s


def _stale(entry: tuple[float, int, Event]) -> bool:
    return entry[2].due_s != entry[0] or entry[2].state is State.FINAL
