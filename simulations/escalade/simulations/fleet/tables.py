"""What the tiers' models say, as arrays: `ScoreTable`, from a trace file, from scikit-learn's digits or made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import PolicyConfigError, Trace, TraceError, load_score, softmax
from escalade.simulations.trace_file import load_trace
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.simulations.fleet.scenario import Scenario, Scores

LEVELS = 3
_SEED = 20_240_607


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """One tier's answers to every sample; a rollout's new model stands below the old one, sample by sample.

    Attributes
    ----------
    score
        float32 ``[versions * N]``.
    right
        uint8, whether the answer is right.
    label, truth
        int64: the class answered, and the true one.
    posterior
        float32 ``[versions * N, C]``.
    samples
        ``N``.
    """

    score: NDArray[np.float32]
    right: NDArray[np.uint8]
    label: NDArray[np.int64]
    truth: NDArray[np.int64]
    posterior: NDArray[np.float32]
    samples: int


def score_tables(scenario: Scenario) -> tuple[ScoreTable, ...]:
    """Return the table of each tier, lowest first.

    Raises
    ------
    ConfigError
        If a table cannot be read, has not three tiers, or a rollout's has other classes or another size.
    """
    base = _columns(scenario.scores, scenario.folder, "scores")
    tables = []
    for level, name in enumerate(("endpoint", "edge_node", "edge_server")):
        parts = [base[level]]
        for number, rollout in enumerate(scenario.rollouts):
            if rollout.tier != name:
                continue
            key = f"rollouts.{number}.scores"
            new = _columns(rollout.scores, scenario.folder, key)[level]
            if new.posterior.shape != parts[0].posterior.shape or (new.truth != parts[0].truth).any():
                raise ConfigError(
                    f"has {len(new.truth)} samples of {new.posterior.shape[1]} classes, the table it replaces "
                    f"{len(parts[0].truth)} of {parts[0].posterior.shape[1]}, or other labels: record both models on "
                    "the same inputs",
                    key=key,
                )
            parts.append(new)
        tables.append(
            ScoreTable(
                np.concatenate([part.score for part in parts]),
                np.concatenate([part.right for part in parts]),
                np.concatenate([part.label for part in parts]),
                np.concatenate([part.truth for part in parts]),
                np.concatenate([part.posterior for part in parts]),
                base[level].samples,
            )
        )
    return tuple(tables)


def _columns(scores: Scores, folder: Path, key: str) -> list[ScoreTable]:
    try:
        trace = _trace(scores, folder, key)
        score = load_score(scores.score, "posterior" if trace.logits is None else "logits", key=f"{key}.score")
        return [
            ScoreTable(
                trace.score(level, score),
                trace.correct(level).astype(np.uint8),
                trace.predictions[level],
                trace.labels,
                trace.posteriors[level],
                len(trace),
            )
            for level in range(LEVELS)
        ]
    except TraceError as error:
        raise ConfigError(str(error), key=f"{key}.table") from error
    except PolicyConfigError as error:
        raise ConfigError(str(error).removeprefix(f"{error.key}: "), key=error.key) from error


def _trace(scores: Scores, folder: Path, key: str) -> Trace:
    if scores.table == "parametric":
        return parametric(scores.accuracy, scores.classes, scores.samples)
    if scores.table == "digits":
        return _digits()
    trace = load_trace(folder / scores.table, scores.split, temperature=scores.temperature)
    if trace.tiers != LEVELS:
        raise ConfigError(
            f"holds {trace.tiers} tiers, but a fleet has {LEVELS}: give t1, t2 and t3", key=f"{key}.table"
        )
    return trace


def parametric(accuracy: tuple[float, ...], classes: int, samples: int) -> Trace:
    """Make up tiers of given accuracies whose posteriors say how sure they are; hard samples are hard for all.

    Logits are Gumbel noise, and more at the true class: by as much as gives the accuracy, and by a difficulty that a
    sample has at every tier.
    """
    rng = np.random.default_rng(_SEED)
    truth = rng.integers(0, classes, samples)
    ease = rng.normal(size=samples)
    logits = []
    for wanted in accuracy:
        noise = rng.gumbel(size=(samples, classes))
        rest = noise.copy()
        rest[np.arange(samples), truth] = -np.inf
        # Right where strength + 2 ease + noise[truth] beats the rest: so the strength is a quantile.
        needed = rest.max(axis=1) - noise[np.arange(samples), truth] - 2.0 * ease
        noise[np.arange(samples), truth] += 2.0 * ease + np.quantile(needed, min(max(wanted, 1e-3), 1 - 1e-3))
        logits.append(noise.astype(np.float32))
    return Trace.of([softmax(one, 1.0) for one in logits], truth, logits=logits)


def _digits() -> Trace:
    try:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    except ImportError as error:
        raise ConfigError(
            "digits needs scikit-learn: pip install 'escalade[demo]', or take table: parametric", key="scores.table"
        ) from error
    images, labels = load_digits(return_X_y=True)
    small = images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(images), 16)
    order = np.random.default_rng(_SEED).permutation(len(images))
    train, test = order[:1197], order[1197:]
    posteriors = []
    for inputs, model in (
        (small, make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))),
        (images, make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))),
        (images / 16.0, SVC(C=10.0, gamma=0.5)),
    ):
        model.fit(inputs[train], labels[train])
        if isinstance(model, SVC):
            posteriors.append(softmax(2.0 * model.decision_function(inputs[test]), 1.0))
        else:
            posteriors.append(model.predict_proba(inputs[test]))
    return Trace.of(posteriors, labels[test])
