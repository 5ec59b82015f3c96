"""Dawid and Skene's method against known crowds and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies.fusion import DawidSkene, crowd_em

Answers = NDArray[np.int64]


def simulated(
    events: int, accuracies: list[float], classes: int, seed: int
) -> tuple[Answers, NDArray[np.bool_], Answers, NDArray[np.float64]]:
    """Draw confusion matrices, labels and answers; a tenth of the answers is missing."""
    rng = np.random.default_rng(seed)
    confusion = rng.dirichlet(np.ones(classes), (len(accuracies), classes))
    confusion = (
        np.array(accuracies)[:, None, None] * np.eye(classes) + (1.0 - np.array(accuracies)[:, None, None]) * confusion
    )
    prior = rng.dirichlet(5.0 * np.ones(classes))
    truth = rng.choice(classes, events, p=prior)
    drawn = rng.random((events, len(accuracies), 1))
    answers = (confusion.cumsum(axis=2)[np.arange(len(accuracies)), truth[:, None]] < drawn).sum(axis=2)
    return answers.clip(0, classes - 1), rng.random(answers.shape) < 0.9, truth, confusion


def em_by_loops(
    answers: Answers, mask: NDArray[np.bool_], classes: int, smoothing: float, rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dawid and Skene's equations, written down again without arrays' help."""
    events, nodes = answers.shape
    belief = []
    for e in range(events):
        votes = [1e-9] * classes
        for n in range(nodes):
            if mask[e, n]:
                votes[answers[e, n]] += 1.0
        belief.append([v / sum(votes) for v in votes])
    for _ in range(rounds):
        size = [sum(belief[e][c] for e in range(events)) for c in range(classes)]
        prior = [(size[c] + smoothing / classes) / (events + smoothing) for c in range(classes)]
        confusion = [[[smoothing / classes] * classes for _ in range(classes)] for _ in range(nodes)]
        for e in range(events):
            for n in range(nodes):
                if mask[e, n]:
                    for c in range(classes):
                        confusion[n][c][answers[e, n]] += belief[e][c]
        confusion = [[[v / sum(row) for v in row] for row in matrix] for matrix in confusion]
        for e in range(events):
            joint = list(prior)
            for n in range(nodes):
                if mask[e, n]:
                    joint = [j * confusion[n][c][answers[e, n]] for c, j in enumerate(joint)]
            belief[e] = [j / sum(joint) for j in joint]
    return np.array(confusion), np.array(belief)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), nodes=st.integers(2, 5))
def test_em_agrees_with_an_independent_implementation(seed: int, classes: int, nodes: int) -> None:
    """Confusion matrices and posteriors are those of the equations written out in loops."""
    answers, mask, _, _ = simulated(60, [0.6] * nodes, classes, seed)
    crowd, posterior = crowd_em(answers, mask, classes, smoothing=0.1, rounds=8, tolerance=0.0)
    confusion, belief = em_by_loops(answers, mask, classes, 0.1, 8)
    np.testing.assert_allclose(crowd.confusion, confusion, atol=1e-7)
    np.testing.assert_allclose(posterior, belief, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_known_confusion_matrices_are_recovered(seed: int) -> None:
    """From the answers of 20,000 events alone every entry is found to 0.04."""
    answers, mask, truth, confusion = simulated(20_000, [0.8, 0.7, 0.6, 0.5, 0.3], 4, seed)
    crowd, posterior = crowd_em(answers, mask, 4)
    np.testing.assert_allclose(crowd.confusion, confusion, atol=0.04)
    votes = sum(np.eye(4)[answers[:, n]] * mask[:, n, None] for n in range(5))
    assert (posterior.argmax(axis=1) == truth).mean() > (np.asarray(votes).argmax(axis=1) == truth).mean()


def test_labels_where_known_are_kept_and_help() -> None:
    """A crowd that is mostly wrong about two classes is understood with a few labels, not without."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 3000)
    swap = np.array([1, 0, 2])
    answers = np.where(rng.random((3000, 3)) < 0.85, swap[truth][:, None], rng.integers(0, 3, (3000, 3)))
    mask = np.ones(answers.shape, bool)
    _, blind = crowd_em(answers, mask, 3)
    labels = np.where(rng.random(3000) < 0.1, truth, -1)
    _, told = crowd_em(answers, mask, 3, labels=labels)
    known = labels >= 0
    assert (told[known].argmax(axis=1) == labels[known]).all()
    assert (blind.argmax(axis=1) == truth).mean() < 0.5 < 0.9 < (told.argmax(axis=1) == truth).mean()


def test_online_it_follows_a_node_that_changes() -> None:
    """Batch by batch a node that becomes bad loses its say, and one that becomes good gains it."""
    before, mask, _, _ = simulated(3000, [0.9, 0.8, 0.7, 0.3], 4, 1)
    after, after_mask, truth, confusion = simulated(6000, [0.9, 0.2, 0.7, 0.8], 4, 2)
    rule = DawidSkene(memory=1000.0)
    rule.observe(np.eye(4)[before], mask)
    for start in range(0, 6000, 250):
        rule.observe(np.eye(4)[after[start : start + 250]], after_mask[start : start + 250])
    diagonal = rule.crowd.confusion.diagonal(axis1=1, axis2=2).mean(axis=1)
    np.testing.assert_allclose(diagonal, confusion.diagonal(axis1=1, axis2=2).mean(axis=1), atol=0.06)
    stale = DawidSkene().fit(np.eye(4)[before], np.full(3000, -1), mask)
    newest = slice(4000, None)
    new = np.eye(4)[after[newest]]
    right = [(r.fuse(new, after_mask[newest]).posterior.argmax(axis=1) == truth[newest]).mean() for r in (rule, stale)]
    assert right[0] > right[1]
