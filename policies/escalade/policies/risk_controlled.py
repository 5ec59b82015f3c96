"""Thresholds with a certificate: `RiskControlled`."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from escalade.policies.bounds import binomial_cdf, net_p_value, net_upper_bound, upper_bound
from escalade.policies.certificate import Certificate
from escalade.policies.class_table import ClassTable
from escalade.policies.errors import NotFittedError
from escalade.policies.fitting_data import FittingData
from escalade.policies.learn_then_test import Promise, Shown, learn_then_test
from escalade.policies.policy import FittedPolicy

if TYPE_CHECKING:
    from escalade.policies.trace import Trace
    from escalade.policies.types import Action, Batch, Context, Decisions


class RiskControlled(FittedPolicy):
    """Accept where it is shown that little accuracy is given up against the top tier.

    Thresholds for all tiers at once, such that ``P(loss > alpha) <= delta``: the probability is that of
    drawing calibration data with which the fit goes wrong. The loss is one of

    - ``regret``: ``P(top tier right, cascade wrong)``, the share of inputs that escalating everything would
      have saved. It is at least the accuracy given up, so that is at most alpha too;
    - ``net``: ``P(top tier right) - P(cascade right)``, the accuracy given up itself. Inputs that only the
      lower tiers get right make up for others, which is cheaper and promises less.

    Parameters
    ----------
    alpha
        The loss allowed, a share: 0.02 is two points. In (0, 1).
    delta
        How often, over calibration data, the promise may fail. In (0, 1).
    level
        The tier it decides at, 0 the lowest.
    score
        The tiers' score that the thresholds are compared with.
    loss
        ``regret`` or ``net``.
    reserve
        Share of alpha that is left unused on the calibration data, in [0, 1): of all thresholds that were
        shown to keep the promise, those are taken that cost least with a measured loss of at most
        ``(1 - reserve) alpha``. With 0 the loss stands at the edge, and little drift breaks the promise.
    per_class
        Whether each predicted class has a threshold of its own; the posterior is then needed.
    learning
        Share of the rows that choose what is tested, in (0, 1); down to a fifth where the test would have too
        few rows to show anything.
    models
        SHA-256 of each tier's model, lowest first, for the certificate.
    seed
        Of the draw of these rows.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    `learn_then_test` tells the procedure (Angelopoulos et al. 2021; Laufer-Goldshtein et al. 2023). The test
    is the exact binomial one for ``regret`` and an exact test of a paired difference for ``net``
    (`bounds.most_net_events`).

    Not promised: anything of inputs drawn from another distribution, of a single class or device, or of
    inputs that should have been escalated and were not, for want of a link; and nothing if the rows depend
    on each other (frames of one film). Rows that were used to train a tier make the promise void.

    Examples
    --------
    >>> import numpy as np
    >>> from escalade.policies.scores.softmax import softmax
    >>> from escalade.policies.trace import Trace
    >>> from escalade.policies.types import Batch
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 4000)
    >>> tiers = [softmax(skill * np.eye(3)[labels] + rng.normal(size=(4000, 3))) for skill in (2.0, 3.0, 4.0)]
    >>> trace = Trace.of(tiers, labels, costs=(0.01, 0.1, 1.0))
    >>> policy = RiskControlled(alpha=0.02, delta=0.1).fit(trace)
    >>> certificate = policy.certificate
    >>> certificate.n, certificate.measured <= 0.7 * 0.02, certificate.bound <= 0.02
    (4000, True, True)
    >>> decisions = [policy.at_tier(level).decide(Batch.of(trace.score(level), tiers[level])) for level in (0, 1)]
    >>> [round(float(d.action.mean()), 2) for d in decisions]     # share escalated, were all asked
    [0.5, 0.07]
    >>> RiskControlled(alpha=0.001).fit(trace.take(slice(1000)))
    Traceback (most recent call last):
        ...
    escalade.policies.errors.FitError: alpha=0.001 at delta=0.1 cannot be certified with 1000 rows; about \
