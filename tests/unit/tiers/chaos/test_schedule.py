"""The schedule of faults: a function of its seed, in which each kind occurs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.testing.chaos.kinds import KINDS, TIERS
from escalade.tiers.testing.chaos.schedule import PAUSE_S, WARM_S, TooShortError, schedule
from escalade.tiers.testing.chaos.storm import storm
from escalade.tiers.testing.chaos.timing import episodes

SECONDS = 300.0
CUTS = [("reset", "near"), ("reset", "cell")]


@given(st.integers(0, 2**32))
def test_each_kind_occurs_and_every_process_is_killed_and_frozen(seed: int) -> None:
    """Whatever the seed."""
    faults = schedule(seed, SECONDS)
    assert {fault.kind for fault in faults} == set(KINDS)
    for kind in ("kill", "freeze"):
        assert {fault.target for fault in faults if fault.kind == kind} == set(TIERS)


@given(st.integers(0, 2**32))
def test_faults_leave_time_to_recover_and_end_in_time(seed: int) -> None:
    """Only the cuts that an offline fault needs overlap it."""
    faults = schedule(seed, SECONDS)
    assert faults[0].start_s == WARM_S
    assert max(fault.stop_s for fault in faults) <= SECONDS
    for episode in episodes(faults):
        assert episode.quiet_s > PAUSE_S - 1e-6
        assert len(episode.faults) == 1 or [one[:2] for one in episode.faults[:2]] == [
            ("reset", "near"),
            ("reset", "cell"),
        ]


@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_faults(seed: int) -> None:
    """And another seed others: checked once below."""
    assert schedule(seed, SECONDS) == schedule(seed, SECONDS)


@given(st.integers(0, 2**32))
def test_in_a_storm_each_target_has_one_fault_at_a_time(seed: int) -> None:
    """Several go on at once, all within the given time, and only of kinds that are possible."""
    faults = storm(seed, 10.0, 60.0, kinds=("kill", "drop_up"))
    assert {fault.kind for fault in faults} == {"kill", "drop_up"}
    assert all(10.0 <= fault.start_s < fault.stop_s <= 60.0 for fault in faults)
    assert any(one.start_s < other.start_s < one.stop_s for one in faults for other in faults)
    for target in {fault.target for fault in faults}:
        own = [fault for fault in faults if fault.target == target]
        assert all(one.stop_s < later.start_s for one, later in pairwise(own))


def test_other_seeds_give_other_faults() -> None:
    """The seed is used."""
    assert schedule(1, SECONDS) != schedule(2, SECONDS)


def test_kinds_that_are_not_possible_are_left_out() -> None:
    """A machine without root cannot fill a disk."""
    kinds = [kind for kind in KINDS if kind != "disk_full"]
    assert {fault.kind for fault in schedule(0, SECONDS, kinds=kinds)} == set(kinds)


def test_too_short_a_run_is_refused_with_what_it_needs() -> None:
    """Rather than leaving kinds out."""
    with pytest.raises(TooShortError, match=r"^\d+ faults need \d+ s; the run has 30$"):
        schedule(0, 30.0)
