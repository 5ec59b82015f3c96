"""What telemetry is told of outcomes that become known in later control intervals."""

from __future__ import annotations

import numpy as np

from escalade.simulations.fleet import parse_scenario
from escalade.simulations.fleet.compiled import World
from escalade.simulations.fleet.learning import Mailbox
from escalade.simulations.fleet.rows import OUTCOME, Outcome

INTERVAL = 1_000_000_000


def test_an_outcome_is_told_with_the_interval_in_which_it_is_known() -> None:
    """Of one device's two answers, the late one known two intervals on, each interval's telemetry has its own."""
    sensor = {"name": "sensor", "count": 3, "arrivals": {"kind": "poisson", "rate_hz": 1.0}}
    world = World.of(parse_scenario({"endpoints": [sensor], "control": {"interval_s": 1}}))
    rows = np.zeros((2, OUTCOME), np.int64)
    rows[:, Outcome.UNIT], rows[:, Outcome.ANSWERED] = 1, 1
    rows[:, Outcome.KNOWN], rows[:, Outcome.IN_TIME] = [0, 2 * INTERVAL], [0, 1]
    mail = Mailbox(world)
    mail.put([], [rows])
    told = []
    for number in (1, 2, 3):
        heard = next(one for one in list(mail.telemetry(number * INTERVAL, INTERVAL, (0.0, 0.0), [True, False])) if one)
        told.append((heard[0].answered.tolist(), heard[0].in_time.tolist()))
    assert told == [([0, 1, 0], [0, 0, 0]), ([0, 0, 0], [0, 0, 0]), ([0, 1, 0], [0, 1, 0])]
