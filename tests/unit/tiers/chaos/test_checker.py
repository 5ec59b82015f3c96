"""The history checker finds nothing in a good history, and each thing that is wrong in a bad one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from escalade.tiers.testing.chaos.checker import accepted, check
from escalade.tiers.testing.chaos.history import Answered, Failed, Fault, History, Stall

from .histories import FROZEN, RULES, TIERS, given, good, sent


def found(history: History) -> set[str]:
    return {violation.kind for violation in check(history, RULES)}


def kept(history: History, place: int = 20) -> Answered:
    return [answer for answer in history.answers if answer.kept][place]


def test_a_good_history_has_no_violation() -> None:
    """Slow answers within the bound, an outage that is noticed, corrections that match."""
    assert check(good(), RULES) == []


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    """What is read is what was written, and anything else is refused with its line."""
    history = good()
    history.failures.append(Failed("r1", 2.0, "UnavailableError", "no route"))
    history.stalls.append(Stall(1.0, 0.5))
    history.write(tmp_path / "history.jsonl")
    assert History.read(tmp_path / "history.jsonl") == history
    (tmp_path / "other").write_text('{"event": "request"}\n')
    with pytest.raises(ValueError, match="line 1"):
        History.read(tmp_path / "other")


def late(history: History) -> None:
    history.answers[3] = history.answers[3]._replace(at_s=sent(3).sent_s + RULES.bound_s + 0.01)


def unanswered(history: History) -> None:
    history.failures.append(Failed(history.answers.pop(3).id, 1.0, "UnavailableError", "refused"))


def silent(history: History) -> None:
    del history.answers[3]


def of_another_model(history: History) -> None:
    history.answers[3] = history.answers[3]._replace(given=given("edge_server", 4))


def another_label(history: History) -> None:
    history.answers[3] = history.answers[3]._replace(given=history.answers[3].given._replace(label=0))


def without_reason(history: History) -> None:
    history.answers[60] = history.answers[60]._replace(reason="")


def lost(history: History) -> None:
    del history.corrections[20]


def never_told(history: History) -> None:
    del history.streamed[20:]


def told_twice(history: History) -> None:
    history.streamed.append(history.streamed[-1])


def told_something_else(history: History) -> None:
    history.streamed[-1] = history.streamed[-1]._replace(item="item-0")


def twice(history: History) -> None:
    history.corrections.append(history.corrections[20]._replace(seq=99))


def of_nothing(history: History) -> None:
    history.corrections[20] = history.corrections[20]._replace(request_id="r9999")


def old_answer_differs(history: History) -> None:
    history.corrections[20] = history.corrections[20]._replace(old=given("endpoint", 70))


def new_answer_differs(history: History) -> None:
    history.corrections[20] = history.corrections[20]._replace(new=given("edge_server", 71))


def not_from_above(history: History) -> None:
    history.corrections[20] = history.corrections[20]._replace(new=history.corrections[20].old)


def another_device(history: History) -> None:
    one = history.corrections[20]
    history.corrections[20] = one._replace(device="cam-7")
    history.streamed[20] = history.streamed[20]._replace(device="cam-7")
    history.effects[20] = history.effects[20]._replace(device="cam-7")


def two_effects(history: History) -> None:
    history.effects.append(history.effects[20])


def no_effect(history: History) -> None:
    del history.effects[20]


def overtaken(history: History) -> None:
    history.effects.append(history.effects.pop(20))


def never_noticed(history: History) -> None:
    for place, answer in enumerate(history.answers):
        if answer.degraded:
            history.answers[place] = answer._replace(at_s=sent(place).sent_s + 0.4)


def waited_for(history: History) -> None:
    """For one second, by every other request: the breaker does not spare them."""
    for place, answer in enumerate(history.answers):
        if 7.2 <= sent(place).sent_s < 8.2 and place % 2:
            history.answers[place] = answer._replace(at_s=sent(place).sent_s + 0.4)


def never_back(history: History) -> None:
    for place, answer in enumerate(history.answers):
        if sent(place).sent_s >= FROZEN.stop_s:
            number = int(answer.id[1:])
            history.answers[place] = answer._replace(
                given=given("edge_node", number), degraded=True, reason="circuit_open", path=TIERS[:2]
            )


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (late, {"late"}),
        (unanswered, {"unanswered"}),
        (silent, {"unanswered"}),
        (of_another_model, {"wrong_answer"}),
        (another_label, {"wrong_answer"}),
        (without_reason, {"no_reason"}),
        (lost, {"lost", "stream"}),
        (never_told, {"stream"}),
        (told_twice, {"stream"}),
        (told_something_else, {"stream"}),
        (twice, {"corrected_twice"}),
        (of_nothing, {"wrong_correction"}),
        (old_answer_differs, {"wrong_correction"}),
        (new_answer_differs, {"wrong_correction"}),
        (not_from_above, {"wrong_correction"}),
        (another_device, {"wrong_correction", "lost"}),
        (two_effects, {"duplicate_effect"}),
        (no_effect, {"no_effect"}),
        (overtaken, {"order"}),
        (never_noticed, {"unnoticed", "waited"}),
        (waited_for, {"waited"}),
        (never_back, {"no_recovery"}),
    ],
)
def test_each_broken_promise_is_found(spoil: Callable[[History], None], kinds: set[str]) -> None:
    """One change makes a good history bad, and the violation is of that kind and no other."""
    history = good()
    spoil(history)
    assert found(history) == kinds


def test_a_violation_names_its_requests() -> None:
    """So that they are found in the history."""
    history = good()
    answer = kept(history)
    lost(history)
    violation = next(violation for violation in check(history, RULES) if violation.kind == "lost")
    assert violation.requests == (answer.id,)


def test_items_put_at_the_same_time_have_no_order() -> None:
    """Of two requests that were under way together nobody knows which was put first."""
    history = good()
    first, second = kept(history, 20), kept(history, 22)
    place = history.answers.index(first)
    history.answers[place] = first._replace(at_s=sent(int(second.id[1:])).sent_s + 0.01)
    history.effects[20], history.effects[22] = history.effects[22], history.effects[20]
    assert found(history) == set()


def test_other_lanes_may_overtake() -> None:
    """Order is promised within one device and one priority."""
    history = good()
    history.effects.sort(key=lambda effect: sent(int(effect.item.removeprefix("item-"))).priority)
    assert found(history) == set()


def test_what_a_dead_endpoint_did_not_take_need_not_be_answered() -> None:
    """While it is killed, and until its callers' channel has found it again; afterwards everything counts."""
    history = good()
    history.faults.append(Fault("kill", "endpoint", 15.0, 16.0))
    for number in (155, 170):
        history.answers = [answer for answer in history.answers if answer.id != f"r{number}"]
        history.failures.append(Failed(f"r{number}", number / 10, "UnavailableError", "refused"))
    assert found(history) == set()
    assert "r155" not in {request.id for request, _ in accepted(history, RULES)}
    history.answers = [answer for answer in history.answers if answer.id != "r190"]
    history.failures.append(Failed("r190", 19.0, "UnavailableError", "refused"))
    assert found(history) == {"unanswered"}


def test_a_refusal_is_no_acceptance() -> None:
    """An overloaded endpoint says so at once: nothing was promised."""
    history = good()
    history.failures.append(Failed(history.answers.pop(3).id, 1.0, "OverloadedError", "full"))
    assert found(history) == set()


def test_the_recorders_own_lateness_is_not_the_tiers() -> None:
    """An answer that came while the recorder itself was not run is late by as much."""
    history = good()
    late(history)
    history.stalls.append(Stall(sent(3).sent_s + 0.2, 0.05))
    assert found(history) == set()


def test_a_correction_may_come_of_an_answer_that_never_arrived() -> None:
    """The endpoint died between keeping and answering: the item is kept, and was not promised."""
    history = good()
    answer = kept(history)
    history.answers.remove(answer)
    history.faults.append(Fault("kill", "endpoint", sent(int(answer.id[1:])).sent_s, 11.0))
    assert found(history) == set()
