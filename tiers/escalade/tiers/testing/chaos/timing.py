"""How soon a silent peer is noticed, and how soon after healing it answers again; time to answer of each fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from escalade.tiers.testing.chaos.kinds import ABOVE, KINDS, TIERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from escalade.tiers.testing.chaos.history import Answered, Fault, History
    from escalade.tiers.testing.chaos.rules import Rules

QUICK = 0.5
"""A degraded answer that took less than this share of the budget did not wait for the peer."""
PROBES = 0.25
"""This share of the answers may wait all the same: those that find out whether the peer is back."""
FEW = 8
"""Too few answers to say anything about a share of them."""


class Notice(NamedTuple):
    """How a silent peer was noticed."""

    after_s: float
    """Until the first degraded answer that did not wait for it; inf when there was none."""
    waited: tuple[tuple[str, ...], ...]
    """For each second in which too many requests waited for it, `spare_s` after it fell silent: those requests."""


class Recovery(NamedTuple):
    """When a tier that was out of reach was reached again."""

    tier: str
    after_s: float
    """Since the healing; inf when it was not."""


class Episode(NamedTuple):
    """Faults that overlap, and how long it is quiet afterwards."""

    faults: tuple[Fault, ...]
    start_s: float
    stop_s: float
    quiet_s: float


def episodes(faults: Sequence[Fault]) -> list[Episode]:
    """Return the faults in groups; those of a group overlap."""
    groups: list[list[Fault]] = []
    for fault in sorted(faults, key=lambda one: one.start_s):
        if groups and fault.start_s < max(one.stop_s for one in groups[-1]):
            groups[-1].append(fault)
        else:
            groups.append([fault])
    starts = [group[0].start_s for group in groups]
    stops = [max(fault.stop_s for fault in group) for group in groups]
    nexts = [*starts[1:], float("inf")]
    return [
        Episode(tuple(group), start, stop, after - stop)
        for group, start, stop, after in zip(groups, starts, stops, nexts, strict=True)
    ]


def noticed(history: History, episode: Episode, rules: Rules) -> Notice | None:
    """Return how a fault was noticed; None where that cannot be told.

    That is: it leaves the peer answering, or is too short, or not the only one at its time.

    A peer is noticed when degraded answers stop waiting for it. A few must go on asking, to learn when it is back.
    """
    fault = episode.faults[0]
    if (
        len(episode.faults) > 1
        or not KINDS[fault.kind].silent
        or fault.target == "endpoint"
        or fault.seconds < rules.notice_s
    ):
        return None
    took = _degraded(history, fault.start_s, fault.stop_s)
    if len(took) < FEW:
        return None
    quick_s = rules.local_s + QUICK * rules.budget_s
    quick = [answer.at_s - fault.start_s for answer, sent_s in took if answer.at_s - sent_s < quick_s]
    waited = []
    start_s = fault.start_s + rules.spare_s
    while start_s + 1.0 <= fault.stop_s:
        second = [(answer, sent_s) for answer, sent_s in took if start_s <= sent_s < start_s + 1.0]
        slow = tuple(answer.id for answer, sent_s in second if answer.at_s - sent_s >= quick_s)
        if len(second) >= FEW and len(slow) > PROBES * len(second):
            waited.append(slow)
        start_s += 1.0
    return Notice(min(quick, default=float("inf")), tuple(waited))


def recovered(history: History, episode: Episode, rules: Rules) -> Recovery | None:
    """Return when the tiers answered again; None where the next fault came too soon to tell."""
    if episode.quiet_s < rules.recover_s:
        return None
    above = [ABOVE[fault.target] for fault in episode.faults if fault.target in ABOVE]
    tier = max(above, key=TIERS.index, default="endpoint")
    way = TIERS[: TIERS.index(tier) + 1]
    sent = {request.id: request.sent_s for request in history.requests}
    if max(sent.values(), default=0.0) < episode.stop_s + rules.recover_s:
        return None
    again = [
        answer.at_s - episode.stop_s
        for answer in history.answers
        if sent[answer.id] >= episode.stop_s and not answer.degraded and answer.path[: len(way)] == way
    ]
    return Recovery(tier, min(again, default=float("inf")))


class Times(NamedTuple):
    """Times to answer during a fault, milliseconds; nan when nothing was asked."""

    requests: int
    degraded: int
    kept: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def times(history: History, start_s: float, stop_s: float) -> Times:
    """Return the times to answer of what was sent from then to then and answered."""
    sent = {request.id: request.sent_s for request in history.requests if start_s <= request.sent_s < stop_s}
    answers = [answer for answer in history.answers if answer.id in sent]
    took_ms = np.array([answer.at_s - sent[answer.id] for answer in answers]) * 1e3
    p50, p99, most = np.percentile(took_ms, [50, 99, 100]).tolist() if len(took_ms) else [float("nan")] * 3
    degraded = sum(answer.degraded for answer in answers)
    return Times(len(sent), degraded, sum(bool(answer.kept) for answer in answers), p50, p99, most)


def _degraded(history: History, start_s: float, stop_s: float) -> list[tuple[Answered, float]]:
    sent = {request.id: request.sent_s for request in history.requests if start_s <= request.sent_s < stop_s}
    return [(answer, sent[answer.id]) for answer in history.answers if answer.id in sent and answer.degraded]
