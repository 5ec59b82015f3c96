"""Stop trusting a policy when the world has changed, and do what is measured best: `DriftGuard`."""

from __future__ import annotations

from collections import deque
from math import inf, isfinite, log, log1p
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.adwin import Adwin
from escalade.policies.combinator import Combinator, probabilities
from escalade.policies.feedback import UNKNOWN, Feedback
from escalade.policies.label_mix import LabelMix
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE
MODES = ("policy", "accept", "escalate")
BETS = (0.1, 0.25, 0.5)
BITS = 4


class DriftGuard(Combinator):
    """Follow a policy until its inputs change; from then on whichever was measured best: it, accept, escalate.

    It watches three things in the feedback, of which every row should be fed back, accepted ones too:

    - the mean of the scores, by `Adwin`, which needs no label and sees most shifts within some hundred inputs;
    - this tier's own labels, by an `Adwin` on each of their lowest four bits: inputs of another kind are often taken
      for other classes. So a change of the classes' real mix is an alarm too; that voids a certificate as well;
    - audited rows, where the truth and the label of the tier above are both known, so that it is known who was right.
      For accepting all and for escalating all it bets that this is more accurate than the policy: the stake
      grows by ``1 + b * d`` for each audit, ``d`` the difference in accuracy, and never falls below 1. A stake
      above ``2 * 3 / false_alarm`` is an alarm.

    At the first alarm the certificate is withdrawn, and stays so until somebody calls `restore`. From then on, of
    the audits since the last change, whichever of the three has been right most often decides, the policy if none
    leads it clearly. Until there are audits, the mix of labels gives a hint: if the tier above answers with a
    mix of classes that is further from the usual one than this tier's own answers to the same inputs are, that
    counts like `mix_audits` audits against it.

    Parameters
    ----------
    policy
        What decides while all is well.
    delta
        Readiness of the alarms on scores and labels, shared among the five; see `Adwin`.
    false_alarm
        Of the alarm on audits: it comes wrongly less than once in ``1 / false_alarm`` audits on average.
    margin
        Lead that a fallback needs, in standard errors of accepting against the policy (at least of one audit).
    keep_audits
        At most so many, the latest, are judged by.
    reference
        Rows at the start whose own labels give the usual mix of classes.
    mix_audits
        How many audits the hint from the mix of labels is worth; 0 for none, where the mix of classes may change.
    cost
        Of escalating an input, in errors, taken off its accuracy when the three are compared.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Sources: Bifet and Gavalda (2007) for the scores; for the bets Shin, Ramdas and Rinaldo (2023), "E-detectors: a
    nonparametric framework for sequential change detection". The fallback is to follow the leader.

    Not promised: that a change is seen which moves neither the mean score nor the labels nor accuracy; that the
    leader is the best before enough audits are in: to tell two tiers apart that differ by ``g`` takes in the order of
    ``1 / g^2`` audits. The hint is wrong when the classes' own mix changes and the tiers follow it differently. An
    audit must be chosen regardless of the input. Feedback in another order shifts when an alarm comes.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> rng = np.random.default_rng(0)
    >>> guard = DriftGuard(Threshold(0.7))
    >>> def stream(rows, low, local_right, upper_right):
    ...     score = rng.uniform(low, 1.0, rows).astype(np.float32)
    ...     local, upper = (rng.random(rows) > local_right) * 1, (rng.random(rows) > upper_right) * 1   # 0 is right
    ...     truth = np.where(rng.random(rows) < 0.1, 0, UNKNOWN)                                          # audits
    ...     guard.observe(Feedback.of(score, local=local, action=1, upper=upper, hops=1, truth=truth))
    >>> stream(2000, 0.6, local_right=0.9, upper_right=0.95)
    >>> guard.withdrawn, guard.mode
    (False, 'policy')
    >>> stream(2000, 0.2, local_right=0.8, upper_right=0.4)
    >>> guard.withdrawn, guard.reason, guard.mode
    (True, 'scores', 'accept')
    """

    def __init__(
        self,
        policy: Policy,
        delta: float = 0.002,
        false_alarm: float = 0.001,
        margin: float = 0.5,
        keep_audits: int = 500,
        reference: int = 500,
        mix_audits: float = 20.0,
        cost: float = 0.0,
    ) -> None:
        super().__init__(policy=policy)
        if not 0.0 < false_alarm < 1.0:
            raise ValueError(f"false_alarm must be between 0 and 1, got {false_alarm!r}")
        if keep_audits < 1 or reference < 1:
            raise ValueError(f"keep_audits and reference must be 1 or more, got {keep_audits} and {reference}")
        for name, value in (("margin", margin), ("mix_audits", mix_audits), ("cost", cost)):
            if not (isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} must be 0 or more, got {value!r}")
        self.policy, self.delta, self.false_alarm, self.margin = policy, delta, false_alarm, margin
        self.keep_audits, self.reference, self.mix_audits, self.cost = keep_audits, reference, mix_audits, cost
        self._alarm = log(2.0 * len(BETS) / false_alarm)
        self.restore()

    def restore(self) -> None:
        """Forget all that was watched and trust the policy again: after it was fitted or certified anew."""
        self._watches = [Adwin(self.delta / (1 + BITS)) for _ in range(1 + BITS)]
        self._audits: deque[tuple[int, float, float, float]] = deque(maxlen=self.keep_audits)
        self._stakes = [[0.0] * len(BETS), [0.0] * len(BETS)]
        self._since = [[0] * len(BETS), [0] * len(BETS)]
        self._mix = LabelMix(self.reference)
        self._seen, self._mode = 0, 0
        self.withdrawn, self.reason = False, ""

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy that is guarded."""
        return {"policy": self.policy}

    @property
    def mode(self) -> str:
        """What decides: ``policy``, ``accept`` or ``escalate``."""
        return MODES[self._mode]

    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide as the policy does, or all rows alike."""
        if self._mode == 0:
            return self.policy.decide(batch)
        if self._mode == 1:
            return Decisions.of(np.where(batch.score > -inf, np.int8(0), np.int8(1)))
        return Decisions.of(np.ones(len(batch), np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide as the policy does, or alike for all."""
        if self._mode == 0:
            return self.policy.decide_one(score, context)
        return _ACCEPT if self._mode == 1 and score > -inf else _ESCALATE

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, or certainty."""
        if self._mode == 0:
            return probabilities(self.policy, batch)
        table = np.zeros((len(batch), len(Action)))
        table[np.arange(len(batch)), self.decide_rows(batch).action] = 1.0
        return table

    def observe(self, feedback: Feedback) -> None:
        """Watch the rows, hand them on to the policy, and choose anew; about 10 us a row alone."""
        self.policy.observe(feedback)
        score, local = feedback.score.tolist(), feedback.local.tolist()
        upper, truth = feedback.upper.tolist(), feedback.truth.tolist()
        for row in range(len(score)):
            if not isfinite(score[row]):
                continue
            self._seen += 1
            label = local[row] ^ local[row] >> BITS
            for bit, watch in enumerate(self._watches, -1):
                if watch.add(score[row] if bit < 0 else float(label >> bit & 1)):
                    self._changed("scores" if bit < 0 else "labels", self._seen - watch.size)
            self._mix.add(local[row], upper[row], learn=not self.withdrawn)
            if truth[row] != UNKNOWN and upper[row] != UNKNOWN:
                self._audit(feedback, row, float(local[row] == truth[row]), float(upper[row] == truth[row]))
        self._choose()

    def _audit(self, feedback: Feedback, row: int, local: float, upper: float) -> None:
        """Take in who was right; what the policy would do is asked of it as it is now."""
        batch = Batch.of(
            feedback.score[row : row + 1],
            None if feedback.posterior is None else feedback.posterior[row : row + 1],
            time_s=feedback.time_s[row : row + 1],
            upstream_ms=feedback.upstream_ms[row : row + 1],
            device=feedback.device[row : row + 1],
        )
        accept = float(probabilities(self.policy, batch)[0, _ACCEPT])
        above = upper - self.cost
        worth = (accept * local + (1.0 - accept) * above, local, above)
        self._audits.append((self._seen, *worth))
        if self.withdrawn:
            return
        for other in (0, 1):
            lead = (worth[other + 1] - worth[0]) / (1.0 + self.cost)
            for bet, share in enumerate(BETS):
                stake = self._stakes[other][bet]
                if stake <= 0.0:
                    stake, self._since[other][bet] = 0.0, self._seen
                self._stakes[other][bet] = stake + log1p(share * lead)
                if self._stakes[other][bet] >= self._alarm:
                    self._changed("audits", self._since[other][bet] - 1)
                    return

    def _changed(self, reason: str, before: int) -> None:
        """Withdraw the certificate and forget the audits up to that row."""
        if not self.withdrawn:
            self.withdrawn, self.reason = True, reason
        while self._audits and self._audits[0][0] <= before:
            self._audits.popleft()
        self._mix.restart()

    def _leads(self) -> tuple[float, float]:
        """Return by how many audits accepting all, and escalating all, lead the policy."""
        accept = escalate = 0.0
        for _, policy, local, upper in self._audits:
            accept += local - policy
            escalate += upper - policy
        hint = self.mix_audits * max(self._mix.suspicion(), 0.0)
        return accept + hint, escalate - hint

    def _choose(self) -> None:
        if not self.withdrawn:
            return
        accept, escalate = self._leads()
        doubt = max(1.0, sum((local - policy) ** 2 for _, policy, local, _ in self._audits)) ** 0.5
        self._mode = 0
        if max(accept, escalate) >= self.margin * doubt:
            self._mode = 1 if accept >= escalate else 2

    def own_state(self) -> dict[str, Any]:
        """Return what was watched and what was concluded."""
        return {
            "audits": np.array(self._audits, np.float64).reshape(-1, 4),
            "stakes": np.array(self._stakes),
            "since": np.array(self._since, np.int64),
            "mix": self._mix.state(),
            "seen": self._seen,
            "mode": self._mode,
            "withdrawn": self.withdrawn,
            "reason": self.reason,
            **{f"watch_{number}": watch.state() for number, watch in enumerate(self._watches)},
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take over what `own_state` gave.

        Raises
        ------
        ValueError
            If an entry is missing or unknown, or cannot be what it should.
        """
        if set(state) != set(self.own_state()):
            raise ValueError(f"DriftGuard's state has {sorted(self.own_state())}, got {sorted(state)}")
        audits, stakes, since = (np.asarray(state[name]) for name in ("audits", "stakes", "since"))
        if audits.ndim != 2 or audits.shape[1] != 4 or stakes.shape != since.shape or stakes.shape != (2, len(BETS)):
            raise ValueError("'audits' must be [n, 4], 'stakes' and 'since' [2, 3]")
        if not (np.isfinite(audits).all() and np.isfinite(stakes).all()):
            raise ValueError("'audits' and 'stakes' must be finite")
        mode, seen, reason = int(state["mode"]), int(state["seen"]), str(state["reason"])
        if mode not in range(len(MODES)) or seen < 0 or reason not in ("", "scores", "labels", "audits"):
            raise ValueError(f"'mode' {mode}, 'seen' {seen} or 'reason' {reason!r} is none of a DriftGuard")
        for number, watch in enumerate(self._watches):
            watch.load(state[f"watch_{number}"])
        self._mix.load(state["mix"])
        rows = [(int(at), policy, local, upper) for at, policy, local, upper in audits.tolist()]
        self._audits = deque(rows, maxlen=self.keep_audits)
        self._stakes, self._since = stakes.tolist(), since.tolist()
        self._seen, self._mode, self.withdrawn, self.reason = seen, mode, bool(state["withdrawn"]), reason

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, and what is known of the tiers."""
        accept, escalate = self._leads()
        return self.policy.explain(score, context) | {
            "mode": self.mode,
            "certificate_withdrawn": self.withdrawn,
            "alarm": self.reason,
            "audits": len(self._audits),
            "accept_leads_by": accept,
            "escalate_leads_by": escalate,
            "mean_score": self._watches[0].mean,
        }

    def __repr__(self) -> str:
        return f"DriftGuard({self.policy!r})"
