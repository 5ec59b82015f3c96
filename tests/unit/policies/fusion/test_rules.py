"""What the fusion rules answer, one by one and together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies.errors import NotFittedError
from escalade.policies.fusion import (
    DawidSkene,
    FusionInputError,
    FusionRule,
    HealthChecked,
    LogOpinionPool,
    MajorityVote,
    MaxConfidence,
    MeanProbability,
    ReliabilityWeighted,
    Stacking,
    check_fusion,
    default_rule,
)

MakeViews = Callable[..., tuple[NDArray[np.float32], NDArray[np.int64]]]

CLOSED_FORM: list[Callable[[], FusionRule]] = [
    MeanProbability,
    LogOpinionPool,
    MajorityVote,
    MaxConfidence,
    ReliabilityWeighted,
    lambda: HealthChecked(MeanProbability()),
]
FITTED: list[Callable[[], FusionRule]] = [LogOpinionPool, ReliabilityWeighted, DawidSkene, Stacking, default_rule]


@pytest.mark.parametrize("make", CLOSED_FORM)
def test_rules_keep_the_promises_of_the_interface(make: Callable[[], FusionRule]) -> None:
    """Every rule passes `check_fusion` as it is made, with few and many nodes and classes."""
    check_fusion(make())
    check_fusion(make(), nodes=2, classes=2, seed=1)
    check_fusion(make(), nodes=9, classes=30, seed=2)


@pytest.mark.parametrize("make", FITTED)
def test_fitted_rules_keep_the_promises_of_the_interface(make: Callable[[], FusionRule], views: MakeViews) -> None:
    """Every rule passes `check_fusion` once it is fitted."""
    rule = make().fit(*views(800, 1))
    check_fusion(rule, nodes=4, classes=6)
    twin = make()
    twin.load_state_dict(rule.state_dict())
    p, _ = views(50, 2)
    np.testing.assert_array_equal(twin.fuse(p).posterior, rule.fuse(p).posterior)


@pytest.mark.parametrize("make", FITTED)
def test_fitting_beats_the_best_node(make: Callable[[], FusionRule], views: MakeViews) -> None:
    """On new events of healthy nodes every fitted rule is right more often than any node alone."""
    rule = make().fit(*views(3000, 1))
    p, labels = views(3000, 2)
    best = (p.argmax(axis=2) == labels[:, None]).mean(axis=0).max()
    assert (rule.fuse(p).posterior.argmax(axis=1) == labels).mean() > best


@given(data=st.data())
def test_the_mean_is_the_mean(data: st.DataObject) -> None:
    """`MeanProbability` agrees with the sum written out, whatever mask and weights."""
    nodes, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    p = rng.dirichlet(np.ones(classes), (3, nodes))
    mask = rng.random((3, nodes)) < 0.7
    weights = rng.uniform(0.1, 3.0, nodes)
    fused = MeanProbability().fuse(p, mask, weights)
    for event in range(3):
        there = np.flatnonzero(mask[event])
        if not len(there):
            expected, score = np.full(classes, 1.0 / classes), -np.inf
        else:
            expected = sum(weights[n] * p[event, n] for n in there) / weights[there].sum()
            score = expected.max()
        np.testing.assert_allclose(fused.posterior[event], expected, atol=1e-6)
        assert fused.score[event] == pytest.approx(score, abs=1e-6)
        pairs = [(a, b) for a in there for b in there if a != b]
        conflict = np.mean([((p[event, a] - p[event, b]) ** 2).sum() / 2 for a, b in pairs]) if pairs else 0.0
        assert fused.conflict[event] == pytest.approx(conflict, abs=1e-5)


@given(seed=st.integers(0, 10_000), events=st.integers(0, 5000))
def test_the_cut_into_chunks_does_not_show(seed: int, events: int) -> None:
    """A long batch is answered as its parts are."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(3), (events, 2)).astype(np.float32)
    mask = rng.random((events, 2)) < 0.5
    whole = LogOpinionPool().fuse(p, mask)
    half = events // 2
    parts = [LogOpinionPool().fuse(p[part], mask[part]) for part in (slice(half), slice(half, None))]
    np.testing.assert_allclose(np.concatenate([part.posterior for part in parts]), whole.posterior, atol=1e-6)


