"""Fused events: closed as the tiers' aggregator closes them, fused by its rules, with the trust of their moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies.fusion import FusionRule, HealthChecked, MeanProbability, load_rule
from escalade.simulations.fleet import FleetResult, parse_scenario, simulate
from escalade.simulations.fleet.closing import CLOSE, LATE, LEARN, Rules, timeline
from escalade.simulations.fleet.fusing import Fusers
from escalade.simulations.fleet.result import Count, ViewCount
from escalade.simulations.fleet.rows import FAR, SEEN, Seen
from escalade.simulations.fleet.summary import summary, time_series
from escalade.tiers.aggregator.checks import Checks
from escalade.tiers.aggregator.config import AggregatorConfig
from escalade.tiers.aggregator.event import Event
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.aggregator.window import Changes, Window
from escalade.tiers.errors import ConfigError

VIEWS, SECOND = 3, 10**9
DEADLINE_MS, LATE_MS = 40.0, 300.0


class NeverSettled:
    """As with `early_close: false`."""

    def settled(self, events: Any) -> NDArray[np.bool_]:
        return np.zeros(len(events), np.bool_)


def by_the_window(reports: NDArray[np.int64], quorum: int) -> tuple[list[tuple[Any, ...]], int]:
    """Let the tiers' own window take the reports; return what it did, and how many it refused."""
    config = AggregatorConfig(
        nodes=[f"n{view}" for view in range(VIEWS)], quorum=quorum, deadline_ms=DEADLINE_MS, late_ms=LATE_MS
    )
    window = Window(config, 2, Checks(config, 2), NeverSettled())
    done: list[tuple[Any, ...]] = []
    refused = 0

    def noted(changes: Changes, at: int) -> None:
        def entry(kind: int, event: Event) -> tuple[Any, ...]:
            return at, kind, int(event.key), tuple(event.present.tolist())

        done.extend(entry(CLOSE, event) for event, _ in changes.closed)
        done.extend(entry(LATE, event) for event in changes.late)
        done.extend(entry(LEARN, event) for event in changes.learn)
        for event in changes.learn:
            event.learnt = True

    def tick(until: int) -> None:
        while (due := window.next_due_s()) is not None and round(due * 1e9) <= until:
            noted(window.tick(due), round(due * 1e9))

    for row in reports[np.lexsort((reports[:, Seen.VIEW], reports[:, Seen.EVENT], reports[:, Seen.AT]))]:
        at = int(row[Seen.AT])
        if at == FAR:
            continue
        tick(at)
        said = np.array([0.5, 0.5], np.float32)
        one = Observation(f"n{row[Seen.VIEW]}", str(row), str(row[Seen.EVENT]), "", row[Seen.T] / 1e9, said)
        changes = window.observe([one], "", None, at / 1e9)
        refused += changes.verdicts[0].reason == "expired"
        noted(changes, at)
    tick(10**15)
    return done, refused


@st.composite
def gathered(draw: st.DrawFn) -> NDArray[np.int64]:
    """Draw reports of a few events whose views come at once, late, or never."""
    rows = []
    for event in range(draw(st.integers(1, 4))):
        t = event * draw(st.sampled_from([0, 20]))
        for view in range(VIEWS):
            after = draw(st.sampled_from([0, 1, 5, 30, 40, 41, 200, 340, 341, 400, None]))
            rows.append([0, event, view, 0, t * 10**6, FAR if after is None else (t + after) * 10**6])
    return np.array(rows, np.int64)


