"""What a tier knows of one link upward: how it fares, and whether to use it. No clock, no I/O."""

from __future__ import annotations

from math import inf, nan
from typing import Literal, NamedTuple, get_args

from escalade.tiers.breaker import Breaker, Circuit

State = Literal["unknown", "up", "frozen", "refused", "denied"]
STATES: tuple[State, ...] = get_args(State)
"""Not heard of yet; answers; takes what is sent and says nothing; cannot be reached or sends callers away; is not
asked, for its certificate is revoked."""

_LOST: dict[str, State] = {"timeout": "frozen", "unavailable": "refused", "denied": "denied"}
"""The outcomes of a peer that may be gone. All others are words of a living one."""

LOAD_SECONDS = 1.0
"""So long a peer's word on its load is believed: a tier that heeds it and asks less must learn when it is over."""


class LinkFacts(NamedTuple):
    """One link at one moment. Times are in the seconds of the tier's monotonic clock; None: never yet.

    Attributes
    ----------
    state, since:
        One of `STATES`, and when it was entered.
    breaker, breaker_since:
        `closed`, `open` or `half_open`, and when it was entered.
    latency_ms:
        Recent time of an answered call, exponentially weighted over about ten; NaN before the first.
    load:
        What the peer last said of its load, 0 to 1.
    reason, failed_at:
        Why a call or a probe failed the last time, empty when none has; and when.
    calls, retries:
        Calls by outcome; how many of them were second tries.
    only:
        `critical` when the link is kept for such requests; None when it is for all.
    """

    address: str
    state: State
    since: float | None
    breaker: str
    breaker_since: float | None
    latency_ms: float
    load: float
    reason: str
    failed_at: float | None
    calls: dict[str, int]
    retries: int
    only: Literal["critical"] | None


class LinkState:
    """Follows what calls and probes of one link come to, and keeps its breaker.

    A probe asks the peer whether it is there. One that answers probes but no calls is `up` and yet kept out by
    the breaker: a probe opens the breaker of a peer that is gone, and lets it close again when it comes back,
    but never vouches for the work of one that was there all the time.

    Parameters
    ----------
    breaker:
        Says whether the link may be used.

    Examples
    --------
    >>> from escalade.tiers.breaker import Breaker
    >>> link = LinkState(Breaker(failures=5, wait_s=0.5, max_wait_s=2.0, uniform=lambda: 0.0))
    >>> link.answered(1.0, elapsed_s=0.01)
    False
    >>> link.probed("timeout", 3.0), link.state, link.since, link.breaker.allows(3.1)
    (True, 'frozen', 3.0, False)
    >>> link.probed("ok", 4.0), link.state, link.breaker.allows(4.0)
    (True, 'up', True)
    """

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.state: State = "unknown"
        self.since: float | None = None
        self.heard = -inf
        """When the peer last answered anything."""
        self._worked = -inf  # when it last answered a call: only then does it speak of its load
        self.reason = ""
        self.failed_at: float | None = None
        self.latency_ms = nan
        self.calls: dict[str, int] = {"ok": 0}
        self.retries = 0
        self._outcome = "ok"
        self._silent = False  # whether the last probe was not answered, and nothing has come since

    @property
    def trusted(self) -> bool:
        """Whether a failure now would be the first: worth a second try."""
        return self.state not in _LOST.values() and self.breaker.state is Circuit.CLOSED

    def answered(self, now: float, elapsed_s: float) -> bool:
        """A call was answered; return whether that is news."""
        self.calls["ok"] += 1
        elapsed_ms, latency_ms = elapsed_s * 1e3, self.latency_ms
        self.latency_ms = latency_ms + 0.1 * (elapsed_ms - latency_ms) if latency_ms == latency_ms else elapsed_ms
        self.breaker.succeeded(now, elapsed_s)
        self.heard = self._worked = now
        if self.state == "up" and self._outcome == "ok":
            return False
        return self._alive("ok", now)

    def failed(self, reason: str, now: float, given_s: float, *, again: bool = False) -> bool:
        """A call that was given `given_s` got no usable answer; return whether that is news.

        Parameters
        ----------
        again:
            It is tried again at once; the breaker judges by what comes of that.
        """
        self.calls[reason] = self.calls.get(reason, 0) + 1
        self.reason, self.failed_at = reason, now
        if again:
            self.retries += 1
            self.breaker.abandoned(now)
            return False
        if reason not in _LOST:
            self.breaker.succeeded(now)
            self.heard = self._worked = now
            return self._alive(reason, now)
        if reason in ("unavailable", "denied"):
            if reason == "denied" or self.state != "frozen":  # else a connection was given up: a probe tells
                self._enter(_LOST[reason], now)
            self.breaker.failed(now)
        else:
            if self.heard <= now - given_s and not self.breaker.hurried(given_s):  # nothing at all came meanwhile
                self._enter("frozen", now)
            self.breaker.failed(now, given_s)
        return self._told(reason)

    def probed(self, outcome: str, now: float) -> bool:
        """A probe ended, `ok` or with a reason; return whether that is news."""
        if outcome in _LOST:
            self._silent, self.reason, self.failed_at = True, outcome, now
            self._enter(_LOST[outcome], now)
            self.breaker.silent(now)
            return self._told(outcome)
        self.heard = now
        if not self._silent:
            self._enter("up", now)
            return False
        self.breaker.awake(now)
        return self._alive("ok", now)

    def load(self, said: float, now: float) -> float:
        """Return the peer's load, of which it last said `said`; 0 when that was too long ago."""
        return said if now - self._worked < LOAD_SECONDS else 0.0

    def facts(self, address: str, load: float, only: Literal["critical"] | None, now: float) -> LinkFacts:
        """Return what is known now; `load` is what the peer last said."""
        breaker = self.breaker
        return LinkFacts(
            address,
            self.state,
            self.since,
            breaker.state.value,
            breaker.since,
            self.latency_ms,
            self.load(load, now),
            self.reason,
            self.failed_at,
            dict(self.calls),
            self.retries,
            only,
        )

    def _alive(self, outcome: str, now: float) -> bool:
        self._silent = False
        self._enter("up", now)
        return self._told(outcome)

    def _told(self, outcome: str) -> bool:
        before, self._outcome = self._outcome, outcome
        return outcome != before and not (outcome in _LOST and before in _LOST)  # how a dead peer is dead may vary

    def _enter(self, state: State, now: float) -> None:
        if state != self.state:
            self.state, self.since = state, now
