"""Guessing what silent nodes would have said from what the others say: `Imputer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Imputer:
    """Fills in missing features with their mean given those that are there, under one normal distribution.

    With mean ``m`` and covariance ``S``: ``x_missing = m_missing + S_mp S_pp^-1 (x_present - m_present)``.

    Attributes
    ----------
    mean
        float64 ``[N, F]``.
    covariance
        float64 ``[N F, N F]``.

    Notes
    -----
    Source: Anderson (2003), "An introduction to multivariate statistical analysis", theorem 2.5.1. The
    guess is the best linear one. One solve for every set of present nodes that occurs, hence quick where
    few sets do.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(1000, 1, 1))
    >>> imputer = Imputer.of(np.concatenate([x, 2.0 * x], axis=1))
    >>> imputer(np.array([[[1.0], [0.0]]]), np.array([[True, False]])).round(2).tolist()
    [[[1.0], [2.0]]]
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Imputer:
        """Estimate mean and covariance from complete events ``[E, N, F]``."""
        flat = features.reshape(len(features), -1).astype(np.float64)
        centred = flat - flat.mean(axis=0)
        covariance = centred.T @ centred / len(flat)
        return cls(flat.mean(axis=0).reshape(features.shape[1:]), covariance)

    def __call__(self, features: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return float64 ``[E, N, F]``, complete; masked entries of `features` are not read."""
        events, nodes, size = features.shape
        whole = features.reshape(events, nodes * size).astype(np.float64)
        if mask.all():
            return whole.reshape(features.shape)
        mean = self.mean.ravel()
        sets, which = np.unique(mask, axis=0, return_inverse=True)
        for number, there in enumerate(sets):
            if there.all():
                continue
            rows = np.flatnonzero(which.ravel() == number)
            present = np.repeat(there, size)
            guess = np.tile(mean[~present], (len(rows), 1))
            if there.any():
                inner = self.covariance[np.ix_(present, present)]
                inner = inner + (1e-4 * np.trace(inner) / len(inner) + 1e-12) * np.eye(len(inner))
                slopes = np.linalg.solve(inner, self.covariance[np.ix_(present, ~present)])
                guess += (whole[np.ix_(rows, np.flatnonzero(present))] - mean[present]) @ slopes
            whole[np.ix_(rows, np.flatnonzero(~present))] = guess
        return whole.reshape(events, nodes, size)
