"""Five processes: an edge server with an aggregator, and four edge nodes that report to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from escalade.cli.demo.layout import HOST, MODEL_NAME, Member, free_ports
from escalade.cli.demo.multi_view.models import SCALE
from escalade.cli.demo.multi_view.views import NAMES

if TYPE_CHECKING:
    from pathlib import Path

RULE_FILE = "rule.npz"


def plan(folder: Path) -> list[Member]:
    """Lay the processes out, the server first, and write their YAML files."""
    ports = iter(free_ports(2 * (1 + len(NAMES))))

    def member(name: str, tier: str, upstream: Member | None = None) -> Member:
        return Member(name, tier, f"{HOST}:{next(ports)}", f"{HOST}:{next(ports)}", folder / f"{name}.yaml", upstream)

    server = member("edge-server", "edge_server")
    members = [server, *(member(name, "edge_node", server) for name in NAMES)]
    for one in members:
        command = f"escalade serve {one.tier.replace('_', '-')} --config {one.config.name}"
        content = yaml.safe_dump(config_of(one), sort_keys=False, default_flow_style=None)
        one.config.write_text(
            f"# Written by `escalade demo multi-view`. To start this tier alone: {command}\n{content}"
        )
    return members


def config_of(member: Member) -> dict[str, Any]:
    """Return the configuration of one process as the YAML will say it."""
    file = NAMES[0] if member.upstream is None else member.name
    config: dict[str, Any] = {
        "tier": member.tier,
        "model": {
            "file": f"models/{file}.onnx",
            "name": MODEL_NAME,
            "input": {"shape": [8, 8], "dtype": "UINT8", "steps": [{"scale": SCALE}, {"flatten": True}]},
        },
        "listen": {"address": member.address},
        "metrics": {"address": member.metrics_address},
        "limits": {"drain_seconds": 2.0, "default_deadline_ms": 10_000.0},
    }
    if member.upstream is None:
        config["aggregator"] = {
            "nodes": list(NAMES),
            "rule": {"name": "Stacking", "state": RULE_FILE},
            "deadline_ms": 2_000.0,
            "file": "aggregator.db",
        }
    else:
        config["aggregate"] = {"address": member.upstream.address, "node": member.name, "timeout_ms": 2_000.0}
    return config
