from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from escalade.tiers.config_file import parse_config
from escalade.tiers.egress import DATA_CLASSES, report_class, report_id
from escalade.tiers.egress_ledger import EgressLedger, EgressMetrics, Line, read_ledger
from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox import Item


def tier(upstream: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {
        "tier": "endpoint",
        "model": {"file": "m.onnx"},
        "policy": {"name": "AlwaysEscalate"},
        "upstream": {"address": "127.0.0.1:1", **upstream},
        **keys,
    }


def test_everything_may_leave_unless_it_is_said_otherwise() -> None:
    """A fallback without a rule of its own has the first link's; an empty list lets nothing out."""
    assert [link.egress for link in parse_config(tier({})).links] == [list(DATA_CLASSES)]
    fallbacks = [{"address": "127.0.0.1:2"}, {"address": "127.0.0.1:3", "egress": []}]
    links = parse_config(tier({"egress": ["label"]}, fallbacks=fallbacks)).links
    assert [link.egress for link in links] == [["label"], ["label"], []]


def test_a_class_that_does_not_exist_is_refused() -> None:
    """By name, with those that exist."""
    with pytest.raises(ConfigError, match=r"upstream\.egress\.0: input should be 'label', 'posterior'.*'labels'"):
        parse_config(tier({"egress": ["labels"]}))


@pytest.mark.parametrize("outbox", [{"results": True}, {"telemetry_s": 5}])
def test_reports_that_may_not_leave_are_a_mistake_in_the_configuration(outbox: dict[str, Any]) -> None:
    """Rather than an outbox that fills up."""
    with pytest.raises(ConfigError, match=r"which upstream\.egress does not allow; add `label` there"):
        parse_config(tier({"egress": ["raw"]}, outbox={"file": "o.db", **outbox}))


@pytest.mark.parametrize("data", DATA_CLASSES)
def test_a_report_says_its_class(data: Any) -> None:
    """In its id, which is on the disk with it; one that says nothing counts as raw."""
    assert report_class(Item("cam", report_id("1f", data), b"")) == data
    assert report_class(Item("cam", "1f", b"")) == "raw"


def test_a_ledger_adds_up_over_restarts(tmp_path: Path) -> None:
    """By class, destination and device; what counts in memory alone writes nothing."""
    file = tmp_path / "folder" / "egress.json"
    for _ in range(2):
        ledger = EgressLedger(file)
        ledger.sent("raw", "a:1", "cam", 100)
        ledger.sent("raw", "a:1", "cam", 20)
        ledger.sent("label", "a:1", "cam", 3)
        ledger.write()
    assert read_ledger(file)[1] == [Line("label", "a:1", "cam", 2, 6), Line("raw", "a:1", "cam", 4, 240)]
    since_s = EgressLedger(file).since_s
    assert since_s < EgressLedger().since_s
    EgressLedger().write()


def test_a_ledger_is_bounded(tmp_path: Path) -> None:
    """Further devices share a line; nothing is left out of the sum."""
    ledger = EgressLedger(tmp_path / "egress.json", max_lines=2)
    for n in range(10):
        ledger.sent("raw", "a:1", f"cam-{n}", 10)
    assert [(line.device, line.bytes) for line in ledger.lines()] == [("(others)", 80), ("cam-0", 10), ("cam-1", 10)]


def test_a_damaged_ledger_is_moved_aside(tmp_path: Path) -> None:
    """Counting begins anew; what was there can be looked at."""
    file = tmp_path / "egress.json"
    for text in ("nonsense", "{}", json.dumps({"since_s": 1, "lines": [["raw", "a", "b", 1, "x"]]})):
        file.write_text(text)
        assert EgressLedger(file).lines() == []
        assert (tmp_path / "egress.json.corrupt").read_text() == text
        assert not file.exists()


def test_a_disk_that_refuses_loses_nothing_of_the_count(tmp_path: Path) -> None:
    """It stays in memory, and is written when the disk allows."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    ledger = EgressLedger(blocked / "egress.json")
    ledger.sent("raw", "a:1", "cam", 1)
    with pytest.raises(OSError, match="blocked"):
        ledger.write()
    blocked.unlink()
    ledger.write()
    assert read_ledger(blocked / "egress.json")[1] == ledger.lines()


def test_a_forgotten_device_leaves_its_amounts() -> None:
    """The sum must stay true; the name goes."""
    ledger = EgressLedger()
    for device in ("cam-1", "cam-2", "cam-3"):
        ledger.sent("raw", "a:1", device, 10)
    assert [ledger.forget(device) for device in ("cam-1", "cam-2", "cam-2")] == [1, 1, 0]
    assert [(line.device, line.messages, line.bytes) for line in ledger.lines()] == [
        ("(forgotten)", 2, 20),
        ("cam-3", 1, 10),
    ]


def test_a_ledger_is_scraped() -> None:
    """As two counters with the tier's labels."""
    ledger, registry = EgressLedger(), CollectorRegistry()
    ledger.sent("raw", "a:1", "cam", 7)
    registry.register(EgressMetrics(ledger.lines, {"tier": "endpoint"}))
    text = generate_latest(registry).decode()
    assert 'escalade_egress_bytes_total{class="raw",destination="a:1",device="cam",tier="endpoint"} 7.0' in text
    assert 'escalade_egress_messages_total{class="raw",destination="a:1",device="cam",tier="endpoint"} 1.0' in text
