"""A good history, written by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from escalade.tiers.testing.chaos.history import Answered, Corrected, Effect, Fault, Given, History, Request, Streamed
from escalade.tiers.testing.chaos.rules import Rules

TIERS = ("endpoint", "edge_node", "edge_server")
FROZEN = Fault("freeze", "edge_server", 5.0, 10.0)


def posterior(tier: str, number: int) -> NDArray[np.float32]:
    one = np.full(4, 0.1, np.float32)
    one[(number + TIERS.index(tier)) % 4] = 0.7
    return one


RULES = Rules(posterior, local_s=0.001, budget_s=0.4, allowance_s=0.1)


def given(tier: str, number: int) -> Given:
    values = posterior(tier, number)
    return Given(int(values.argmax()), tier, tuple(values.tolist()))


def sent(number: int) -> Request:
    return Request(f"r{number}", f"cam-{number % 2}", "normal" if number % 3 else "critical", number, number / 10)


def good(until_s: float = 20.0) -> History:
    """A server freezes; it is waited for at first, then not; what was kept is corrected when it is back."""
    history = History(faults=[FROZEN])
    for number in range(int(until_s * 10)):
        request = sent(number)
        history.requests.append(request)
        dead = FROZEN.start_s <= request.sent_s < FROZEN.stop_s + 1.0
        if not dead:
            answer = Answered(request.id, request.sent_s + 0.05, given("edge_server", number), False, "", TIERS, "")
        else:
            took_s = 0.4 if request.sent_s < FROZEN.start_s + 0.5 else 0.01
            reason, kept = "timeout" if took_s > 0.1 else "circuit_open", f"item-{number}"
            answer = Answered(
                request.id, request.sent_s + took_s, given("edge_node", number), True, reason, TIERS[:2], kept
            )
            correct(history, answer)
        history.answers.append(answer)
    return history


def correct(history: History, answer: Answered) -> None:
    number = int(answer.id[1:])
    device, new = sent(number).device, given("edge_server", number)
    history.corrections.append(
        Corrected(len(history.corrections) + 1, device, answer.kept, answer.id, answer.given, new, 3.0)
    )
    history.streamed.append(Streamed(len(history.corrections), device, answer.kept))
    history.effects.append(Effect("edge_server", device, answer.kept))