@given(gathered(), st.integers(1, VIEWS), st.sampled_from([7, 50, 10**6]))
def test_events_close_as_in_the_tiers(reports: NDArray[np.int64], quorum: int, window_ms: int) -> None:
    """Answered, corrected and learnt from at the same times with the same reports; and as many come too late."""
    rules = Rules(VIEWS, quorum, round(DEADLINE_MS * 1e6), round(LATE_MS * 1e6))
    pool, found, expired, lost = np.empty((0, SEEN), np.int64), list[tuple[Any, ...]](), 0, 0
    t0, coming = 0, reports
    while t0 < 3 * SECOND:
        t1 = t0 + window_ms * 10**6
        now = (coming[:, Seen.AT] < t1) | (coming[:, Seen.AT] == FAR)
        pool, coming = np.concatenate([pool, coming[now]]), coming[~now]
        if len(pool):
            line = timeline(pool, rules, t0, t1)
            event = line.reports[line.first[line.steps.event], Seen.EVENT]
            whats = zip(line.steps.when, line.steps.kind, event, line.steps.mask, strict=True)
            found += [(int(when), int(kind), int(what), tuple(mask.tolist())) for when, kind, what, mask in whats]
            at = line.reports[:, Seen.AT]
            expired += int((line.expired & (t0 <= at) & (at < t1)).sum())
            lost += int(line.lost.sum())
            pool = line.reports[~line.over[line.event]]
        t0 = t1
    assert not len(pool)
    expected, refused = by_the_window(reports, quorum)
    assert sorted(found) == sorted(expected)
    assert expired == refused
    assert lost == len(set(reports[:, Seen.EVENT])) - sum(kind == CLOSE for _, kind, _, _ in found)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "MeanProbability", "health": False},
        {"name": "MeanProbability"},
        {"name": "MajorityVote", "health": {"alarm": 0.5}},  # trust that changes all the time
        {"name": "ReliabilityWeighted"},
    ],
)
def test_many_at_once_are_fused_as_one_after_the_other(spec: dict[str, Any]) -> None:
    """Each with what its group's rule had learnt by then; where health is checked a node is distrusted meanwhile."""
    rng = np.random.default_rng(3)
    steps, nodes, classes = 700, 4, 3
    truth = rng.integers(0, classes, steps)
    p = np.eye(classes, dtype=np.float32)[np.where(rng.random((steps, nodes)) < 0.8, truth[:, None], 0)] * 0.6
    p[200:450, 1] = p[200:450, 1][rng.permutation(250)]
    p = (p + 0.4 / classes).astype(np.float32)
    mask = rng.random((steps, nodes)) < 0.9
    learns, group = rng.random(steps) < 0.6, np.sort(rng.integers(0, 2, steps))

    fusers, rules = Fusers(load_rule(spec)), dict[int, FusionRule]()  # type: ignore[arg-type]
    cuts = sorted(rng.integers(0, steps, 9).tolist())
    found = np.concatenate(
        [fusers.labels(*part) for part in zip(*(np.split(a, cuts) for a in (group, learns, p, mask)), strict=True)]
    )
    expected, distrusted = [], False
    for g, learn, one, here in zip(group.tolist(), learns.tolist(), p, mask, strict=True):
        rule = rules.setdefault(g, load_rule(spec))  # type: ignore[arg-type]
        if learn:
            rule.observe(one[None], here[None], np.array([-1]))
            expected.append(-1)
            distrusted |= isinstance(rule, HealthChecked) and not rule.health.weights.all()
        else:
            fused = rule.fuse(one[None], here[None])
            expected.append(int(fused.posterior[0].argmax()) if fused.used.any() else -1)
    assert found.tolist() == expected
    assert distrusted == (spec.get("health") is not False)


def line(**events: Any) -> FleetResult:
    """Simulate four cameras that look at parts; from second 60 on, unless told otherwise, one is stuck."""
    scenario = {
        "duration_s": 120,
        "endpoints": [{"name": "a", "count": 4, "arrivals": {"kind": "poisson", "rate_hz": 1}}],
        "edge_nodes": {"count": 4, "service": {"kind": "constant", "ms": 3}, "workers": 2},
        "control": {"interval_s": 60},
        "events": {"rate_hz": 20, "views": 4, "faults": [{"kind": "stuck", "at_s": 60}]} | events,
    }
    return simulate(parse_scenario(scenario), backend="serial")


def test_health_weighting_is_seen_to_pay() -> None:
    """A stuck camera ruins a rule that believes the surest, and hardly touches it behind a health check."""
    plain = time_series(line(rule={"name": "MaxConfidence", "health": False}))["fused_accuracy"]
    checked = time_series(line(rule={"name": "MaxConfidence"}))
    assert plain[0] > 0.8
    assert plain[1] < 0.2
    assert checked["fused_accuracy"][1] > 0.75
    assert checked["view_accuracy"][1] < 0.7  # a quarter of the views is chance


