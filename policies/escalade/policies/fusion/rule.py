"""The interface every fusion rule has: `FusionRule`, and what it answers: `Fused`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.fusion.observations import checked_posteriors, checked_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CHUNK = 2048
"""Events fused at a time: few enough that their posteriors stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """The answers to ``E`` events.

    Attributes
    ----------
    posterior
        float32 ``[E, C]``, each row sums to one; uniform for an event without any node.
    score
        float32 ``[E]``: the posterior's highest probability, as `MAX_PROB` gives it; ``-inf`` for an event
        without any node, so that no policy accepts it.
    conflict
        float32 ``[E]`` in [0, 1]: half the mean squared distance between the posteriors of two different
        nodes that were used. 0 where they agree entirely or there is but one; for nodes that are certain,
        the share of pairs that disagree.
    used
        bool ``[E, N]``: the nodes that took part.
    """

    posterior: NDArray[np.float32]
    score: NDArray[np.float32]
    conflict: NDArray[np.float32]
    used: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.score)


class FusionRule(ABC):
    """Combines the posteriors of several nodes that observed one event into one.

    A rule of one's own needs one method, `combine`. All rules keep these promises (`check_fusion` tests them):

    - `fuse` is pure: it changes neither its arguments nor the rule. What a rule learns, it learns in `fit`
      and `observe`.
    - Events are independent: the answer to one depends on nothing in the others.
    - What a masked node holds, ``nan`` included, changes nothing; nor does that of a node of weight 0.
    - The posterior is finite and sums to one. Without any node it is uniform and the score ``-inf``.
    - If `symmetric`, the order of the nodes does not matter, and leaving a masked node's column out changes
      nothing. Rules that know each node by its place are not.
    - If `identity`, a node that is alone is answered with its own posterior. Rules that recalibrate or count
      votes are not.

    Examples
    --------
    >>> class Sceptic(FusionRule):
    ...     '''Every class as probable as the least convinced node has it.'''
    ...
    ...     def combine(self, posteriors, weights):
    ...         return np.where(weights[:, :, None] > 0, posteriors, 1.0).min(axis=1) + 1e-9
    >>> Sceptic().fuse([[[0.75, 0.25], [0.5, 0.5]]]).posterior.round(2).tolist()
    [[0.6700000166893005, 0.33000001311302185]]
    """

    @property
    def symmetric(self) -> bool:
        """Whether the order of the nodes does not matter."""
        return True

    @property
    def identity(self) -> bool:
        """Whether the answer to an event that one node saw is that node's posterior."""
        return True

    @abstractmethod
    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[Any]:
        """Combine posteriors that were checked before.

        Parameters
        ----------
        posteriors
            ``[E, N, C]``; uniform where the node is not to be used. Not to be written to.
        weights
            ``[E, N]``, 0 where the node is not to be used; at least one is positive in each event.

        Returns
        -------
        NDArray
            ``[E, C]`` of 0 or more with a positive sum; `fuse` divides by it.
        """

    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        """Fuse every event; there may be none.

        Parameters
        ----------
        posteriors
            ``[E, N, C]``, each sums to one.
        mask
            bool ``[E, N]``, true where the node reported; None where all did.
        weights
            ``[N]``, 0 or more: trust from elsewhere, multiplied with what the rule knows itself.

        Raises
        ------
        FusionInputError
            If an argument is not as described; it names event and node.
        NotFittedError
            If the rule has to be fitted first.
        """
        p, present = checked_posteriors(posteriors, mask)
        trust = checked_weights(weights, p.shape[1])
        events, _, classes = p.shape
        fused = Fused(
            np.full((events, classes), 1.0 / classes, np.float32),
            np.full(events, -np.inf, np.float32),
            np.zeros(events, np.float32),
            present & (trust > 0.0),
        )
        for start in range(0, events, CHUNK):
            part = slice(start, start + CHUNK)
            self._fuse(p[part], trust, fused, part)
        return fused

    def _fuse(self, p: NDArray[np.float32], trust: NDArray[np.float32], fused: Fused, part: slice) -> None:
        used = fused.used[part]
        if not used.all():
            p = np.where(used[:, :, None], p, np.float32(1.0 / p.shape[2]))
            answered = used.any(axis=1)
            if not answered.all():
                rows = np.flatnonzero(answered)
                some = self._answer(p[rows], used[rows], trust)
                for column, values in zip((fused.posterior, fused.score, fused.conflict), some, strict=True):
                    column[part][rows] = values
                return
        fused.posterior[part], fused.score[part], fused.conflict[part] = self._answer(p, used, trust)

    def _answer(
        self, p: NDArray[np.float32], used: NDArray[np.bool_], trust: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        combined = np.asarray(self.combine(p, used * trust))
        posterior = (combined / combined.sum(axis=1, keepdims=True)).astype(np.float32)
        return posterior, posterior.max(axis=1, initial=0.0), conflict(p, used)

    def settled(self, posteriors: ArrayLike, mask: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Return bool ``[E]``: whether the label is certain, whatever the nodes that are missing would say.

        By default only where nobody is missing: most rules know no bound on what one more node can do.
        """
        p, present = checked_posteriors(posteriors, mask)
        whole: NDArray[np.bool_] = (present | (checked_weights(weights, p.shape[1]) == 0.0)).all(axis=1)
        return whole

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Fit the rule to labelled events of healthy nodes and return it; nothing to fit by default."""
        del posteriors, labels, mask
        return self

    def observe(  # noqa: B027  # optional
        self, posteriors: ArrayLike, mask: ArrayLike | None = None, labels: ArrayLike | None = None
    ) -> None:
        """Learn from events in their order, with labels (-1 = unknown) where there are any."""

    def step(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        """Fuse events that arrive in this order, learning from each before the next is answered.

        The default fuses the batch with what was known before it and learns from it afterwards.
        """
        fused = self.fuse(posteriors, mask, weights)
        self.observe(posteriors, mask)
        return fused

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted and learnt, as arrays and scalars."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another object of this class has learnt; ValueError if it is not one's own."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def conflict(p: NDArray[np.float32], used: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32 ``[E]``: half the mean squared distance between two different used nodes.

    With ``m`` nodes of mean ``a`` that is ``(sum |p_n|^2 - m |a|^2) / (m - 1)``.

    Examples
    --------
    >>> conflict(np.float32([[[1, 0], [0, 1], [1, 0]]]), np.array([[True, True, True]])).round(2).tolist()
    [0.6700000166893005]
    """
    flags = used.astype(np.float32)
    count = flags.sum(axis=1)
    total = np.matmul(flags[:, None, :], p)[:, 0]
    masked = p if used.all() else p * flags[:, :, None]
    flat = masked.reshape(len(p), p.shape[1] * p.shape[2])
    spread = np.einsum("ei,ei->e", flat, flat) - np.einsum("ec,ec->e", total, total) / np.maximum(count, 1.0)
    result: NDArray[np.float32] = np.clip(spread / np.maximum(count - 1.0, 1.0), 0.0, 1.0)
    return result
