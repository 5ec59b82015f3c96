from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from escalade.tiers import errors
from escalade.tiers.answer import REASONS
from escalade.tiers.metrics import OUTCOMES, ROWS, SCORES, SECONDS, SHED_CAUSES, Histogram, TierMetrics
from escalade.tiers.outbox.item import PRIORITIES

PROMTOOL = shutil.which("promtool")


def scraped(metrics: TierMetrics) -> str:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


@pytest.fixture
def busy() -> TierMetrics:
    """Metrics of a tier to which everything has happened."""
    metrics = TierMetrics("edge_node", 'a "quoted" name\\')
    for index, outcome in enumerate(OUTCOMES):
        metrics.requests[outcome] = index
    for action in metrics.actions:
        metrics.actions[action] = 3
    metrics.degraded = dict.fromkeys(REASONS, 1)
    metrics.upstream_calls = {"ok": 2, "timeout": 1}
    metrics.upstream_sent_bytes, metrics.upstream_received_bytes, metrics.policy_errors = 100, 200, 1
    for value in (0.05, 0.5, 0.99, 1.0):
        metrics.score.observe(value)
        for histogram in (metrics.local_s, metrics.upstream_s, metrics.total_s):
            histogram.observe(value / 100)
    metrics.batch_rows.observe(7)
    metrics.queue_depth, metrics.load = lambda: 5, lambda: 0.375
    metrics.refused(errors.OverloadedError("full", cause="displaced"), "bulk")
    return metrics


@given(
    st.sampled_from([SECONDS, SCORES, ROWS, (0.5,)]),
    st.lists(st.floats(-1, 1000) | st.sampled_from([*SECONDS, *SCORES, *ROWS])),
)
def test_a_histogram_counts_each_value_up_to_every_bound_that_it_does_not_exceed(
    bounds: tuple[float, ...], values: list[float]
) -> None:
    """A value on a bound counts for it; the last bucket has all; the total is their sum."""
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    buckets = histogram.buckets()
    assert [float(bound) for bound, _ in buckets] == [*bounds, float("inf")]
    assert [count for _, count in buckets] == [sum(v <= b for v in values) for b in [*bounds, float("inf")]]
    assert histogram.total == pytest.approx(sum(values))


def test_a_scrape_tells_every_count(busy: TierMetrics) -> None:
    """What was counted is what Prometheus reads, under the tier's and the model's name."""
    families = {family.name: family for family in text_string_to_metric_families(scraped(busy))}
    values = {
        (sample.name, sample.labels.get("outcome") or sample.labels.get("reason") or sample.labels.get("action")): (
            sample.value
        )
        for family in families.values()
        if family.type != "histogram"
        for sample in family.samples
    }
    for index, outcome in enumerate(OUTCOMES):
        assert values["escalade_requests_total", outcome] == index + (outcome == "overloaded")
    shed = {(one.labels["priority"], one.labels["cause"]): one.value for one in families["escalade_shed"].samples}
    assert shed == {
        (priority, cause): float((priority, cause) == ("bulk", "displaced"))
        for priority in PRIORITIES
        for cause in SHED_CAUSES
    }
    assert values["escalade_load", None] == 0.375
    for reason in REASONS:
        assert values["escalade_degraded_rows_total", reason] == 1
    assert values["escalade_actions_total", "defer"] == 3
    assert values["escalade_upstream_calls_total", "timeout"] == 1
    assert values["escalade_upstream_sent_bytes_total", None] == 100
    assert values["escalade_upstream_received_bytes_total", None] == 200
    assert values["escalade_policy_errors_total", None] == 1
    assert values["escalade_queue_depth", None] == 5
    hops = {sample.labels["hop"] for sample in families["escalade_latency_seconds"].samples}
    assert hops == {"local", "upstream", "total"}
    for family in families.values():
        assert all(sample.labels["model"] == 'a "quoted" name\\' for sample in family.samples)


def test_a_tier_that_has_done_nothing_can_be_scraped() -> None:
    """Outcomes and actions stand at zero from the start, so that a rate over them is right."""
    families = {one.name: one for one in text_string_to_metric_families(scraped(TierMetrics("endpoint", "m")))}
    requests = {sample.labels["outcome"]: sample.value for sample in families["escalade_requests"].samples}
    assert requests == dict.fromkeys(OUTCOMES, 0)
    actions = {sample.labels["action"]: sample.value for sample in families["escalade_actions"].samples}
    assert actions == dict.fromkeys(["accept", "escalate", "defer", "abstain"], 0)


def test_every_error_has_its_outcome() -> None:
    """What an error says that it counts as is an outcome that is scraped."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.outcome for kind in kinds if issubclass(kind, errors.EscaladeError)} <= set(OUTCOMES)


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool on the PATH (Debian: apt install prometheus)")
def test_promtool_finds_nothing_to_complain_about(busy: TierMetrics) -> None:
    """`promtool check metrics` is Prometheus' own linter."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=scraped(busy), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