2900 labels needed
    """

    def __init__(
        self,
        alpha: float,
        delta: float = 0.1,
        level: int = 0,
        score: str = "max_prob",
        loss: Literal["regret", "net"] = "regret",
        reserve: float = 0.3,
        per_class: bool = True,
        learning: float = 0.5,
        models: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("alpha", alpha), ("delta", delta), ("learning", learning)):
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must be above 0 and below 1, got {value!r}")
        if not 0.0 <= reserve < 1.0:
            raise ValueError(f"reserve must be at least 0 and below 1, got {reserve!r}")
        if level < 0:
            raise ValueError(f"level must be 0 or more, got {level!r}")
        if loss not in ("regret", "net"):
            raise ValueError(f"loss must be regret or net, got {loss!r}")
        self.alpha, self.delta, self.level, self.score, self.loss = alpha, delta, level, score, loss
        self.reserve, self.per_class, self.learning, self.seed = reserve, per_class, learning, seed
        self.models = list(models or [])
        self._certificate: Certificate | None = None
        self._table: ClassTable | None = None

    @property
    def fitted(self) -> bool:
        """Whether it has thresholds."""
        return self._table is not None

    @property
    def certificate(self) -> Certificate:
        """What was promised; NotFittedError before the fit."""
        if self._certificate is None:
            raise NotFittedError(_NOT_FITTED)
        return self._certificate

    @property
    def thresholds(self) -> list[list[float]]:
        """For each tier that decides, lowest first, one threshold for each class, or one for all."""
        return self.certificate.thresholds

    def fit(self, trace: Trace, *, date: str | None = None) -> Self:
        """Fit the thresholds of all tiers and certify them.

        Parameters
        ----------
        trace
            Independent labelled inputs that no tier was trained on, with the prices of the tiers.
        date
            For the certificate, ``YYYY-MM-DD``; today (UTC) by default.

        Raises
        ------
        TraceError
            If there are too few tiers, or all rows are of one class.
        FitError
            If the promise cannot be kept with these rows; it says about how many labels are needed.
        ValueError
            If there are more models than tiers.
        """
        if len(self.models) > trace.tiers:
            raise ValueError(f"models names {len(self.models)} models, but the trace has {trace.tiers} tiers")
        data = FittingData.of(trace, self.score, self.level)
        promise = Promise(self.alpha, self.delta, self.loss, self.reserve, self.learning, self.per_class, self.seed)
        shown = learn_then_test(data, trace.classes, promise)
        p_value, bound = self._evidence(shown)
        self._take(
            Certificate.of(
                n=len(trace),
                n_test=shown.n_test,
                alpha=self.alpha,
                delta=self.delta,
                loss=self.loss,
                score=self.score,
                thresholds=[column.tolist() for column in shown.thresholds],
                p_value=p_value,
                bound=bound,
                measured=shown.measured,
                models=self.models,
                data_digest=trace.digest(),
                date=date or datetime.now(UTC).date().isoformat(),
            )
        )
        return self

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with the threshold of its class."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        return self._table.decide(batch)

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with the threshold of its class."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        return self._table.decide_one(score, context)

    def at_tier(self, level: int) -> RiskControlled:
        """Return the policy of the same fit at tier `level`; ValueError if it was fitted for fewer tiers."""
        view = copy(self)
        view.level = level
        if self._certificate is not None:
            view._take(self._certificate)
        return view

    def check_model(self, sha256: str) -> None:
        """Raise ValueError, naming both digests, if another model was certified for this tier."""
        self.certificate.check_model(self.level, sha256)

    def state_dict(self) -> dict[str, Any]:
        """Return the certificate, thresholds included, as JSON text; empty before the fit."""
        return {} if self._certificate is None else {"certificate": self._certificate.to_json()}

    def check_score(self, name: str) -> None:
        """Refuse a tier with another score: its numbers mean something else."""
        if name != self.score:
            raise ValueError(f"its thresholds are of the score '{self.score}', the tier's is '{name}'; make them one")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a fit; ValueError if it was changed since, or promises something else than is asked."""
        if not state and self._certificate is None:
            return
        if set(state) != {"certificate"} or not isinstance(state["certificate"], str):
            raise ValueError(f"the state of RiskControlled is its certificate as text, got {sorted(state)}")
        certificate = Certificate.from_json(state["certificate"])
        for name in ("alpha", "delta", "loss", "score"):
            asked, promised = getattr(self, name), getattr(certificate, name)
            if asked != promised:
                raise ValueError(f"{name} is {asked!r}, but the certificate is of {name} {promised!r}; fit again")
        for level, model in enumerate(self.models):
            certificate.check_model(level, model)
        self._take(certificate)

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the score, its class's threshold and what the certificate promises."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        promise = self.certificate
        return {
            **self._table.numbers(score, context),
            "level": self.level,
            "alpha": promise.alpha,
            "delta": promise.delta,
            "loss": promise.loss,
            "bound": promise.bound,
            "p_value": promise.p_value,
            "measured": promise.measured,
            "rows": promise.n,
            "certified": promise.date,
        }

    def _take(self, certificate: Certificate) -> None:
        if not 0 <= self.level < len(certificate.thresholds):
            raise ValueError(
                f"level is {self.level}, but the certificate is for tiers 0 to {len(certificate.thresholds) - 1}"
            )
        row = certificate.thresholds[self.level]
        beyond = row[0] if len(row) == 1 else float("inf")  # a class never seen is not certified
        self._table, self._certificate = ClassTable(row, beyond), certificate

    def _evidence(self, shown: Shown) -> tuple[float, float]:
        """Return p-value and upper bound."""
        if self.loss == "regret":
            lost = shown.counts[0]
            return binomial_cdf(lost, shown.n_test, self.alpha), upper_bound(lost, shown.n_test, self.delta)
        lost, won = shown.counts
        return (
            net_p_value(shown.n_test, lost, won, self.alpha, self.delta),
            net_upper_bound(shown.n_test, lost, won, self.delta),
        )

    def __repr__(self) -> str:
        return f"RiskControlled(alpha={self.alpha!r}, delta={self.delta!r}, level={self.level})"


_NOT_FITTED = "RiskControlled has no thresholds yet; fit it to calibration data or load its state"