def test_what_is_said_of_events_adds_up() -> None:
    """Every event ends one way; single views are as right as the scenario says, the fused answer more."""
    result = line(faults=[{"kind": "dead", "view": 2, "at_s": 90}], accuracy=[0.7, 0.75, 0.8, 0.85])
    found = summary(result)["events"]
    assert found["count"] == pytest.approx(2400, rel=0.1)
    assert sum(found["share"].values()) == pytest.approx(1.0)
    assert found["share"]["deadline"] == pytest.approx(0.25, abs=0.03)
    assert found["accuracy"] > max(found["view_accuracy"]) == pytest.approx(0.85, abs=0.03)
    assert found["view_accuracy"] == pytest.approx([0.7, 0.75, 0.8, 0.85], abs=0.03)
    assert found["latency_ms"]["p50"] == pytest.approx(18.0, rel=0.02)  # 3 ms at the node, 15 on the way
    assert found["latency_ms"]["p99"] == pytest.approx(218.0, rel=0.02)
    came = result.stats.by_view[:4, ViewCount.CAME]
    assert came[2] < came[0] == found["count"]
    assert found["bytes"] == 64 * came.sum()
    assert found["unhealthy"] == {"silent": 1}
    assert result.stats.count[Count.BYTES_1] > found["bytes"]


def test_a_table_says_what_its_views_say(tmp_path: Any) -> None:
    """Logits of `escalade fusion`'s form; views of another number, or labels that are none, are one line."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 400)
    z = 4.0 * np.eye(5)[y] + rng.normal(size=(2, 400, 5))
    np.savez(tmp_path / "views.npz", z_test=z, y_test=y)
    scenario = parse_scenario(
        {
            "duration_s": 30,
            "endpoints": [{"name": "a", "count": 1, "arrivals": {"kind": "poisson", "rate_hz": 1}}],
            "edge_nodes": {"count": 2},
            "events": {"rate_hz": 40, "views": 2, "table": "views.npz"},
        },
        folder=tmp_path,
    )
    found = summary(simulate(scenario, backend="serial"))["events"]
    assert found["view_accuracy"] == pytest.approx((z.argmax(axis=2) == y).mean(axis=1).tolist(), abs=0.03)
    fused = MeanProbability().fuse(np.stack([np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in z], axis=1))
    assert found["accuracy"] == pytest.approx((fused.posterior.argmax(axis=1) == y).mean(), abs=0.03)
    for arrays, words in (
        ({"z_test": z}, "needs z_test and y_test, has z_test"),
        ({"z_test": z[:1], "y_test": y}, "z_test has 1 views, the scenario 2"),
        ({"z_test": z, "y_test": y + 1}, "y_test must be in 0 to 4"),
        ({"z_test": z, "y_test": y[:9]}, "y_test must be 400 whole numbers"),
        ({"z_test": z * np.nan, "y_test": y}, "z_test must be finite logits"),
    ):
        np.savez(tmp_path / "views.npz", **arrays)
        with pytest.raises(ConfigError, match=words):
            simulate(scenario, backend="serial")
    (tmp_path / "views.npz").write_text("hello")
    with pytest.raises(ConfigError, match=r"events.table: .*views.npz: is no .npz file of arrays"):
        simulate(scenario, backend="serial")


def test_a_rule_that_raises_ends_the_run_with_when_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a policy that does; requests and events until then are kept."""
    data = line().scenario.model_dump(mode="json") | {"engine": {"window_s": 10}}
    calls = iter(range(100))

    def fuse(rule: MeanProbability, *arguments: Any) -> Any:
        if next(calls) > 1:
            raise ZeroDivisionError("no lens")
        return real(rule, *arguments)

    real = MeanProbability.fuse
    monkeypatch.setattr(MeanProbability, "fuse", fuse)
    result = simulate(parse_scenario(data), backend="serial")
    assert result.failure is not None
    assert "no lens" in str(result.failure)
    assert 0 < result.stats.count[Count.EVENTS] < 1000
