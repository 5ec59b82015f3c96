"""What became of the inputs that were kept: corrected once, rightly, in order, with one effect."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from escalade.tiers.testing.chaos.kinds import TIERS
from escalade.tiers.testing.chaos.rules import TOLERANCE, Rules, Violation, mismatch

if TYPE_CHECKING:
    from escalade.tiers.testing.chaos.history import Answered, Corrected, Given, History, Request


def corrections(history: History, rules: Rules) -> list[Violation]:
    """Return what is wrong with the corrections: missing, repeated, or not of this answer."""
    requests = {request.id: request for request in history.requests}
    answers = {answer.id: answer for answer in history.answers}
    counts = Counter((one.device, one.item) for one in history.corrections)
    found = [
        Violation("lost", f"item {answer.kept!r} was acknowledged and has no correction", (answer.id,))
        for answer in history.answers
        if answer.kept and (requests[answer.id].device, answer.kept) not in counts
    ]
    for one in history.corrections:
        number = counts.pop((one.device, one.item), 1)  # said once
        if number > 1:
            found.append(Violation("corrected_twice", f"{number} corrections of {one.item!r}", (one.request_id,)))
        request = requests.get(one.request_id)
        wrong = _wrong(one, request, answers.get(one.request_id), rules)
        found += [Violation("wrong_correction", f"of {one.item!r}: {text}", (one.request_id,)) for text in wrong]
    return found


def subscription(history: History) -> list[Violation]:
    """Return how the stream of corrections differs from the file, and what was promised and is missing in it."""
    told = [(one.seq, one.device, one.item) for one in history.streamed]
    written = [(one.seq, one.device, one.item) for one in history.corrections]
    found = []
    if told != written[: len(told)]:
        place = next(n for n, one in enumerate(told) if written[n : n + 1] != [one])
        found.append(Violation("stream", f"it differs from the file at {told[place]}"))
    items = {item for _, _, item in told}
    missed = [answer for answer in history.answers if answer.kept and answer.kept not in items]
    if missed:
        text = f"{len(missed)} kept items were never told to the subscriber"
        found.append(Violation("stream", text, tuple(answer.id for answer in missed)))
    return found


def _wrong(one: Corrected, request: Request | None, answer: Answered | None, rules: Rules) -> list[str]:
    if request is None:
        return [f"there was no request {one.request_id!r}"]
    found = []
    if one.device != request.device:
        found.append(f"its device is {one.device!r}; the input came from {request.device!r}")
    if answer and answer.kept and answer.kept != one.item:
        found.append(f"the answer said it is kept as {answer.kept!r}")
    if answer and not _same(one.old, answer.given):
        found.append(f"the old answer is {one.old}; given was {answer.given}")
    texts = (mismatch(given, rules.model(given.tier, request.number)) for given in (one.old, one.new))
    found += filter(None, texts)
    if TIERS.index(one.new.tier) <= TIERS.index(one.old.tier):
        found.append(f"the {one.new.tier} corrects the {one.old.tier}")
    return found


def _same(one: Given, other: Given) -> bool:
    return one[:2] == other[:2] and np.allclose(one.posterior, other.posterior, atol=TOLERANCE)


def effects(history: History) -> list[Violation]:
    """Return effects that came twice, out of order, or not at all."""
    found = []
    by_tier: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for effect in history.effects:
        by_tier[effect.tier].append((effect.device, effect.item))
    for tier, keys in by_tier.items():
        found += [
            Violation("duplicate_effect", f"{device}/{item} had its effect at the {tier} {number} times")
            for (device, item), number in Counter(keys).items()
            if number > 1
        ]
        found += _disorder(history, tier, keys)
    found += [
        Violation("no_effect", f"{one.item!r} was corrected by the {one.new.tier}, which knows nothing of it")
        for one in history.corrections
        if one.new.tier in by_tier and (one.device, one.item) not in set(by_tier[one.new.tier])
    ]
    return found


def _disorder(history: History, tier: str, keys: list[tuple[str, str]]) -> list[Violation]:
    """Return items that overtook one acknowledged before they were sent; each lane says it once."""
    requests = {request.id: request for request in history.requests}
    kept = {(requests[answer.id].device, answer.kept): answer for answer in history.answers if answer.kept}
    latest: dict[tuple[str, str], tuple[float, str]] = {}
    found: dict[tuple[str, str], Violation] = {}
    for key in dict.fromkeys(keys):  # the first effect of each
        if (answer := kept.get(key)) is None:
            continue
        request = requests[answer.id]
        lane = request.device, request.priority
        sent_s, other = latest.get(lane, (float("-inf"), ""))
        if answer.at_s < sent_s and lane not in found:
            text = f"at the {tier} {other!r} came before {key[1]!r} of the same device and priority"
            found[lane] = Violation("order", text, (answer.id,))
        latest[lane] = max((sent_s, other), (request.sent_s, key[1]))
    return list(found.values())
