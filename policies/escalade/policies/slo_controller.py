"""The slow loop: thresholds that hold a fleet's latency objective: `SloController`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.policy import Policy
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.feedback import Telemetry

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE
_LOWEST = float(np.finfo(np.float32).min)
_ENTRIES = ("device", "threshold")


class SloController(Policy):
    """A threshold for each device, steered so that a share of its inputs is answered in time.

    A tier above that many devices ask saturates together for all of them, and no device sees why. Every
    control interval `retune` is told what share ``s`` of each device's inputs was answered within its
    objective, and moves that device's threshold:

        threshold += step * (s - target)        within [low, high]

    A threshold that stays within its range cannot drift, so over ``N`` intervals the mean of ``s`` is off the
    target by at most ``(high - low) / (step * N)``: on average the objective is met as wanted, neither worse nor
    at the price of more accuracy than it takes. ``s`` is the device's own share mixed with that of its class,
    weighted by how many inputs it has, so that a device with few follows its class and not its luck. Every class is
    steered to the same target, whatever its model, its objective or its traffic: that is the fairness.

    Parameters
    ----------
    threshold
        Where a device begins, and stays while nothing is known of it.
    target
        Share of the inputs to be answered in time, in (0, 1).
    step
        How far a threshold moves for a share that is off by one, in units of the score. It falls by almost this
        where nothing is in time, and rises by at most ``step * (1 - target)``, so slowly that the tier above,
        whose queue answers late to what is done here, is not overrun again.
    low, high
        The range of the thresholds.
    pool
        How many inputs of its own a device needs in an interval to count as much as its class.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    It holds the objective on latency and gives up accuracy for it: how much depends on the scores below the
    threshold it ends at. It settles where the objective can be met by escalating less; an objective that the
    tier's own model misses cannot be met so, and the threshold then ends at `low`. The target is met on
    average, not in each interval: a larger `step` reacts sooner and swings more. With a `pool` above 0 the
    bound is that of the mixed share. The scheme (devices report the share
    that met the objective, and thresholds move by its distance from the target) is that of Nikolaidis,
    Venieris and Venieris (2024, "MultiTASC++"); the update is a plain integral controller, and pooled by class.

    Examples
    --------
    >>> from escalade.policies.feedback import Telemetry
    >>> policy = SloController(threshold=0.8, target=0.95, step=1.0)
    >>> hundred = np.array([100, 100])
    >>> policy.retune(Telemetry(5.0, 5.0, np.arange(2), np.arange(2), hundred, np.array([100, 80]), hundred))
    >>> policy.thresholds
    {0: 0.8500000238418579, 1: 0.6500000357627869}
    >>> policy.decide(Batch.of([0.8, 0.8, 0.8], device=[0, 1, 2])).action.tolist()
    [1, 0, 0]
    """

    def __init__(
        self,
        threshold: float = 0.8,
        target: float = 0.95,
        step: float = 0.2,
        low: float = 0.0,
        high: float = 1.0,
        pool: float = 20.0,
    ) -> None:
        if not 0.0 < target < 1.0:
            raise ValueError(f"target must be above 0 and below 1, got {target}")
        if not -inf < low <= threshold <= high < inf:
            raise ValueError(f"low <= threshold <= high must hold, got {low}, {threshold}, {high}")
        if not (0.0 < step < inf and 0.0 <= pool < inf):
            raise ValueError("step must be above 0 and pool 0 or more")
        self.target, self.step = float(target), float(step)
        self.low, self.high, self.pool = float(low), float(high), float(pool)
        self._start = max(float(np.float32(threshold)), _LOWEST)
        self._limits: dict[int, float] = {}
        self._sort()

    @property
    def thresholds(self) -> dict[int, float]:
        """Each known device's threshold, a float32 value."""
        return dict(self._limits)

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with its device's threshold."""
        return Decisions.of(np.where(batch.score >= self._of(batch.device), np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with its device's threshold."""
        return _ACCEPT if score >= self._limits.get(context.device, self._start) else _ESCALATE

    def retune(self, telemetry: Telemetry) -> None:
        """Move the threshold of every device that answered anything in the interval."""
        active = telemetry.answered > 0
        device, kind = telemetry.device[active], telemetry.device_class[active]
        answered = telemetry.answered[active].astype(np.float64)
        in_time = np.minimum(telemetry.in_time[active], answered)
        if not len(device):
            return
        _, member = np.unique(kind, return_inverse=True)
        of_class = np.bincount(member, in_time) / np.bincount(member, answered)
        own = answered / (answered + self.pool)
        share = own * (in_time / answered) + (1.0 - own) * of_class[member]
        move = self.step * (share - self.target)
        limits = np.clip(self._of(device).astype(np.float64) + move, self.low, self.high).astype(np.float32)
        self._limits.update(zip(device.tolist(), np.maximum(limits, _LOWEST).tolist(), strict=True))
        self._sort()

    def state_dict(self) -> dict[str, Any]:
        """Return the known devices and their thresholds."""
        return {"device": self._devices.copy(), "threshold": self._values.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over thresholds; ValueError if the state holds none, or one out of range."""
        if sorted(state) != sorted(_ENTRIES):
            raise ValueError(f"thresholds of devices have the entries {', '.join(_ENTRIES)}, got {sorted(state)}")
        device, limit = np.asarray(state["device"]), np.asarray(state["threshold"], np.float32)
        if device.ndim != 1 or device.shape != limit.shape or device.dtype.kind not in "iu":
            raise ValueError("device must be a column of whole numbers, threshold one of the same length")
        if not np.all((limit >= np.float32(self.low)) & (limit <= np.float32(self.high))):
            raise ValueError(f"a threshold is outside [{self.low:g}, {self.high:g}], this policy's range")
        self._limits = dict(zip(device.tolist(), limit.tolist(), strict=True))
        self._sort()

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the score and the device's threshold."""
        return {"score": score, "threshold": self._limits.get(context.device, self._start), "device": context.device}

    def _of(self, device: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(self._devices):
            return np.full(len(device), self._start, np.float32)
        place = np.minimum(np.searchsorted(self._devices, device), len(self._devices) - 1)
        return np.where(self._devices[place] == device, self._values[place], np.float32(self._start))

    def _sort(self) -> None:
        known = sorted(self._limits.items())
        self._devices = np.array([device for device, _ in known], np.int64)
        self._values = np.array([limit for _, limit in known], np.float32)

    def __repr__(self) -> str:
        return f"SloController(target={self.target:g}, devices={len(self._limits)})"
