"""DDNN's aggregators and the head behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.policies.errors import NotFittedError
from escalade.policies.fusion import FeatureFusion, FusionInputError, aggregate, fit_head
from escalade.policies.fusion.impute import Imputer
from escalade.policies.fusion.minimise import minimise


def labelled(events: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, events)
    return np.eye(3)[labels][:, None] + rng.normal(scale=0.6, size=(events, 4, 3)), labels


@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 5))
def test_max_and_average_do_not_depend_on_silent_nodes_or_order(seed: int, nodes: int) -> None:
    """They are those of the reporting nodes' vectors, in any order, whatever silent ones hold."""
    rng = np.random.default_rng(seed)
    x, mask = rng.normal(size=(4, nodes, 3)), rng.random((4, nodes)) < 0.6
    order = rng.permutation(nodes)
    for how, plain in (("max", np.max), ("average", np.mean)):
        found = aggregate(np.where(mask[:, :, None], x, np.nan), mask, how)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, aggregate(x[:, order], mask[:, order], how))  # type: ignore[arg-type]
        for event in range(4):
            there = x[event, mask[event]]
            expected = plain(there, axis=0) if len(there) else np.zeros(3)
            np.testing.assert_allclose(found[event], expected)


@pytest.mark.parametrize("how", ["max", "average", "concat"])
def test_each_aggregator_learns_and_survives_a_silent_node(how: Any) -> None:
    """Four weak views fused are right more often than three, three more often than chance."""
    fusion = FeatureFusion(how, impute=how == "concat").fit(*labelled(2000, 1))
    x, labels = labelled(2000, 2)
    silent = np.ones((2000, 4), bool)
    silent[:, 2] = False
    right = [(fusion.fuse(x, mask).posterior.argmax(axis=1) == labels).mean() for mask in (None, silent)]
    assert right[0] > 0.85
    assert right[0] > right[1] > 0.75
    again = FeatureFusion(how, impute=how == "concat")
    again.load_state_dict(fusion.state_dict())
    np.testing.assert_array_equal(again.fuse(x, silent).posterior, fusion.fuse(x, silent).posterior)


def test_events_without_any_device_have_no_answer() -> None:
    """Uniform posterior, score -inf, nobody used."""
    fusion = FeatureFusion("max").fit(*labelled(300, 1))
    fused = fusion.fuse(labelled(2, 2)[0], np.zeros((2, 4), bool))
    assert fused.posterior.tolist() == pytest.approx(np.full((2, 3), 1 / 3))
    assert (fused.score == -np.inf).all()
    assert not fused.used.any()


def test_features_that_cannot_be_fused_are_refused() -> None:
    """Values, parameters and states that do not fit are named."""
    with pytest.raises(NotFittedError, match="no head"):
        FeatureFusion("max").fuse([[[1.0]]])
    with pytest.raises(FusionInputError, match="event 0, node 1: the features are not all finite"):
        FeatureFusion("max").fit([[[1.0], [float("inf")]]], [0])
    with pytest.raises(ValueError, match="how must be"):
        FeatureFusion("median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 'concat'"):
        FeatureFusion("max", impute=True)
    with pytest.raises(ValueError, match="keeps weight and bias"):
        FeatureFusion("max").load_state_dict({"weight": [[1.0]]})


@given(seed=st.integers(0, 1000))
def test_the_head_is_at_the_minimum(seed: int) -> None:
    """No small change of a fitted head makes the penalised likelihood better: the slope vanishes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 2))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    labels = rng.integers(0, 3, 80)
    head = fit_head(x, labels, 3, l2=0.01)
    gap = (head(x) - np.eye(3)[labels]) / 80
    np.testing.assert_allclose(x.T @ gap + 0.01 * head.weight, 0.0, atol=2e-3)
    np.testing.assert_allclose(gap.sum(axis=0), 0.0, atol=2e-3)


def test_a_class_without_labels_is_improbable_not_an_error() -> None:
    """A head for three classes fitted to two gives the third next to nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    head = fit_head(np.eye(2)[labels] + 0.1 * rng.normal(size=(200, 2)), labels, 3)
    assert head(np.eye(2)).argmax(axis=1).tolist() == [0, 1]
    assert head(np.eye(2))[:, 2].max() < 0.01


def test_the_minimiser_finds_a_curved_valley() -> None:
    """Rosenbrock's function is minimised from its usual start."""

    def rosenbrock(at: Any) -> tuple[float, Any]:
        x, y = at
        slope = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2, slope

    np.testing.assert_allclose(minimise(rosenbrock, np.array([-1.2, 1.0])), [1.0, 1.0], atol=1e-3)


def test_imputing_is_the_best_linear_guess() -> None:
    """Filled in values are those of least squares on the same data; with nobody there, the mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3, 2)) @ rng.normal(size=(2, 2)) + rng.normal(size=(500, 1, 2))
    imputer = Imputer.of(x)
    mask = np.ones((500, 3), bool)
    mask[:, 1] = False
    known = np.hstack([x[:, 0], x[:, 2], np.ones((500, 1))])
    slopes = np.linalg.lstsq(known, x[:, 1], rcond=None)[0]
    np.testing.assert_allclose(imputer(x, mask)[:, 1], known @ slopes, atol=0.1)
    np.testing.assert_array_equal(imputer(x, mask)[:, [0, 2]], x[:, [0, 2]])
    np.testing.assert_allclose(imputer(x[:1], np.zeros((1, 3), bool))[0], x.mean(axis=0))
