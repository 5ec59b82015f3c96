"""What is known of a link, from what calls and probes come to."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from escalade.tiers.breaker import Breaker, Circuit
from escalade.tiers.link_state import STATES, LinkState

FAILURES, WAIT_S, MAX_WAIT_S = 3, 0.5, 2.0
ALIVE = ("overloaded", "rejected", "bad_answer")


def link() -> LinkState:
    return LinkState(Breaker(failures=FAILURES, wait_s=WAIT_S, max_wait_s=MAX_WAIT_S, uniform=lambda: 0.0))


@pytest.mark.parametrize(
    ("reason", "state"),
    [("timeout", "frozen"), ("unavailable", "refused"), *((reason, "up") for reason in ALIVE)],
)
def test_a_failed_call_says_whether_the_peer_is_there(reason: str, state: str) -> None:
    """One that gives no answer or cannot be reached may be gone; one that refuses is alive."""
    known = link()
    known.answered(1.0, 0.01)
    known.failed(reason, 3.0, given_s=1.0)
    facts = known.facts("a:1", 0.0, None, 3.0)
    assert (facts.state, facts.reason) == (state, reason)
    assert facts.since == (1.0 if state == "up" else 3.0)


@pytest.mark.parametrize("outcome", ["timeout", "unavailable"])
def test_an_unanswered_probe_keeps_calls_away_until_one_is_answered(outcome: str) -> None:
    """No request is spent on finding out what the probes know; the first after the recovery passes at once."""
    known, now = link(), 1.0
    known.answered(now, 0.01)
    for now in range(2, 20):
        known.probed(outcome, now)
        assert not known.breaker.ready(now + 1.0)
    assert known.since == 2
    assert known.probed("ok", 20.0)
    assert (known.state, known.since) == ("up", 20.0)
    assert known.breaker.allows(20.0)
    assert not known.breaker.allows(20.0)
    known.answered(20.1, 0.01)
    assert known.breaker.state is Circuit.CLOSED


def test_a_peer_that_answers_probes_but_no_calls_is_kept_out() -> None:
    """Probes that are answered all the time never shorten the breaker's wait."""
    known, now, passed = link(), 0.0, []
    known.answered(now, 0.01)
    for _ in range(FAILURES):
        now += 1.0
        known.failed("timeout", now, given_s=1.0)
    while now < 30:
        now += 0.25
        known.probed("ok", now)
        if known.breaker.allows(now):
            passed.append(now)
            known.failed("timeout", now, given_s=1.0)
    gaps = [later - earlier for earlier, later in pairwise(passed[2:])]
    assert gaps
    assert min(gaps) >= MAX_WAIT_S
    assert known.reason == "timeout"


def test_a_call_that_was_late_while_others_were_answered_is_no_sign_of_a_frozen_peer() -> None:
    """Nor is one that was given less time than answers take."""
    known = link()
    known.answered(5.0, 0.1)
    known.failed("timeout", 5.5, given_s=1.0)
    known.failed("timeout", 6.0, given_s=0.05)
    assert known.state == "up"
    known.failed("timeout", 7.0, given_s=1.0)
    assert (known.state, known.since) == ("frozen", 7.0)


def test_a_frozen_peer_whose_connection_is_given_up_is_still_frozen() -> None:
    """A call that finds no connection does not say why; a probe does."""
    known = link()
    known.answered(1.0, 0.01)
    known.probed("timeout", 3.0)
    known.failed("unavailable", 4.0, given_s=1.0)
    assert (known.state, known.since) == ("frozen", 3.0)
    known.probed("unavailable", 5.0)
    assert (known.state, known.since) == ("refused", 5.0)


def test_a_failure_that_is_tried_again_is_not_held_against_the_peer() -> None:
    """Counted, but the breaker judges by the second try; a link that is in trouble is not trusted with one."""
    known = link()
    for _ in range(2 * FAILURES):
        assert known.trusted
        known.failed("unavailable", 1.0, given_s=1.0, again=True)
    assert (known.retries, known.calls["unavailable"]) == (2 * FAILURES, 2 * FAILURES)
    known.failed("unavailable", 1.0, given_s=1.0)
    assert not known.trusted
    known.answered(2.0, 0.01)
    assert known.trusted
    known.probed("unavailable", 3.0)
    known.probed("ok", 4.0)
    assert known.state == "up"
    assert not known.trusted  # the breaker still wants to see a call answered


def test_only_what_changes_is_news() -> None:
    """A dead link is one line in the log, and so is its return."""
    known = link()
    told = [known.answered(1.0, 0.01), known.failed("timeout", 2.0, 1.0), known.failed("unavailable", 3.0, 1.0)]
    told += [known.probed("timeout", 4.0), known.probed("ok", 5.0), known.probed("ok", 6.0), known.answered(7.0, 0.01)]
    assert told == [False, True, False, False, True, False, False]


def test_latency_and_load_are_recent() -> None:
    """The first time as it is, later ones by a tenth; a word on load is forgotten after a second without another."""
    known = link()
    assert known.facts("a:1", 0.0, None, 0.0).latency_ms != known.facts("a:1", 0.0, None, 0.0).latency_ms
    known.answered(1.0, 0.1)
    known.answered(2.0, 0.2)
    facts = known.facts("a:1", 0.7, "critical", 2.5)
    assert facts.latency_ms == pytest.approx(110)
    assert (facts.load, facts.only) == (0.7, "critical")
    known.probed("ok", 3.2)
    assert known.facts("a:1", 0.7, None, 3.5).load == 0


class Events(RuleBasedStateMachine):
    """Calls and probes of a link, ending in any order and any way."""

    def __init__(self) -> None:
        super().__init__()
        self.link, self.now, self.under_way = link(), 0.0, 0

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_is_made(self) -> None:
        ready = self.link.breaker.ready(self.now)
        assert self.link.breaker.allows(self.now) == ready
        self.under_way += ready

    @precondition(lambda self: self.under_way)
    @rule(reason=st.sampled_from(["ok", "gave up", "timeout", "unavailable", *ALIVE]), given_s=st.floats(0.001, 2))
    def a_call_ends(self, reason: str, given_s: float) -> None:
        self.under_way -= 1
        if reason == "gave up":
            self.link.breaker.abandoned(self.now)
        elif reason == "ok":
            self.link.answered(self.now, given_s)
        else:
            self.link.failed(reason, self.now, given_s)
        if reason in ("ok", *ALIVE):
            assert (self.link.state, self.link.breaker.state) == ("up", Circuit.CLOSED)

    @rule(outcome=st.sampled_from(["ok", "rejected", "timeout", "unavailable"]))
    def a_probe_ends(self, outcome: str) -> None:
        before = self.link.breaker.state
        self.link.probed(outcome, self.now)
        alive = outcome in ("ok", "rejected")
        assert (self.link.state == "up") == alive
        if not alive and before is not Circuit.HALF_OPEN:
            assert not self.link.breaker.ready(self.now)
        if alive:  # it may say that the peer is there, never that it works
            assert (self.link.breaker.state is Circuit.CLOSED) == (before is Circuit.CLOSED)

    @invariant()
    def it_never_locks_up(self) -> None:
        """When no call is under way, one is let through after the longest wait, at the latest."""
        if not self.under_way:
            assert self.link.breaker.state is not Circuit.HALF_OPEN
            assert self.link.breaker.ready(self.now + MAX_WAIT_S)

    @invariant()
    def the_state_is_dated(self) -> None:
        assert self.link.state in STATES
        assert (self.link.since is None) == (self.link.state == "unknown")
        assert self.link.since is None or self.link.since <= self.now


TestEvents = Events.TestCase
