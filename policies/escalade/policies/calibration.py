"""What a score means on labelled data: temperature, calibration error, and a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Find the temperature whose softmax gives the labels the highest likelihood.

    Parameters
    ----------
    logits
        ``[N, C]``, finite, of inputs that the model was not trained on.
    labels
        Integers ``[N]`` in [0, C).

    Returns
    -------
    float
        In [0.01, 100]. It is the lower end where every input is classified rightly (no temperature is
        cold enough) and the upper end where the logits tell nothing of the labels.

    Raises
    ------
    ValueError
        If there are no rows, the shapes do not fit, a logit is not finite or a label is no class.

    Notes
    -----
    Temperature scaling of Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    The mean negative log-likelihood is convex in ``1/T``; its slope is the posterior's mean logit less
    the label's, and Newton's method, kept inside a bracket, finds where that is zero. The ranking of
    the classes stays the same. On inputs from another distribution nothing is promised.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = rng.normal(size=(4000, 5))
    >>> labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)  # drawn from softmax(true)
    >>> round(fit_temperature(3.0 * true, labels), 1)
    3.0
    """
    z, y = _labelled(logits, labels, "logits")
    z = z - z.max(axis=1, keepdims=True)
    target = z[np.arange(len(y)), y]

    def slope_and_curvature(beta: float) -> tuple[float, float]:
        weight = np.exp(beta * z)
        weight /= weight.sum(axis=1, keepdims=True)
        mean = (weight * z).sum(axis=1)
        variance = (weight * z * z).sum(axis=1) - mean * mean
        return float((mean - target).mean()), float(variance.mean())

    low, high = 1.0 / HOTTEST, 1.0 / COLDEST
    if slope_and_curvature(high)[0] <= 0.0:
        return COLDEST
    if slope_and_curvature(low)[0] >= 0.0:
        return HOTTEST
    beta = 1.0
    for _ in range(100):
        slope, curvature = slope_and_curvature(beta)
        low, high = (low, beta) if slope > 0.0 else (beta, high)
        step = beta - slope / curvature if curvature > 0.0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - beta) <= 1e-12 * beta:
            break
        beta = following
    return 1.0 / beta


def expected_calibration_error(posterior: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Measure how far stated confidence and accuracy lie apart on average.

    Parameters
    ----------
    posterior
        ``[N, C]`` class probabilities.
    labels
        Integers ``[N]`` in [0, C).
    bins
        Number of equally wide bins ``((b-1)/bins, b/bins]`` of the highest probability.

    Returns
    -------
    float
        In [0, 1]: the mean, weighted by rows, of ``|accuracy - confidence|`` in each bin.

    Raises
    ------
    ValueError
        If there are no rows or bins, the shapes do not fit, a value is not finite or a label is no class.

    Notes
    -----
    Guo et al. (2017), section 2, after Naeini et al. (2015). With few rows a bin the estimate is too
    high, and it depends on the number of bins: compare only values of the same rows and bins.

    Examples
    --------
    >>> expected_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1])
    0.0
    >>> expected_calibration_error([[1.0, 0.0]] * 4, [0, 0, 0, 1])
    0.25
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    p, y = _labelled(posterior, labels, "posterior")
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == y
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def cheapest_threshold(score: ArrayLike, correct_here: ArrayLike, correct_above: ArrayLike, max_loss: float) -> float:
    """Find the threshold that escalates least while the cascade keeps its accuracy on these inputs.

    Parameters
    ----------
    score
        ``[N]``, higher = surer; rows with ``nan`` or ``-inf`` are always escalated.
    correct_here, correct_above
        ``[N]`` truth values (or probabilities): is this tier right, is the tier above right?
    max_loss
        Accuracy that may be lost against asking the tier above about everything, as a share: 0.01 is
        one point.

    Returns
    -------
    float
        For `Threshold`: a score of the data, or ``inf`` where only escalating everything keeps the
        accuracy. Equal scores are accepted together or not at all.

    Raises
    ------
    ValueError
        If there are no rows, the lengths differ, or `max_loss` is negative or ``nan``.

    Notes
    -----
    Not a guarantee. The threshold is chosen on the very rows that it is judged by, so on new inputs the
    loss exceeds `max_loss` in a large share of cases, 25 to 70 % in our trials.

    Examples
    --------
    >>> score = [0.9, 0.8, 0.7, 0.6]
    >>> cheapest_threshold(score, [1, 1, 0, 0], [1, 1, 1, 1], max_loss=0.0)
    0.8
    >>> cheapest_threshold(score, [1, 1, 0, 0], [1, 1, 1, 1], max_loss=0.25)
    0.7
    """
    surer = np.asarray(score, dtype=np.float64)
    here, above = np.asarray(correct_here, np.float64), np.asarray(correct_above, np.float64)
    if surer.ndim != 1 or not len(surer) or not surer.shape == here.shape == above.shape:
        raise ValueError(
            "score, correct_here and correct_above must have the same length of at least 1, "
            f"got shapes {list(surer.shape)}, {list(here.shape)}, {list(above.shape)}"
        )
    if not max_loss >= 0.0:
        raise ValueError(f"max_loss must be 0 or more, got {max_loss!r}")
    usable = surer > -np.inf
    order = np.flatnonzero(usable)[np.argsort(-surer[usable], kind="stable")]
    ordered = surer[order]
    loss = np.cumsum(above[order] - here[order]) / len(surer)
    last_of_its_score = np.append(ordered[1:] < ordered[:-1], True)[: len(ordered)]
    fits = np.flatnonzero(last_of_its_score & (loss <= max_loss + 1e-9))
    return float(ordered[fits[-1]]) if len(fits) else float("inf")


def _labelled(values: ArrayLike, labels: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows, y = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if rows.ndim != 2 or y.shape != rows.shape[:1] or rows.size == 0:
        raise ValueError(
            f"{name} must be [N, C] and labels [N] with N, C >= 1, got shapes {list(rows.shape)} and {list(y.shape)}"
        )
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= rows.shape[1]:
        raise ValueError(f"labels must be whole numbers from 0 to {rows.shape[1] - 1}, got {y.dtype}s {y[:5]}...")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"{name} of row {bad} are not all finite")
    return rows, y.astype(np.int64)
