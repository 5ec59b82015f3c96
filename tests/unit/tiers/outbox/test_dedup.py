"""The deduplication window as a state machine."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from escalade.tiers.outbox import DedupWindow, Seen

WINDOW_S, MAX_ITEMS = 10.0, 4
KEYS = st.tuples(st.sampled_from("ab"), st.sampled_from("1234"))


class Windows(RuleBasedStateMachine):
    """`model` is what was claimed, oldest first: (key, time, answer)."""

    def __init__(self) -> None:
        super().__init__()
        self.window = DedupWindow[int](window_s=WINDOW_S, max_items=MAX_ITEMS)
        self.model: list[tuple[tuple[str, str], float, int | None]] = []
        self.now = 0.0
        self.window.claim("", "", self.now)
        self.window.release("", "")

    def remembered(self) -> dict[tuple[str, str], int | None]:
        return {key: answer for key, at, answer in self.model if self.now - at < WINDOW_S}

    @rule(key=KEYS, seconds=st.floats(0, 6), back=st.booleans())
    def claim(self, key: tuple[str, str], seconds: float, back: bool) -> None:
        self.now += 0 if back else seconds
        known = self.remembered()
        seen = self.window.claim(*key, self.now - (seconds if back else 0))  # a clock that runs back stands still
        assert seen == (Seen(known[key]) if key in known else None)
        self.model = [entry for entry in self.model if entry[0] in known]
        if seen is None:
            self.model = [*self.model, (key, self.now, None)][-MAX_ITEMS:]

    @rule(key=KEYS, answer=st.integers())
    def answered(self, key: tuple[str, str], answer: int) -> None:
        self.window.answered(*key, answer)
        self.model = [(k, at, answer if k == key else old) for k, at, old in self.model]

    @rule(key=KEYS)
    def release(self, key: tuple[str, str]) -> None:
        self.window.release(*key)
        self.model = [entry for entry in self.model if entry[0] != key]

    @invariant()
    def bounded(self) -> None:
        assert len(self.window) <= MAX_ITEMS


TestWindows = Windows.TestCase


def test_a_window_without_room_or_time_is_refused() -> None:
    """Zero seconds or zero items recognise nothing: a mistake."""
    for wrong in ({"window_s": 0.0}, {"max_items": 0}):
        with pytest.raises(ValueError, match="window"):
            DedupWindow[int](**wrong)
