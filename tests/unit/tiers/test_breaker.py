"""The circuit breaker as a state machine, and its promises one by one."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from escalade.tiers.breaker import Breaker, Circuit

FAILURES, WAIT_S, MAX_WAIT_S = 3, 1.0, 4.0


def breaker(uniform: float = 0.0) -> Breaker:
    return Breaker(failures=FAILURES, wait_s=WAIT_S, max_wait_s=MAX_WAIT_S, uniform=lambda: uniform)


def opened(now: float = 0.0) -> Breaker:
    made = breaker()
    for _ in range(FAILURES):
        assert made.allows(now)
        made.failed(now)
    assert made.state is Circuit.OPEN
    return made


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    """One answer in between and the count begins anew."""
    made = breaker()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            made.failed(0.0)
        made.succeeded(0.0, 0.01)
    assert made.state is Circuit.CLOSED


def test_a_peer_that_refuses_is_alive() -> None:
    """An answer without a time closes it, and says nothing about how long answers take."""
    made = opened()
    assert made.allows(WAIT_S)
    made.succeeded(WAIT_S)
    assert made.state.value == "closed"
    for _ in range(FAILURES):
        made.failed(2.0, waited_s=1e-6)
    assert made.state.value == "open"


def test_waits_double_up_to_the_most_and_start_small_again_after_an_answer() -> None:
    """1, 2, 4, 4 seconds; then 1 again."""
    made, now, waits = opened(), 0.0, []
    for _ in range(4):
        start = now
        while not made.allows(now):
            now += 0.25
        waits.append(now - start)
        made.failed(now)
    assert waits == [1.0, 2.0, 4.0, 4.0]
    while not made.allows(now):
        now += 0.25
    made.succeeded(now, 0.01)
    for _ in range(FAILURES):
        made.failed(now)
    assert not made.allows(now + 0.99)
    assert made.allows(now + 1.0)


def test_hurried_callers_do_not_open_it_for_others() -> None:
    """Timeouts of calls that had less time than answers take prove nothing; long ones do."""
    made = breaker()
    made.succeeded(0.0, elapsed_s=0.1)
    for _ in range(10):
        made.failed(0.0, waited_s=0.05)
    assert made.state.value == "closed"
    for _ in range(FAILURES):
        made.failed(0.0, waited_s=0.5)
    assert made.state.value == "open"


def test_many_tiers_below_one_server_do_not_probe_it_at_once() -> None:
    """The wait is shortened by chance, by at most a quarter."""
    early = Breaker(failures=1, wait_s=WAIT_S, max_wait_s=MAX_WAIT_S, uniform=lambda: 0.999)
    early.failed(0.0)
    assert not early.allows(0.74)
    assert early.allows(0.76)


def test_a_silent_peer_is_left_alone_as_long_as_it_is_said_to_be_silent() -> None:
    """Then for the longest wait, unless it is said to be awake: the next call passes, and it alone."""
    made = breaker()
    for now in (0.0, 2.0, 4.0):
        made.silent(now)
        assert not made.allows(now + MAX_WAIT_S - 0.1)
    assert (made.state, made.since) == (Circuit.OPEN, 0.0)
    made.awake(5.0)
    assert made.ready(5.0)
    assert [made.allows(5.0), made.allows(5.0)] == [True, False]
    made.failed(5.1)
    assert not made.allows(5.1 + WAIT_S / 2)


def test_who_is_awake_does_not_work_for_that() -> None:
    """Being awake closes nothing; being silent does not judge a call that is under way."""
    made = opened()
    made.awake(0.1)
    assert made.state.value == "open"
    assert made.allows(0.1)
    made.silent(0.2)
    assert made.state.value == "half_open"
    made.succeeded(0.3, 0.1)
    assert [made.allows(0.3), made.allows(0.3)] == [True, True]


class Calls(RuleBasedStateMachine):
    """Any calls, ending in any order and any way, some long after the state has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now = breaker(), 0.0
        self.under_way = 0
        self.quiet_since: float | None = None

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(silent=st.booleans())
    def a_probe_ends(self, silent: bool) -> None:
        if silent:
            self.breaker.silent(self.now)
            assert not self.breaker.ready(self.now)
        else:
            self.breaker.awake(self.now)

    @rule()
    def a_call_is_wanted(self) -> None:
        before = self.breaker.state
        if self.breaker.allows(self.now):
            self.under_way += 1
            assert before is not Circuit.HALF_OPEN
        else:
            assert before is not Circuit.CLOSED

    @precondition(lambda self: self.under_way)
    @rule(how=st.sampled_from(["ok", "refused", "failed", "late", "abandoned"]))
    def a_call_ends(self, how: str) -> None:
        self.under_way -= 1
        if how == "ok":
            self.breaker.succeeded(self.now, 0.01)
        elif how == "refused":
            self.breaker.succeeded(self.now)
        elif how == "failed":
            self.breaker.failed(self.now)
        elif how == "late":
            self.breaker.failed(self.now, waited_s=1.0)
        else:
            self.breaker.abandoned(self.now)
        if how in ("ok", "refused"):
            assert self.breaker.state is Circuit.CLOSED

    @invariant()
    def it_never_locks_up(self) -> None:
        """When no call is under way, one is let through after the longest wait, at the latest."""
        if not self.under_way:
            assert self.breaker.state is not Circuit.HALF_OPEN
            state, until = self.breaker.state, self.now + MAX_WAIT_S
            assert state is Circuit.CLOSED or self.breaker._until <= until


TestCalls = Calls.TestCase
