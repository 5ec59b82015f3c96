"""The aggregator's page tells of everything that it may say."""

from __future__ import annotations

import re
from pathlib import Path

from escalade.tiers.aggregator.deciding import REASONS
from escalade.tiers.aggregator.event import CAUSES
from escalade.tiers.aggregator.observation import REFUSALS
from escalade.tiers.config_file import load_config

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "aggregator.md").read_text()


def test_every_refusal_is_explained_with_its_status() -> None:
    """The table has exactly the catalogue."""
    table = PAGE.split("## What each refusal means")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.M)) == REFUSALS


def test_every_cause_and_reason_is_explained() -> None:
    """Of an answer: why it was given then, and why it is not what the policy asked for."""
    causes = PAGE.split("## When an event is answered")[1].split("\n#")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", causes, re.M)) == set(CAUSES)
    reasons = PAGE.split("| reason of an answer")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", reasons)) >= set(REASONS)


def test_the_examples_are_configurations() -> None:
    """Both files load, and the page's blocks are parts of such."""
    server = load_config(ROOT / "examples" / "edge-server-aggregator.yaml", {})
    node = load_config(ROOT / "examples" / "edge-node-reports.yaml", {})
    assert server.aggregator is not None
    assert node.aggregate is not None
    assert node.aggregate.node in server.aggregator.nodes