def test_an_equal_vote_goes_to_what_nodes_find_more_probable() -> None:
    """Two against two is decided by the posteriors, not by the order of classes or nodes."""
    p = np.array([[[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]]])
    assert MajorityVote().fuse(p).posterior.argmax() == 1
    assert MajorityVote().fuse(p[:, ::-1]).posterior.argmax() == 1


def test_one_node_can_veto_the_product_but_not_the_mean() -> None:
    """What tells the pools apart: one certain and wrong node of three."""
    p = np.array([[[0.9, 0.1], [0.9, 0.1], [0.0, 1.0]]])
    assert MeanProbability().fuse(p).posterior.argmax() == 0
    assert LogOpinionPool().fuse(p).posterior.argmax() == 1


def test_the_pool_takes_overconfidence_out() -> None:
    """A node whose logits are three times too large gets a third of the power of an honest twin."""
    rng = np.random.default_rng(0)
    true = rng.normal(scale=1.5, size=(4000, 5))
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    p = np.exp(np.stack([true, 3.0 * true], axis=1))
    power = LogOpinionPool().fit(p / p.sum(axis=2, keepdims=True), labels).state_dict()["power"]
    assert power[0] / power[1] == pytest.approx(3.0, rel=0.15)
    assert power[0] + 3.0 * power[1] == pytest.approx(1.0, rel=0.1)


def test_reliability_is_learnt_from_agreement_and_from_labels(views: MakeViews) -> None:
    """A bad node loses weight without labels; with labels even a good node among bad ones is found."""
    p, labels = views(600, 1, strengths=(4.0, 4.0, 4.0, 0.3))
    unlabelled = ReliabilityWeighted()
    unlabelled.observe(p)
    assert unlabelled.accuracy.argmin() == 3
    assert unlabelled.accuracy[3] < 0.5 < unlabelled.accuracy[:3].min()
    lonely, labels = views(600, 2, strengths=(0.2, 0.2, 0.2, 5.0))
    labelled = ReliabilityWeighted()
    labelled.observe(lonely, None, labels)
    assert labelled.accuracy.argmax() == 3
    fused = labelled.fuse(lonely).posterior.argmax(axis=1)
    assert (fused == labels).mean() > (MeanProbability().fuse(lonely).posterior.argmax(axis=1) == labels).mean()


def test_stacking_without_a_node_is_nearly_as_good_as_never_having_had_it(views: MakeViews) -> None:
    """Imputing costs at most a point and a half against a head fitted to the remaining nodes."""
    p, labels = views(4000, 1)
    new, truth = views(4000, 2)
    rule = Stacking().fit(p, labels)
    for node in range(4):
        weights = np.ones(4)
        weights[node] = 0.0
        others = np.flatnonzero(weights)
        imputed = (rule.fuse(new, None, weights).posterior.argmax(axis=1) == truth).mean()
        fitted = Stacking().fit(p[:, others], labels).fuse(new[:, others])
        assert imputed > (fitted.posterior.argmax(axis=1) == truth).mean() - 0.015


@pytest.mark.parametrize("rule", [Stacking(), DawidSkene(), default_rule()])
def test_a_rule_without_its_fit_says_so(rule: FusionRule) -> None:
    """Fusing before fitting is an error of its own."""
    with pytest.raises(NotFittedError, match="call fit"):
        rule.fuse([[[0.5, 0.5]] * 3])


