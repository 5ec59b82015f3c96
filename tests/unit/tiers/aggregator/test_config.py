"""What an aggregator's block may say, and the catalogue of refusals."""

from __future__ import annotations

from typing import Any

import pytest

from escalade.tiers.aggregator.config import AggregatorConfig
from escalade.tiers.aggregator.observation import REFUSALS
from escalade.tiers.config_file import parse_config
from escalade.tiers.errors import ConfigError

from .conftest import NODES


def test_every_refusal_has_a_status_that_says_whether_to_try_again() -> None:
    """Only what may change is worth another try."""
    again = {reason for reason, status in REFUSALS.items() if status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")}
    assert again == {"full", "too_many", "store"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nodes": ["a", "a"]}, "stands twice"),
        ({"quorum": 4}, "never met"),
        ({"max_kept": 5, "max_events": 6}, "at least max_events"),
        ({"nodes": []}, "at least 1"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change: dict[str, Any], says: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(ValueError, match=says):
        AggregatorConfig.model_validate({"nodes": list(NODES), **change})


@pytest.mark.parametrize(
    ("tier", "block", "key", "says"),
    [
        ("edge_node", {"aggregator": {"nodes": ["a"]}}, "", "belongs to an edge_server"),
        ("edge_server", {"aggregate": {"address": "127.0.0.1:1", "node": "a"}}, "", "belongs to the nodes that report"),
        ("edge_server", {"aggregator": {"nodes": ["a"], "quorom": 1}}, "aggregator.quorom", "did you mean 'quorum'"),
        ("edge_server", {"aggregator": {"nodes": ["a"], "score": "energy"}}, "aggregator.score", "agreement"),
        (
            "edge_server",
            {"aggregator": {"nodes": ["a"], "rule": {"name": "Meen"}}},
            "aggregator.rule.name",
            "There are",
        ),
        (
            "edge_server",
            {"aggregator": {"nodes": ["a"], "policy": {"name": "No"}}},
            "aggregator.policy.name",
            "no policy",
        ),
        (
            "endpoint",
            {"aggregate": {"address": "a:1", "node": "a", "send": "features"}},
            "aggregate",
            "belong together",
        ),
        ("endpoint", {"aggregate": {"address": "a:1"}}, "aggregate.node", "is required"),
    ],
)
def test_a_mistake_is_blamed_on_its_key(tier: str, block: dict[str, Any], key: str, says: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=says) as caught:
        parse_config({"tier": tier, "model": {"file": "m.onnx"}, **block})
    assert caught.value.key == key
