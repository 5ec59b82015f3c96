"""Once in doubt, stay in doubt for a while: `Hysteresis`."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.combinator import Combinator, of_table, probabilities
from escalade.policies.policy import Policy  # noqa: TC001 - parameters are read from annotations at run time
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACCEPT, _ESCALATE, _DEFER = Action.ACCEPT, Action.ESCALATE, Action.DEFER
_ENTRIES = ("device", "held")


class Hysteresis(Combinator):
    """After an escalation keep escalating until the device's inputs are sure again.

    A camera that sees something strange sees it for many frames, and a score that hovers about the
    threshold makes the answer flicker between two tiers. So an escalated input alarms its device. While
    it is alarmed

    - the policy is shown the score less `margin`, and
    - the next `hold` inputs that it would accept are escalated all the same.

    After that the first input accepted ends the alarm; one that the policy itself sends up renews it.
    With a threshold ``t`` and ``hold = 0`` this is a Schmitt trigger (1938): on below ``t``, off at ``t + margin``.

    Parameters
    ----------
    policy
        Whose decisions are steadied.
    margin
        In units of the score, 0 or more.
    hold
        How many inputs of the device at least follow an escalated one upward.

    Raises
    ------
    ValueError
        If a number is negative, or both are 0.

    Notes
    -----
    It counts what was really done: an escalation that the tier could not make alarms nobody. It makes no
    single input's answer better than the policy does: what it buys is steadiness, at the price of more
    escalations. A guarantee of the policy on accuracy against the top tier stays (it never accepts more,
    where the policy never accepts a lower score and escalates a higher one); one on cost does not. A number is
    kept for every alarmed device.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> policy = Hysteresis(Threshold(0.5), margin=0.25)
    >>> policy.decide(Batch.of([0.6, 0.4, 0.6, 0.8, 0.6])).action.tolist()
    [0, 1, 1, 0, 0]
    """

    sequential = True

    def __init__(self, policy: Policy, margin: float = 0.0, hold: int = 0) -> None:
        super().__init__(policy=policy)
        if not (0.0 <= margin < inf and hold >= 0 and (margin or hold)):
            raise ValueError(f"give a margin above 0 or a hold of at least 1, got margin={margin}, hold={hold}")
        self.policy, self.margin, self.hold = policy, float(margin), int(hold)
        self._margin = np.float32(margin)
        self._held: dict[int, int] = {}  # for each alarmed device, how many more inputs are held

    @property
    def parts(self) -> dict[str, Policy]:
        """The policy whose decisions are steadied."""
        return {"policy": self.policy}

    def decide_rows(self, batch: Batch) -> Decisions:
        """Decide in order, each device by what its inputs before had."""
        calm = self.policy.decide(batch)
        if not self._held and np.all(calm.action == _ACCEPT):
            return calm
        alarmed = self.policy.decide(self._lowered(batch))
        held = dict(self._held)
        device, calm_action, wishes = batch.device.tolist(), calm.action.tolist(), alarmed.action.tolist()
        mode = [self._step(held, device[row], calm_action[row], wishes[row]) for row in range(len(batch))]
        return self._decisions(batch, calm, alarmed, np.array(mode, np.int8))

    def probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """Return the policy's, at the score that each device is shown now."""
        modes = [self._mode(device) for device in batch.device.tolist()]
        return self._table(batch, np.array(modes, np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide on one input in the same way."""
        if context.device not in self._held:
            return self.policy.decide_one(score, context)
        action = self.policy.decide_one(self._lowered_one(score), context)
        return _ESCALATE if action == _ACCEPT and self._held[context.device] > 0 else action

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        """Alarm the devices of escalated rows, and end the alarms that are over."""
        for row, done in enumerate(action.tolist()):
            score, context = batch.row(row)
            self.commit_one(score, context, Action(done))

    def commit_one(self, score: float, context: Context, action: Action) -> None:
        """Alarm the device, or bring it nearer to the end of its alarm."""
        device, held = context.device, self._held
        if device in held:
            own = self.policy.decide_one(self._lowered_one(score), context)
            if own == _ACCEPT:
                self._accepted(held, device, action)
            elif action in (_ESCALATE, _DEFER):
                held[device] = self.hold
        elif action in (_ESCALATE, _DEFER):
            held[device] = self.hold
        self.policy.commit_one(score, context, action)

    def own_state(self) -> dict[str, Any]:
        """Return the alarmed devices and how many more of their inputs are held."""
        pairs = np.array(sorted(self._held.items()), np.int64).reshape(-1, 2)
        return {name: pairs[:, column].copy() for column, name in enumerate(_ENTRIES)}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take over alarms; ValueError if the state holds none."""
        if sorted(state) != sorted(_ENTRIES):
            raise ValueError(f"alarms have the entries {', '.join(_ENTRIES)}, got {sorted(state)}")
        device, held = (np.asarray(state[name]) for name in _ENTRIES)
        if (
            device.ndim != 1
            or device.shape != held.shape
            or device.dtype.kind not in "iu"
            or held.dtype.kind not in "iu"
        ):
            raise ValueError("device and held must be columns of whole numbers, of one length")
        if np.any(held < 0) or np.any(held > self.hold):
            raise ValueError(f"held must be 0 to {self.hold}, this policy's hold")
        self._held = dict(zip(device.tolist(), held.tolist(), strict=True))

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the policy's numbers, whether the device is alarmed, and for how many more inputs."""
        left = self._held.get(context.device)
        shown = score if left is None else self._lowered_one(score)
        numbers = self.policy.explain(shown, context)
        return {**numbers, "score": score, "score_shown": shown, "alarmed": left is not None, "held": left or 0}

    def _mode(self, device: int) -> int:
        """Return how a device is decided on: 0 calm, 1 with the score lowered, 2 that and held."""
        left = self._held.get(device)
        return 0 if left is None else 1 + (left > 0)

    def _step(self, held: dict[int, int], device: int, calm: int, wish: int) -> int:
        """Return the device's mode, and note in `held` what deciding on it so leads to."""
        left = held.get(device)
        if left is None:
            if calm in (_ESCALATE, _DEFER):
                held[device] = self.hold
            return 0
        mode = 2 if left > 0 else 1
        if wish == _ACCEPT:
            self._accepted(held, device, _ESCALATE if mode == 2 else _ACCEPT)
        elif wish in (_ESCALATE, _DEFER):
            held[device] = self.hold
        return mode

    @staticmethod
    def _accepted(held: dict[int, int], device: int, action: int) -> None:
        """Note that the policy itself would have accepted an input of an alarmed device."""
        if held[device] > 0:
            held[device] -= 1
        elif action == _ACCEPT:
            del held[device]

    def _decisions(self, batch: Batch, calm: Decisions, alarmed: Decisions, mode: NDArray[np.int8]) -> Decisions:
        action = np.where(mode == 0, calm.action, alarmed.action)
        action[(mode == 2) & (action == _ACCEPT)] = _ESCALATE
        if np.all(calm.propensity >= 1.0) and np.all(alarmed.propensity >= 1.0):
            return Decisions.of(action)
        return of_table(action, self._table(batch, mode))

    def _table(self, batch: Batch, mode: NDArray[np.int8]) -> NDArray[np.float64]:
        shown = replace(batch, score=np.where(mode > 0, self._lowered(batch).score, batch.score))
        table = probabilities(self.policy, shown)
        held = mode == 2
        table[held, _ESCALATE] += table[held, _ACCEPT]
        table[held, _ACCEPT] = 0.0
        return table

    def _lowered(self, batch: Batch) -> Batch:
        with np.errstate(over="ignore", invalid="ignore"):
            return replace(batch, score=batch.score - self._margin)

    def _lowered_one(self, score: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.float32(score) - self._margin)

    def __repr__(self) -> str:
        return f"Hysteresis({self.policy!r}, margin={self.margin:g}, hold={self.hold})"
