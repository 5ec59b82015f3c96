"""Which predictions hold, and whether policies come in the same order."""

from __future__ import annotations

from typing import Any

import pytest

from escalade.simulations.validation import report
from escalade.simulations.validation.compare import Outcome, met, swapped
from escalade.simulations.validation.measured import Case

GOOD = {"share endpoint": 0.5, "accuracy": 0.9, "p50 ms endpoint": 10.0, "p99 ms endpoint": 30.0, "mean ms": 20.0}


def outcome(
    title: str = "one",
    predicted: dict[str, float] = GOOD,
    measured: dict[str, float] = GOOD,
    again: dict[str, float] | None = GOOD,
    rate_hz: float = 10.0,
    degraded: dict[str, int] | None = None,
) -> Outcome:
    policy: dict[str, Any] = {"name": "AlwaysAccept"}
    return Outcome(Case(title, title, rate_hz, (policy, policy)), 1000, degraded or {}, predicted, measured, again)


@pytest.mark.parametrize(
    ("what", "within", "off"),
    [
        ("share endpoint", 0.5099, 0.5101),
        ("accuracy", 0.8901, 0.8899),
        ("p50 ms endpoint", 10.99, 11.01),
        ("p99 ms endpoint", 22.51, 22.49),
    ],
)
def test_each_figure_has_its_target(what: str, within: float, off: float) -> None:
    """A point of share and of accuracy, a tenth of p50, a quarter of p99."""
    assert met([outcome(predicted={**GOOD, what: within})])
    missed = outcome(predicted={**GOOD, what: off})
    assert not met([missed])
    assert [one.what for one in missed.compared() if not one.within] == [what]
    assert sum("MISS" in line for line in report.lines(missed)) == 1


def test_what_too_few_answered_is_left_out() -> None:
    """In either real run."""
    nothing = {**GOOD, "p99 ms endpoint": float("nan")}
    for one in (outcome(measured=nothing), outcome(again=nothing)):
        assert "p99 ms endpoint" not in [row.what for row in one.compared()]
        assert "p99: too few answers to compare" in report.verdict([one])


def test_policies_that_come_the_other_way_round_are_told() -> None:
    """Where both real runs agree on the order, and only under the same load."""
    better = {**GOOD, "accuracy": 0.904}
    a, b = outcome("a"), outcome("b", predicted={**GOOD, "accuracy": 0.896}, measured=better, again=better)
    assert [(one.what, one.first, one.second) for one in swapped([a, b])] == [("accuracy", "a", "b")]
    assert not met([a, b])
    assert any("other way round" in line for line in report.verdict([a, b]))
    unsure = outcome("b", predicted={**GOOD, "accuracy": 0.896}, measured=better, again=GOOD)
    assert swapped([a, unsure]) == []
    other_load = outcome("b", predicted={**GOOD, "accuracy": 0.896}, measured=better, again=better, rate_hz=20.0)
    assert swapped([a, other_load]) == []


def test_the_page_and_the_table_hold_every_figure() -> None:
    """With the second run's difference, a dash without one, and degraded answers by reason."""
    noisy = {**GOOD, "p99 ms endpoint": 60.0}
    both = [outcome("with <two> runs", again=noisy, degraded={"circuit_open": 3}), outcome("once", again=None)]
    text = report.markdown(["a machine"], both)
    assert "| with <two> runs | 1000 | p99 ms endpoint | 30.000 | 30.000 | +0.0 % | +100.0 % |" in text
    assert "| once | 1000 | accuracy | 90.00 % | 90.00 % | +0.00 points | - |" in text
    assert "two real runs differ by up to 100 %" in text
    assert "degraded: 3 circuit open" in report.lines(both[0])[0]
    page = report.render(["a machine"], both, {"seconds": 1})
    assert "with &lt;two&gt; runs" in page
    assert page.count("<circle") >= 4
    assert report.as_data(both, seconds=1)["rows"][0]["case"] == "with <two> runs"
