"""Random arrivals, duplicates, losses, restarts and clock skews, against a model that a reader can check by eye."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import CLASSES, NODES, SURE, TODAY_S, Served, posterior, saw

DEADLINE_MS, LATE_MS = 200.0, 1000.0


@dataclass
class Event:
    opened_ms: float
    said: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By node: the observation's id, and its label."""
    closed_ms: float | None = None
    label: int = -1


def mean_label(said: dict[int, tuple[str, int]]) -> int:
    return int(np.sum([posterior(label, SURE[node]) for node, (_, label) in sorted(said.items())], axis=0).argmax())


def nobody_can_change_it(said: dict[int, tuple[str, int]]) -> bool:
    """Try everything that the missing nodes could say with certainty."""
    total = np.sum([posterior(label, SURE[node]) for node, (_, label) in said.items()], axis=0)
    missing = len(NODES) - len(said)
    corners = itertools.product(np.eye(CLASSES), repeat=missing)
    return all(int((total + np.sum(corner, axis=0)).argmax()) == mean_label(said) for corner in corners)


class Model:
    """What the aggregator should do, in milliseconds, with lists and loops."""

    def __init__(self, quorum: int, *, early: bool) -> None:
        self.quorum, self.early = quorum, early
        self.now_ms = 0.0
        self.events: dict[str, Event] = {}
        self.told: list[tuple[str, str, int, int]] = []
        """Event, cause, label, nodes."""

    def pass_ms(self, milliseconds: float) -> None:
        end = self.now_ms + milliseconds
        due = sorted(
            (event.opened_ms + DEADLINE_MS, key) for key, event in self.events.items() if event.closed_ms is None
        )
        for at, key in due:
            if at <= end:
                self.close(key, "deadline", at)
        self.now_ms = end

    def close(self, key: str, cause: str, at: float) -> None:
        event = self.events[key]
        event.closed_ms, event.label = at, mean_label(event.said)
        self.told.append((key, cause, event.label, len(event.said)))

    def report(self, node: int, key: str, name: str, label: int) -> str:
        event = self.events.setdefault(key, Event(self.now_ms))
        if event.closed_ms is not None and self.now_ms >= event.closed_ms + LATE_MS:
            return "expired"
        if node in event.said:
            return "duplicate" if event.said[node][0] == name else "repeated"
        event.said[node] = (name, label)
        if event.closed_ms is not None:
            if mean_label(event.said) != event.label:
                event.label = mean_label(event.said)
                self.told.append((key, "late", event.label, len(event.said)))
        elif len(event.said) == len(NODES):
            self.close(key, "complete", self.now_ms)
        elif len(event.said) >= self.quorum:
            self.close(key, "quorum", self.now_ms)
        elif self.early and nobody_can_change_it(event.said):
            self.close(key, "settled", self.now_ms)
        return ""


REPORT = st.tuples(
    st.just("report"), st.integers(0, 2), st.sampled_from("abc"), st.sampled_from("12"), st.integers(0, CLASSES - 1)
)
STEP = st.one_of(
    REPORT,
    REPORT,
    REPORT,
    st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 150.0, 250.0, 1100.0])),
    st.tuples(st.just("restart"), st.booleans()),
)


@given(
    st.lists(STEP, max_size=25),
    st.sampled_from([2, 3]),
    st.booleans(),
    st.tuples(*[st.floats(-4.0, 4.0)] * 3),
    st.lists(st.booleans(), min_size=25, max_size=25),
)
@settings(max_examples=80)
def test_every_history_ends_as_the_model_says(
    steps: list[Any], quorum: int, early: bool, skews_s: tuple[float, ...], lost: list[bool]
) -> None:
    """Same verdicts, same answers and corrections in the same order, whatever is lost, repeated or cut by a restart."""

    async def drive(folder: Path) -> None:
        served = Served(folder, deadline_ms=DEADLINE_MS, late_ms=LATE_MS, quorum=quorum, early_close=early)
        model = Model(quorum, early=early)
        for step, gone in zip(steps, lost, strict=False):
            if step[0] == "pass":
                await served.pass_ms(step[1])
                model.pass_ms(step[1])
            elif step[0] == "restart":
                before = served.answers()
                await served.restart(crash=step[1])
                after = served.answers()
                assert [(a.sequence, a.event, a.label) for a in after] == [
                    (a.sequence, a.event, a.label) for a in before
                ]
            elif not gone:
                _, node, key, name, label = step
                theirs = served.aggregator.now() + skews_s[node]
                one = saw(NODES[node], key, label, name=name, observed_s=theirs - 0.001)
                reasons = await served.reasons([one], sent_s=theirs)
                assert reasons == [model.report(node, key, name, label)]
        await served.pass_ms(2 * DEADLINE_MS)
        model.pass_ms(2 * DEADLINE_MS)
        told = served.answers()
        assert sorted((a.event, a.cause, a.label, len(a.reported)) for a in told) == sorted(model.told)
        assert [a.sequence for a in told] == list(range(1, len(told) + 1))
        for key in model.events:
            mine = [a for a in told if a.event == key]
            assert [a.revision for a in mine] == list(range(1, len(mine) + 1))
            assert [(a.cause, a.label) for a in mine] == [
                (cause, label) for k, cause, label, _ in model.told if k == key
            ]
        await served.pass_ms(LATE_MS + 1)
        assert len(served.aggregator.window) == 0
        assert not served.store.observations()
        await served.aggregator.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(drive(Path(folder)))


WINDOW_MS = 80.0
TENTH = WINDOW_MS / 1e3 / 10


@given(
    st.tuples(*[st.floats(-4.0, 4.0)] * 3),
    st.lists(st.tuples(*[st.floats(-TENTH, TENTH)] * 3, *[st.floats(0.0, TENTH)] * 3), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=60)
def test_nodes_with_skewed_clocks_meet_by_time_and_place(
    skews_s: tuple[float, ...], happenings: list[tuple[float, ...]], random: Any, restarts: bool
) -> None:
    """What happens in one place within a window is one event, what happens two windows later another."""

    async def drive(folder: Path) -> None:
        served = Served(folder, window_ms=WINDOW_MS, deadline_ms=100.0, early_close=False)
        reports = []
        for number, jitters in enumerate(happenings):
            at = TODAY_S + 1.0 + 2 * WINDOW_MS / 1e3 * number
            for node in range(3):
                seen = at + jitters[node]
                came = seen + 2 * TENTH + jitters[3 + node]
                reports.append((came, random.random(), number, node, seen + skews_s[node], came + skews_s[node]))
        met: dict[int, set[str]] = {number: set() for number in range(len(happenings))}
        for count, (came, _, number, node, observed_s, sent_s) in enumerate(sorted(reports)):
            await served.pass_ms((came - served.aggregator.now()) * 1e3)
            if restarts and count == 2:
                await served.restart(crash=True)
            one = saw(NODES[node], "", zone="belt", observed_s=observed_s)
            (verdict,) = await served.aggregator.observe([one], sent_s=sent_s)
            assert not verdict.reason, verdict
            met[number].add(verdict.event)
        assert all(len(keys) == 1 for keys in met.values()), met
        assert len(set.union(*met.values())) == len(happenings)
        assert {answer.cause for answer in served.answers()} == {"complete"}
        await served.aggregator.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(drive(Path(folder)))