def test_a_head_of_other_nodes_is_refused(views: MakeViews) -> None:
    """Stacking fitted to four nodes of six classes does not guess about three."""
    rule = Stacking().fit(*views(300, 1))
    with pytest.raises(FusionInputError, match=r"fitted to 4 nodes of 6 classes, got \[3, 6\]"):
        rule.fuse(views(10, 2)[0][:, :3])


nan = float("nan")


@pytest.mark.parametrize(
    ("posteriors", "mask", "weights", "message"),
    [
        ([[[0.5, 0.5], [0.5, 0.5, 0.0]]], None, None, "every node must report equally many numbers"),
        ([[0.5, 0.5]], None, None, r"must be \[events, nodes, classes\], got shape \[1, 2\]"),
        (np.empty((3, 0, 2)), None, None, r"got shape \[3, 0, 2\]"),
        ([[[0.5, 0.5], [0.5, 0.2]]], None, None, "event 0, node 1: the posterior sums to 0.7, not 1"),
        ([[[0.5, 0.5], [1.5, -0.5]]], None, None, "event 0, node 1: the posterior holds -0.5, which is below 0"),
        ([[[nan, 0.5]]], None, None, "event 0, node 0: the posterior is not all finite"),
        ([[[0.5, 0.5]]], [[1]], None, r"mask must be bool \[1, 1\], got int64 of shape \[1, 1\]"),
        ([[[0.5, 0.5]]], [[True, True]], None, r"mask must be bool \[1, 1\]"),
        ([[[0.5, 0.5]]], None, [1, 1], r"weights must be 1 finite numbers, 0 or more, got \[1, 1\]"),
        ([[[0.5, 0.5]]], None, [-1], "weights must be 1 finite numbers"),
    ],
)
def test_input_that_cannot_be_fused_is_refused(posteriors: Any, mask: Any, weights: Any, message: str) -> None:
    """Shapes, sums, masks and weights that do not fit are named, with event and node."""
    with pytest.raises(FusionInputError, match=message):
        MeanProbability().fuse(posteriors, mask, weights)


def test_a_bad_observation_of_a_masked_node_hurts_nobody() -> None:
    """The same posterior is refused where it counts and ignored where it does not."""
    p = [[[0.75, 0.25], [5.0, -3.0]]]
    assert MeanProbability().fuse(p, [[True, False]]).posterior.tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize("labels", [[0, 6], [-1, 0], [0.0, 1.0], [0]])
def test_labels_that_are_no_classes_are_refused(labels: Any, views: MakeViews) -> None:
    """Fitting names a label out of range, of the wrong type or number."""
    with pytest.raises(FusionInputError, match="label"):
        Stacking().fit(views(2, 1)[0], labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReliabilityWeighted(memory=0.0), "memory must be at least 1 event, got 0.0"),
        (lambda: ReliabilityWeighted(agreement=2.0), "agreement must be 0 to 1, got 2.0"),
        (lambda: DawidSkene(memory=nan), "memory must be at least 1 event, got nan"),
        (lambda: DawidSkene(smoothing=0.0), "smoothing must be positive, got 0.0"),
        (lambda: Stacking(l2=-1.0), "l2 must be 0 or more, got -1.0"),
        (lambda: MeanProbability().load_state_dict({"x": 1}), r"MeanProbability keeps no state, got \['x'\]"),
        (lambda: LogOpinionPool().load_state_dict({"x": 1}), "keeps 'power'"),
        (lambda: ReliabilityWeighted().load_state_dict({"x": 1}), "keeps 'counts'"),
        (lambda: DawidSkene().load_state_dict({"x": 1}), "keeps 'counts' and 'frequency'"),
        (lambda: Stacking().load_state_dict({"x": 1}), "keeps weight, bias, mean and covariance"),
        (lambda: default_rule().load_state_dict({"x": 1}), "keeps 'rule' and 'health'"),
    ],
)
def test_parameters_and_states_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    """A senseless parameter or another rule's state is a ValueError that says what was expected."""
    with pytest.raises(ValueError, match=message):
        make()
