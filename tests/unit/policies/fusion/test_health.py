"""Broken nodes are distrusted, named and taken back within the events that `NodeHealth` states."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies.fusion import (
    FusionInputError,
    HealthChecked,
    HealthLimits,
    MaxConfidence,
    MeanProbability,
    NodeHealth,
    ReliabilityWeighted,
    default_rule,
)
from escalade.policies.fusion.faults import drifting, miswired, noisy, stuck

MakeViews = Callable[..., tuple[NDArray[np.float32], NDArray[np.int64]]]
Break = Callable[[NDArray[np.float64]], NDArray[np.float64]]

BROKEN: dict[str, tuple[Break, str, int]] = {
    "stuck": (lambda z: stuck(z, 2), "stuck", 60),
    "noisy": (lambda z: noisy(z, 7), "noisy", 60),
    "all labels permuted": (lambda z: miswired(z, np.array([1, 2, 3, 4, 5, 0])), "mis-wired", 60),
    "two labels swapped": (lambda z: miswired(z, np.array([0, 4, 2, 3, 1, 5])), "mis-wired", 200),
    "drifting": (lambda z: drifting(z, 600, 7), "drifting", 600),
}
START, END = 300, 1000


def broken(p: NDArray[np.float32], node: int, fault: Break, end: int = END) -> NDArray[np.float32]:
    """Return the posteriors with one node broken from `START` to `end`."""
    result = p.copy()
    z = fault(np.log(p[START:end, node].astype(np.float64) + 1e-9))
    z = np.exp(z - z.max(axis=1, keepdims=True))
    result[START:end, node] = z / z.sum(axis=1, keepdims=True)
    return result


CASES = [(kind, node, True) for kind in BROKEN for node in range(4)]
# Without a fit a node that is right in half of all cases is no measure, and slow drift is found late.
CASES += [(kind, node, False) for kind in BROKEN if kind != "drifting" for node in range(3)]


@pytest.mark.parametrize(("kind", "node", "fitted"), CASES)
def test_a_broken_node_is_found_named_and_taken_back(kind: str, node: int, fitted: bool, views: MakeViews) -> None:
    """Within the stated number of events it is distrusted, with its reason; after the repair, trusted again."""
    fault, reason, within = BROKEN[kind]
    p = broken(views(END + 300, 5)[0], node, fault)
    health = NodeHealth()
    if fitted:
        health.fit(*views(2000, 1))
    trusted = health.observe(p[:END])
    assert trusted[:START, node].all()
    assert not trusted[START + within :, node].any()
    report = health.report()[node]
    assert report.reason == reason, report
    assert START <= report.since_event < START + within
    assert report.weight == 0.0
    after = health.observe(p[END:])
    assert after[200:, node].all()
    assert health.report()[node].reason == ""
    others = np.delete(np.concatenate([trusted, after]), node, axis=1)
    assert others.all(), "a healthy node was distrusted"


def test_healthy_nodes_stay_trusted(views: MakeViews) -> None:
    """In 20,000 events of healthy nodes no alarm is raised, whether they were measured with labels or without."""
    p, labels = views(2000, 1)
    new, _ = views(20_000, 2)
    assert NodeHealth().fit(p, labels).observe(new).all()
    assert NodeHealth().fit(p).observe(new).all()


def test_a_world_that_stays_the_same_is_no_fault(views: MakeViews) -> None:
    """When every event is of one class for hours, nodes that say so are not taken for stuck."""
    p, labels = views(40_000, 3)
    same = p[labels == 2]
    assert len(same) > 5000
    assert NodeHealth().fit(*views(2000, 1)).observe(same).all()


def test_a_silent_node_is_reported_and_forgiven_at_once(views: MakeViews) -> None:
    """After `silent_after` events of others it is silent, until it reports again."""
    p, _ = views(200, 3)
    mask = np.ones(p.shape[:2], bool)
    mask[100:, 1] = False
    health = NodeHealth(HealthLimits(silent_after=40))
    health.observe(p[:139], mask[:139])
    assert [report.reason for report in health.report()] == [""] * 4
    health.observe(p[139:190], mask[139:190])
    report = health.report()[1]
    assert (report.reason, report.since_event, report.detail) == ("silent", 139, "missed the last 90 events")
    health.observe(p[190:])
    assert [report.reason for report in health.report()] == [""] * 4


def test_a_second_node_may_break_after_the_first(views: MakeViews) -> None:
    """Of five nodes two break one after another, and the three others are trusted throughout."""
    strengths = (4.0, 4.0, 3.5, 3.5, 3.0)
    p, _ = views(1000, 4, strengths=strengths)
    p = broken(broken(p, 0, lambda z: stuck(z, 1)), 4, lambda z: noisy(z, 3))
    p[START : START + 200, 4] = views(1000, 4, strengths=strengths)[0][START : START + 200, 4]
    health = NodeHealth().fit(*views(2000, 1, strengths=strengths))
    trusted = health.observe(p)
    assert [report.reason for report in health.report()] == ["stuck", "", "", "", "noisy"]
    assert trusted[:, 1:4].all()


def test_two_nodes_alone_are_not_judged(views: MakeViews) -> None:
    """Of two that disagree nobody knows which is broken."""
    p = broken(views(END, 5)[0], 0, lambda z: stuck(z, 2))[:, :2]
    assert NodeHealth().observe(p).all()


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 600), max_size=6), seed=st.integers(0, 1000))
def test_the_cut_into_batches_does_not_show(cuts: list[int], seed: int) -> None:
    """However events are cut into batches, trust and reports are the same; also across a saved state."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (600, 1))
    answers = np.where(rng.random((600, 4)) < 0.85, truth, rng.integers(0, 4, (600, 4)))
    answers[200:400, seed % 4] = rng.integers(0, 4, 200)
    p, mask = np.eye(4)[answers], rng.random((600, 4)) < 0.9
    whole, parts = NodeHealth(), NodeHealth()
    expected = whole.observe(p, mask)
    bounds = [0, *sorted(cuts), 600]
    found = []
    for low, high in pairwise(bounds):
        restored = NodeHealth()
        restored.load_state_dict(parts.state_dict())
        found.append(restored.observe(p[low:high], mask[low:high]))
        parts = restored
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert parts.report() == whole.report()


