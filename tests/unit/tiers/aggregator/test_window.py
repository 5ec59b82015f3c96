"""Single behaviours of the aggregator, on a manual clock and a real file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escalade.tiers.aggregator.observation import Observation, Raw
from escalade.tiers.errors import ForgottenError, InputError, NotFoundError

from .conftest import NODES, TODAY_S, Served, posterior, saw

pytestmark = pytest.mark.asyncio

BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "fewer classes": ("classes", {"posterior": np.array([0.5, 0.5], np.float32)}),
    "no posterior": ("classes", {"posterior": np.array([], np.float32)}),
    "a sum that is not one": ("posterior", {"posterior": np.array([0.5, 0.2, 0.2], np.float32)}),
    "a negative value": ("posterior", {"posterior": np.array([1.2, -0.1, -0.1], np.float32)}),
    "nan": ("posterior", {"posterior": np.array([math.nan, 0.5, 0.5], np.float32)}),
    "infinity": ("posterior", {"posterior": np.array([math.inf, 0.0, 0.0], np.float32)}),
    "features that are not finite": ("features", {"features": np.array([math.nan], np.float32)}),
    "too many features": ("features", {"features": np.zeros(5000, np.float32)}),
    "a raw input of no type": ("raw", {"raw": Raw("FP31", (1,), b"1234")}),
    "a raw input of the wrong size": ("raw", {"raw": Raw("FP32", (2,), b"1234")}),
    "a raw input of negative size": ("raw", {"raw": Raw("FP32", (-1,), b"1234")}),
    "a raw input that is too large": ("raw", {"raw": Raw("UINT8", (70_000,), bytes(70_000))}),
    "a label that is none": ("label", {"label": 3}),
    "the far future": ("future", {"observed_s": TODAY_S + 60}),
    "the far past": ("expired", {"event": "of then", "observed_s": TODAY_S - 60}),
    "a long key": ("key", {"event": "k" * 201}),
    "a key with a line break": ("key", {"event": "a\nb"}),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_observation_is_refused_alone(tmp_path: Path, what: str) -> None:
    """It gets its own verdict and is counted for its node; the others of its batch and event go on without it."""
    reason, fields = BAD[what]
    served = Served(tmp_path)
    bad = saw("n1", "e", 1)._replace(**fields)
    assert await served.reasons([saw("n0", "e", 2), bad, saw("n2", "e", 2)]) == ["", reason, ""]
    await served.pass_ms(300)
    (answer,) = served.answers()
    assert (answer.label, answer.reported) == (2, (0, 2))
    refused = {node.name: node.refused for node in served.aggregator.nodes()}
    assert refused == {"n0": {}, "n1": {reason: 1}, "n2": {}}
    await served.aggregator.close()


async def test_nodes_that_are_not_expected_and_other_tenants_are_refused(tmp_path: Path) -> None:
    """Whatever they name; strangers are counted together, since they may call themselves anything."""
    served = Served(tmp_path, tenant="plant-a")
    assert await served.reasons([saw("intruder", "e"), saw("n0", "e")], tenant="plant-a") == ["unknown_node", ""]
    assert await served.reasons([saw("n1", "e"), saw("x", "e")], tenant="plant-b") == ["tenant", "tenant"]
    assert served.aggregator.window.strangers == {"unknown_node": 1, "tenant": 2}
    await served.pass_ms(300)
    assert served.answers()[0].reported == (0,)
    await served.aggregator.close()


async def test_a_clock_that_is_too_far_off_is_refused_and_taken_back_when_it_is_set(tmp_path: Path) -> None:
    """Its observations of that time do not reach the estimate either."""
    served = Served(tmp_path, max_skew_ms=2000)
    now = served.aggregator.now
    assert await served.reasons([saw("n0", "e", observed_s=now() - 9)], sent_s=now() - 9) == ["skew"]
    assert await served.reasons([saw("n0", "e", observed_s=now() - 1)], sent_s=now() - 1) == [""]
    assert served.aggregator.nodes()[0].skew_s == pytest.approx(1.0)
    # Known to be 1 s behind: a report that comes 8 s after it was sent was long on its way.
    assert await served.reasons([saw("n0", "slow", observed_s=now() - 2)], sent_s=now() - 8) == [""]
    assert await served.reasons([saw("n0", "f", observed_s=now() + 9)], sent_s=now() + 9) == ["skew"]
    await served.aggregator.close()


async def test_more_than_a_batch_may_have_is_refused_from_there_on(tmp_path: Path) -> None:
    """The sender is told to send less, and that the rest is worth another try."""
    served = Served(tmp_path, max_batch=2)
    verdicts = await served.aggregator.observe([saw("n0", key) for key in "abc"])
    assert [verdict.status for verdict in verdicts] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    assert [verdict.settled for verdict in verdicts] == [True, True, False]
    await served.aggregator.close()


async def test_a_node_that_floods_fills_only_its_own_share(tmp_path: Path) -> None:
    """The others' events open and close as ever, and its own too once its old ones are over."""
    served = Served(tmp_path, max_events=6, max_kept=6)
    flood = [saw("n0", f"nonsense-{number}") for number in range(5)]
    assert await served.reasons(flood) == ["", "", "full", "full", "full"]
    assert await served.reasons([saw("n1", "e", 1), saw("n2", "e", 1), saw("n0", "e", 1)]) == ["", "", ""]
    assert served.answers()[0].label == 1
    await served.pass_ms(2500)
    assert await served.reasons([saw("n0", "later")]) == [""]
    await served.aggregator.close()


