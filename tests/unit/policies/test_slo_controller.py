"""The slow loop holds the latency objective of a fleet whose upper tier saturates, for every class of device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import Batch, Context, Policy, SloController, Telemetry, Threshold

DEVICES, CLASSES = 60, 3
SLO_MS = np.array([60.0, 90.0, 150.0])  # the classes' objectives
SKILL = np.array([1.2, 2.0, 3.5])  # how sure their models are: Beta(skill, 1)
UP_MS = 30.0


def telemetry(answered: list[int], in_time: list[int], kind: list[int] | None = None) -> Telemetry:
    count = len(answered)
    kinds = np.array(kind or [0] * count)
    return Telemetry(
        1.0, 1.0, np.arange(count), kinds, np.array(answered), np.array(in_time), np.zeros(count, np.int64)
    )


def simulate(policy: Policy, capacity: list[float], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run a fleet against one queue; give in-time shares ``[T, CLASSES]`` and escalated shares ``[T]`` by interval.

    Every interval of 2 s each device sees about 40 inputs. The tier above serves `capacity[t]` inputs an
    interval in order of arrival; what does not fit waits, and an input escalated is in time when the wait, the way
    and the service are within the objective of its class.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(DEVICES) % CLASSES
    backlog, shares, escalated = 0.0, [], []
    for served in capacity:
        count = rng.poisson(40, DEVICES)
        device = np.repeat(np.arange(DEVICES), count)
        when = rng.random(len(device)) * 2000
        order = np.argsort(when)
        device, when = device[order], when[order]
        score = rng.beta(SKILL[kind[device]], 1.0).astype(np.float32)
        up = policy.decide(Batch.of(score, device=device)).action == 1
        per_ms = served / 2000
        arrivals = when[up]
        free = backlog / per_ms  # when the queue is through with what waits
        done = np.empty(len(arrivals))
        for row, arrival in enumerate(arrivals.tolist()):
            free = max(free, arrival) + 1 / per_ms
            done[row] = free
        took = np.full(len(device), 5.0)
        took[up] = 5.0 + UP_MS + done - arrivals
        backlog = min(max(free - 2000, 0.0) * per_ms, 2 * served)  # the queue is bounded
        in_time = np.bincount(device, took <= SLO_MS[kind[device]], DEVICES).astype(np.int64)
        policy.retune(
            Telemetry(
                0.0,
                2.0,
                np.arange(DEVICES),
                kind,
                count.astype(np.int64),
                in_time,
                np.bincount(device, up).astype(np.int64),
            )
        )
        shares.append(np.bincount(kind, in_time) / np.bincount(kind, count))
        escalated.append(up.mean())
    return np.array(shares), np.array(escalated)


def test_the_objective_holds_again_after_the_tier_above_saturates() -> None:
    """With capacity cut to a quarter the share in time recovers to the target within 40 intervals, and stays."""
    capacity = [2400.0] * 100 + [500.0] * 200
    shares, escalated = simulate(SloController(0.8, target=0.95), capacity)
    fixed, _ = simulate(Threshold(0.8), capacity)
    assert fixed[150:].mean() < 0.6  # what happens without a controller
    assert shares[60:100].mean() > 0.94
    settled = shares[140:]
    assert settled.mean() > 0.94
    assert escalated[140:].mean() > 0.5 * 500 / 2400  # and it does not simply stop asking


def test_classes_of_devices_fare_alike() -> None:
    """Classes whose models and objectives differ are in time within two points of each other, once settled."""
    shares, _ = simulate(SloController(0.8, target=0.95), [500.0] * 300)
    of_class = shares[100:].mean(axis=0)
    fixed, _ = simulate(Threshold(0.8), [500.0] * 300)
    assert np.ptp(fixed[100:].mean(axis=0)) > 0.1
    assert np.ptp(of_class) < 0.02


def test_thresholds_rise_again_when_there_is_room() -> None:
    """After the capacity returns the fleet escalates as much as before."""
    _, escalated = simulate(SloController(0.8, target=0.95), [2400.0] * 80 + [400.0] * 80 + [2400.0] * 120)
    assert escalated[260:].mean() > 0.9 * escalated[40:80].mean()


def test_a_device_below_the_target_escalates_less_and_one_above_more() -> None:
    """The threshold moves down by the lack and up by the surplus, within its range."""
    policy = SloController(0.5, target=0.9, step=0.2, pool=0)
    policy.retune(telemetry([100, 100, 100], [0, 100, 90], [0, 1, 2]))
    assert policy.thresholds == {0: np.float32(0.32), 1: np.float32(0.52), 2: np.float32(0.5)}
    for _ in range(100):
        policy.retune(telemetry([100, 100, 0], [0, 100, 0], [0, 1, 2]))
    assert policy.thresholds == {0: 0.0, 1: 1.0, 2: 0.5}


def test_a_device_with_few_inputs_follows_its_class() -> None:
    """One late input of one does not count as much as its class's hundreds."""
    policy = SloController(0.5, target=0.9, step=0.2, pool=20)
    policy.retune(telemetry([1, 1000], [0, 1000]))
    assert policy.thresholds[0] > 0.5


def test_a_device_that_nothing_is_known_of_has_the_first_threshold() -> None:
    """Devices may have any numbers; each finds its own, in arrays and alone."""
    policy = SloController(0.5)
    policy.load_state_dict({"device": np.array([7, -3, 10**12]), "threshold": np.array([0.1, 0.9, 0.3], np.float32)})
    device = np.array([7, -3, 10**12, 8, 0])
    assert policy.decide(Batch.of(np.full(5, 0.4), device=device)).action.tolist() == [0, 1, 0, 1, 1]
    assert [policy.decide_one(0.4, Context(device=int(one))) for one in device] == [0, 1, 0, 1, 1]


def test_an_interval_without_inputs_changes_nothing() -> None:
    """No input says nothing of the objective."""
    policy = SloController(0.5)
    policy.retune(telemetry([0, 0], [0, 0]))
    policy.retune(telemetry([], []))
    assert policy.thresholds == {}


@pytest.mark.parametrize(
    "state",
    [
        {"device": np.array([1])},
        {"device": np.array([1]), "threshold": np.array([2.0])},
        {"device": np.array([1]), "threshold": np.array([np.nan])},
        {"device": np.array([1.5]), "threshold": np.array([0.5])},
    ],
)
def test_thresholds_that_are_none_are_refused(state: dict[str, Any]) -> None:
    """Columns missing or values out of range raise ValueError."""
    with pytest.raises(ValueError, match=r"threshold|device"):
        SloController(0.5).load_state_dict(state)


@pytest.mark.parametrize("parameters", [{"target": 1.0}, {"threshold": 2.0}, {"step": 0.0}, {"pool": -1.0}])
def test_wrong_parameters_are_refused(parameters: dict[str, float]) -> None:
    """A number out of range raises ValueError."""
    with pytest.raises(ValueError, match="must"):
        SloController(**parameters)