def test_a_step_is_the_loop_of_fuse_and_observe(views: MakeViews) -> None:
    """`step` on a batch answers as fusing and observing one event after the other does."""
    p = broken(views(400, 5)[0], 0, lambda z: stuck(z, 2), end=400)
    batch, loop = HealthChecked(MaxConfidence()), HealthChecked(MaxConfidence())
    fused = batch.step(p)
    for event in range(400):
        one = loop.fuse(p[event : event + 1])
        loop.observe(p[event : event + 1])
        np.testing.assert_array_equal(one.used[0], fused.used[event])
        np.testing.assert_allclose(one.posterior[0], fused.posterior[event], atol=1e-6)


@pytest.mark.parametrize("kind", ["stuck", "noisy"])
def test_the_default_rule_survives_a_broken_node(kind: str, views: MakeViews) -> None:
    """With any one node broken it loses little, where the rule without its check loses a lot."""
    p, labels = views(END, 5)
    rule = default_rule().fit(*views(3000, 1))
    state = rule.state_dict()
    healthy = (rule.step(p).posterior.argmax(axis=1) == labels).mean()
    for node in range(4):
        rule.load_state_dict(state)
        fused = rule.step(broken(p, node, BROKEN[kind][0]))
        assert (fused.posterior.argmax(axis=1) == labels).mean() > healthy - 0.06
        assert not fused.used[START + 60 :, node].any()


def test_an_event_that_only_distrusted_nodes_saw_has_no_answer(views: MakeViews) -> None:
    """Such an event is uniform with score -inf: it escalates."""
    p = broken(views(END, 5)[0], 0, lambda z: stuck(z, 2))
    rule = HealthChecked(MeanProbability())
    rule.step(p)
    only = np.array([[True, False, False, False]])
    fused = rule.fuse(p[:1], only)
    assert fused.score[0] == -np.inf
    assert not fused.used.any()


def test_the_rule_behind_the_check_learns_from_trusted_nodes_only(views: MakeViews) -> None:
    """What a distrusted node says does not lower or raise its reliability."""
    p = broken(views(END, 5)[0], 1, lambda z: noisy(z, 3))
    rule = HealthChecked(ReliabilityWeighted())
    rule.observe(p)
    assert rule.rule.state_dict()["counts"][1].sum() < rule.rule.state_dict()["counts"][0].sum()


def test_nodes_and_classes_may_not_change(views: MakeViews) -> None:
    """A watch over four nodes refuses three, and a state that is not its own."""
    health = NodeHealth()
    health.observe(views(5, 1)[0])
    with pytest.raises(FusionInputError, match=r"watching 4 nodes of 6 classes, got \[3, 6\]"):
        health.observe(views(5, 1)[0][:, :3])
    with pytest.raises(ValueError, match="NodeHealth keeps"):
        health.load_state_dict({"x": 1})
    with pytest.raises(FusionInputError, match="no events"):
        health.fit(np.empty((0, 2, 2)))


def test_limits_are_checked() -> None:
    """An alarm of nothing, or an unknown limit, is refused."""
    with pytest.raises(ValueError, match="greater than 0"):
        HealthLimits(alarm=0.0)
    with pytest.raises(ValueError, match="not permitted"):
        HealthLimits.model_validate({"alarms": 3})