async def test_only_so_many_answers_are_kept_the_oldest_forgotten_first(tmp_path: Path) -> None:
    """In memory, on the disk and for watchers, who are told where to go on."""
    served = Served(tmp_path, max_events=3, max_kept=4)
    for number in range(9):
        await served.reasons([saw(node, f"e{number}") for node in NODES])
        await served.pass_ms(2500)
    assert [answer.event for answer in served.answers()] == ["e5", "e6", "e7", "e8"]
    kept = "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM observations)"
    assert served.store._connection.execute(kept).fetchone() == (4, 0)
    await served.restart()
    assert [answer.sequence for answer in served.answers()] == [6, 7, 8, 9]
    assert served.aggregator.event("e8").answer is not None
    with pytest.raises(NotFoundError):
        served.aggregator.event("e1")
    with pytest.raises(ForgottenError, match="go on after 5"):
        await anext(served.aggregator.watch(2))
    await served.aggregator.close()


async def test_a_late_observation_that_changes_nothing_is_no_correction(tmp_path: Path) -> None:
    """It counts as reported; only another label is told."""
    served = Served(tmp_path, quorum=2, early_close=False)
    await served.reasons([saw("n0", "e", 1), saw("n1", "e", 1)])
    assert await served.reasons([saw("n2", "e", 1)]) == [""]
    assert len(served.answers()) == 1
    assert served.aggregator.event("e").places() == (0, 1, 2)
    await served.reasons([saw("n0", "f", 1), saw("n2", "f", 0)])
    await served.reasons([saw("n1", "f", 0)])
    assert [(a.event, a.revision, a.label, a.cause) for a in served.answers()][1:] == [
        ("f", 1, 1, "quorum"),
        ("f", 2, 0, "late"),
    ]
    await served.aggregator.close()


async def test_policy_and_conflict_decide_what_is_escalated(tmp_path: Path) -> None:
    """Nodes that disagree are below the threshold of agreement; without raw inputs the answer says so."""
    served = Served(tmp_path, score="agreement", policy={"name": "Threshold", "threshold": 0.8})
    await served.reasons([saw(node, "agreed", 1) for node in NODES])
    await served.reasons([saw(node, "torn", label) for label, node in enumerate(NODES)])
    agreed, torn = served.answers()
    assert (agreed.action, agreed.reason) == ("accept", "")
    assert agreed.score == pytest.approx(1 - agreed.conflict)
    assert (torn.action, torn.tier, torn.reason) == ("escalate", "aggregator", "no_model")
    assert torn.conflict > 0.4 > 0.05 > agreed.conflict
    await served.aggregator.close()


async def test_what_was_learnt_survives_a_restart(tmp_path: Path) -> None:
    """A stuck node is named with its reason, left out, and still so after a restart; counters too."""
    served = Served(tmp_path, rule={"name": "MeanProbability"})
    rng = np.random.default_rng(0)
    for number, truth in enumerate(rng.integers(0, 3, 60).tolist()):
        await served.reasons(
            [saw("n0", f"e{number}", truth), saw("n1", f"e{number}", truth), saw("n2", f"e{number}", 0)]
        )
    before = served.aggregator.nodes()
    assert [node.reason for node in before] == ["", "", "stuck"]
    assert before[2].reliability < 0.6 < before[0].reliability
    await served.restart()
    assert [node._replace(last_seen_s=0.0) for node in before] == served.aggregator.nodes()
    await served.reasons([saw(node, "next", 1) for node in NODES])
    assert served.answers()[-1].used == (0, 1)
    await served.aggregator.close()


