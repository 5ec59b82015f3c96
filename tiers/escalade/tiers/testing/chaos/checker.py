"""The history checker: every promise, held against everything that was seen. A pure function.

1. *In time*: every accepted input is answered, within `Rules.bound_s`, by the model of the tier that the answer names,
   and says why when it is degraded.
2. *Nothing lost*: every input that an answer said is kept has a correction in the end.
3. *No effect twice*: no item had its effect twice at one tier; what a tier above corrected had its effect there.
4. *In order*: of two items of one device and priority, of which the first was acknowledged before the second was sent,
   the first has its effect first.
5. *Corrections match*: one each, to the answer that was given, with what the upper tier's model says.
   Whoever reads them from the file and whoever subscribes to the stream is told the same.
6. *Noticed*: a silent peer is noticed within `Rules.notice_s`, costs no second in which more than a few requests wait
   for it in vain once `Rules.spare_s` are over, and answers again within `Rules.recover_s` of healing.

An input is *accepted* unless the endpoint refused it for its load, or did not run: it was killed or stopped while the
request was under way, or the caller's own channel had not found it again.
"""

from __future__ import annotations

from escalade.tiers.testing.chaos.history import Answered, Failed, Fault, History, Request
from escalade.tiers.testing.chaos.kept import corrections, effects, subscription
from escalade.tiers.testing.chaos.kinds import DOWN
from escalade.tiers.testing.chaos.rules import Rules, Violation, mismatch
from escalade.tiers.testing.chaos.timing import episodes, noticed, recovered

REFUSED, UNREACHED = "OverloadedError", "UnavailableError"


def check(history: History, rules: Rules) -> list[Violation]:
    """Return every violation; none means that the run kept all promises."""
    return [
        *_answers(history, rules),
        *corrections(history, rules),
        *subscription(history),
        *effects(history),
        *_noticed(history, rules),
    ]


def accepted(history: History, rules: Rules) -> list[tuple[Request, Answered | Failed | None]]:
    """Return the requests that must be answered in time, with what came of them."""
    ends: dict[str, Answered | Failed] = {end.id: end for end in history.failures}
    ends |= {end.id: end for end in history.answers}
    down = [fault for fault in history.faults if fault.kind in DOWN and fault.target == "endpoint"]
    return [
        (request, end)
        for request in history.requests
        if not _refused(end := ends.get(request.id)) and not any(_missed(request, end, fault, rules) for fault in down)
    ]


def _refused(end: Answered | Failed | None) -> bool:
    return isinstance(end, Failed) and end.error == REFUSED


def _missed(request: Request, end: Answered | Failed | None, fault: Fault, rules: Rules) -> bool:
    """Whether the endpoint was down while the request was under way, or not found again yet."""
    if fault.start_s - rules.bound_s <= request.sent_s <= fault.stop_s:
        return True
    again_s = fault.stop_s + rules.reconnect_s
    return isinstance(end, Failed) and end.error == UNREACHED and fault.stop_s <= request.sent_s <= again_s


def _answers(history: History, rules: Rules) -> list[Violation]:
    found = []
    for request, end in accepted(history, rules):
        if not isinstance(end, Answered):
            why = f"{end.error}: {end.text}" if end else "nothing came"
            found.append(Violation("unanswered", f"sent at {request.sent_s:.2f} s: {why}", (request.id,)))
            continue
        took_s = end.at_s - request.sent_s
        stalled_s = sum(stall.late_s for stall in history.stalls if request.sent_s <= stall.at_s <= end.at_s)
        if took_s > rules.bound_s + stalled_s:
            text = f"sent at {request.sent_s:.2f} s, answered after {took_s * 1e3:.0f} ms by the {end.given.tier}"
            found.append(Violation("late", f"{text} ({end.reason or 'not degraded'})", (request.id,)))
        if wrong := mismatch(end.given, rules.model(end.given.tier, request.number)):
            found.append(Violation("wrong_answer", wrong, (request.id,)))
        if end.degraded and not end.reason:
            found.append(Violation("no_reason", "degraded, and does not say why", (request.id,)))
    return found


def _noticed(history: History, rules: Rules) -> list[Violation]:
    found = []
    for episode in episodes(history.faults):
        fault, notice = episode.faults[0], noticed(history, episode, rules)
        what = f"{fault.kind} {fault.target} at {fault.start_s:.1f} s"
        if notice and notice.after_s > rules.notice_s:
            found.append(Violation("unnoticed", f"{what}: not for {notice.after_s:.1f} s"))
        if notice and notice.waited:
            text = f"{what}: {len(notice.waited)} seconds in which requests waited for it in vain"
            found.append(Violation("waited", text, sum(notice.waited, ())))
        if (recovery := recovered(history, episode, rules)) and recovery.after_s > rules.recover_s:
            text = f"nothing from the {recovery.tier} for {recovery.after_s:.1f} s after {episode.stop_s:.1f} s"
            found.append(Violation("no_recovery", text))
    return found
