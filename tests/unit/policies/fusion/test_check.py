"""`check_fusion` finds what is broken on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from escalade.policies.fusion import Fused, FusionCheckError, FusionRule, MeanProbability, check_fusion
from escalade.policies.fusion.checks import DEMANDS

P = NDArray[np.float32]


class Unnormalised(MeanProbability):
    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        fused = super().fuse(posteriors, mask, weights)
        return Fused(fused.posterior * np.float32(0.5), fused.score, fused.conflict, fused.used)


class ProductWithoutFloor(FusionRule):
    def combine(self, posteriors: P, weights: P) -> NDArray[Any]:
        return np.asarray(np.where(weights[:, :, None] > 0, posteriors, 1.0).prod(axis=1))


class FirstNode(FusionRule):
    def combine(self, posteriors: P, weights: P) -> P:
        return posteriors[:, 0]


class Careless(MeanProbability):
    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        fused = super().fuse(np.nan_to_num(np.asarray(posteriors), nan=1.0 / np.shape(posteriors)[2]))
        return Fused(fused.posterior, fused.score, fused.conflict, fused.used)


class Ordered(MeanProbability):
    def combine(self, posteriors: P, weights: P) -> P:
        return super().combine(posteriors, weights * np.arange(1, weights.shape[1] + 1, dtype=np.float32))


class Smoothed(MeanProbability):
    def combine(self, posteriors: P, weights: P) -> P:
        return super().combine(posteriors, weights) + np.float32(0.1)


class OverTheBatch(MeanProbability):
    def combine(self, posteriors: P, weights: P) -> P:
        spoilt: P = super().combine(posteriors, weights) + posteriors.mean(axis=(0, 1))
        return spoilt


class Remembering(MeanProbability):
    def __init__(self) -> None:
        self.seen = 0

    def combine(self, posteriors: P, weights: P) -> P:
        self.seen += 1
        return super().combine(posteriors, weights)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Scribbling(MeanProbability):
    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        if isinstance(posteriors, np.ndarray) and len(posteriors):
            posteriors[0] = posteriors[0][::-1]
        return super().fuse(posteriors, mask, weights)


class SureOfNothing(MeanProbability):
    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        fused = super().fuse(posteriors, mask, weights)
        return Fused(fused.posterior, fused.posterior.max(axis=1, initial=0.0), fused.conflict, fused.used)


class Unpicklable(MeanProbability):
    def __init__(self) -> None:
        self.hook = lambda: None


class Forgetful(MeanProbability):
    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def combine(self, posteriors: P, weights: P) -> P:
        return super().combine(posteriors, weights**self.power) + np.float32(self.power - 2.0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.power = 9.0


class Raising(MeanProbability):
    def combine(self, posteriors: P, weights: P) -> P:
        raise RuntimeError("out of order")


class WrongType(MeanProbability):
    def fuse(self, posteriors: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None) -> Fused:
        f = super().fuse(posteriors, mask, weights)
        return Fused(f.posterior.astype(np.float64), f.score, f.conflict, f.used)


@pytest.mark.parametrize(
    ("rule", "demand"),
    [
        (WrongType(), "well formed"),
        (Unnormalised(), "sums to one"),
        (SureOfNothing(), "no node, no answer"),
        (Careless(), "masked equals absent"),
        (Careless(), "weight 0 equals absent"),
        (Ordered(), "order of nodes"),
        (FirstNode(), "order of nodes"),
        (Smoothed(), "one node is the identity"),
        (OverTheBatch(), "events are independent"),
        (Remembering(), "fuse is pure"),
        (Scribbling(), "fuse is pure"),
        (Unpicklable(), "pickles"),
        (Forgetful(), "state round trip"),
    ],
)
def test_each_broken_promise_is_named(rule: FusionRule, demand: str) -> None:
    """A rule that is broken on purpose fails the demand that is about that."""
    with pytest.raises(FusionCheckError) as caught:
        check_fusion(rule)
    assert demand in caught.value.rules


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_product_of_contradicting_certainties_is_caught() -> None:
    """Multiplying one-hot posteriors that contradict each other gives nan."""
    with pytest.raises(FusionCheckError, match="nan"):
        check_fusion(ProductWithoutFloor())


def test_whatever_a_rule_raises_is_a_finding() -> None:
    """An exception in the author's code is reported for each demand, not passed on."""
    with pytest.raises(FusionCheckError, match="out of order") as caught:
        check_fusion(Raising())
    assert set(caught.value.rules) == set(DEMANDS)