async def test_labels_teach_whom_to_trust_whenever_they_come(tmp_path: Path) -> None:
    """With an observation, or later for an event that is known; a wrong one is refused."""
    served = Served(tmp_path)
    for number in range(40):
        key = f"e{number}"
        await served.reasons(
            [saw("n0", key, 0), saw("n1", key, 1), saw("n2", key, 2)._replace(label=2 if number % 2 else None)]
        )
        if number % 2 == 0:
            served.aggregator.event(key, label=2)
    reliability = [node.reliability for node in served.aggregator.nodes()]
    assert reliability[2] > 0.8 > 0.4 > max(reliability[:2])
    with pytest.raises(InputError, match="none of 3 classes"):
        served.aggregator.event("e0", label=3)
    with pytest.raises(NotFoundError):
        served.aggregator.event("never seen", label=0)
    await served.aggregator.close()


async def test_a_restart_with_other_nodes_keeps_what_still_fits(tmp_path: Path) -> None:
    """Observations of a node that is no longer expected are left out; the others' event goes on."""
    served = Served(tmp_path, early_close=False)
    await served.reasons([saw("n0", "e", 1), saw("n1", "e", 2)])
    await served.aggregator.close()
    later = Served(tmp_path, served.clock, nodes=["n1", "new"], early_close=False)
    later.started_at = served.started_at
    assert later.aggregator.event("e").places() == (0,)
    assert await later.reasons([Observation("new", "1", "e", "", None, posterior(2))]) == [""]
    assert [(a.label, a.cause) for a in later.answers()] == [(2, "complete")]
    await later.aggregator.close()


async def test_features_are_fused_by_a_rule_of_features(tmp_path: Path) -> None:
    """The rule says how many a node has to send; one that sends none is refused."""
    from escalade.policies.fusion import FeatureFusion
    from escalade.policies.state_file import save_state

    x = np.random.default_rng(0).normal(size=(90, 3, 2))
    labels = np.arange(90) % 3
    x[np.arange(90), labels] += 9.0  # the node whose number is the label sees something
    save_state(tmp_path / "fit.npz", FeatureFusion("concat").fit(x, labels))
    served = Served(tmp_path, rule={"name": "FeatureFusion", "how": "concat", "state": str(tmp_path / "fit.npz")})
    features = [np.array([0, 0], np.float32), np.array([9, 9], np.float32), np.array([0, 0], np.float32)]
    batch = [saw(node, "e", 0, features=features[place]) for place, node in enumerate(NODES)]
    assert await served.reasons([saw("n0", "f"), *batch]) == ["features", "", "", ""]
    assert served.answers()[0].label == 1
    await served.aggregator.close()


async def test_events_that_close_long_before_their_deadline_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour's deadline and many quick events: the memory is that of those that live."""
    monkeypatch.setattr("escalade.tiers.aggregator.window.STALE", 10)
    served = Served(tmp_path, deadline_ms=3_600_000, late_ms=10, max_events=30, max_kept=30)
    for number in range(60):
        await served.reasons([saw(node, f"e{number}") for node in NODES])
        await served.pass_ms(20)
    window = served.aggregator.window
    assert (len(window), window.open) == (0, 0)
    assert len(window._due) <= 15
    assert len(window._kept) == 30
    await served.aggregator.close()


async def test_one_place_may_have_many_events_at_once(tmp_path: Path) -> None:
    """The nearest is found among them, however they arrived; another zone's are never met."""
    served = Served(tmp_path, window_ms=100, deadline_ms=60_000, max_skew_ms=20_000, early_close=False)
    now = served.aggregator.now()
    order = np.random.default_rng(0).permutation(200).tolist()
    first = {n: (await served.aggregator.observe([saw("n0", "", zone="belt", observed_s=now - n)]))[0] for n in order}
    for n in order[:50]:
        near = saw("n1", "", zone="belt", observed_s=now - n + 0.049)
        assert (await served.aggregator.observe([near]))[0].event == first[n].event
    for other in (saw("n1", "", zone="belt", observed_s=now - 3.5), saw("n2", "", zone="else", observed_s=now - 3)):
        (verdict,) = await served.aggregator.observe([other])
        assert verdict.event not in {one.event for one in first.values()}
    await served.aggregator.close()
