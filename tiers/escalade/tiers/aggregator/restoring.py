"""After a restart: the store's content, back in the window and the rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import structlog

from escalade.tiers.aggregator.event import Event, State

if TYPE_CHECKING:
    from escalade.tiers.aggregator.event import Answer
    from escalade.tiers.aggregator.fusing import Fusing
    from escalade.tiers.aggregator.store import Known, Store
    from escalade.tiers.aggregator.window import Window

log = structlog.get_logger(__name__)


def restore(window: Window, fusing: Fusing, store: Store, now: float) -> list[Answer]:
    """Put back open and correctable events, what was answered and what was learnt; return the answers.

    Observations of nodes that are not expected any more, and of other classes, are left out and logged.
    """
    answers = store.answers()
    last = {answer.event: answer for answer in answers}
    groups: dict[tuple[str, float], list[Known]] = {}
    for known in store.observations():
        groups.setdefault((known.observation.event, known.opened_s), []).append(known)
    places = {name: place for place, name in enumerate(window.nodes)}
    left_out = 0
    live = set()
    for (key, opened_s), group in groups.items():
        event: Event | None = None
        for known in group:
            observation, place = known.observation, places.get(known.observation.node)
            if place is None or len(observation.posterior) != fusing.classes:
                left_out += 1
                continue
            if event is None:
                nodes, classes = len(window.nodes), fusing.classes
                event = Event.first(
                    key, observation, place, nodes=nodes, classes=classes, time_s=known.time_s, now=opened_s
                )
                event.by_keyless = known.keyless
            event.add(observation, place)
        if event is None:
            continue
        answer = last.get(key)
        if answer is not None and answer.opened_s != opened_s:  # of an earlier event of the same key
            answer = None
        if answer is not None:
            event.answer, event.revision, event.guess = answer, answer.revision, answer.label
        window.restore(event, None if answer is None else answer.closed_s, now)
        live.add(key)
    for answer in last.values():
        if answer.event not in live:
            window.remember(_final(answer, len(window.nodes), fusing.classes))
    if left_out:
        log.warning("kept observations do not fit the configuration any more", observations=left_out)
    if live:
        log.info("events from before", events=len(live), open=window.open)
    _restore_learnt(window, fusing, store)
    return answers


def _final(answer: Answer, nodes: int, classes: int) -> Event:
    """Return an event of which only the answer is left."""
    return Event(
        answer.event,
        answer.zone,
        answer.opened_s,
        answer.opened_s,
        0,
        np.zeros(nodes, np.bool_),
        np.zeros((nodes, classes), np.float32),
        ids=dict.fromkeys(answer.reported, ""),
        state=State.FINAL,
        learnt=True,
        revision=answer.revision,
        answer=answer,
    )


def _restore_learnt(window: Window, fusing: Fusing, store: Store) -> None:
    state = store.learnt()
    if state is None:
        return
    if state.get("nodes") != "\n".join(window.nodes):
        log.warning("the nodes have changed: what was learnt about them begins anew")
        return
    for place, counts in state["counts"].items():
        window.counts[int(place)].update(counts)
    if state["classes"] != fusing.classes or state["rule"] != repr(fusing.rule):
        log.warning("rule or classes have changed: what was learnt begins anew")
        return
    try:
        fusing.load_state_dict(state["fusing"])
    except ValueError as error:
        log.warning("what was learnt does not fit: it begins anew", error=str(error))
