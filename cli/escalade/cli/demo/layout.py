"""Seven processes: one edge server, two edge nodes, four endpoints; one YAML for each."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from escalade.cli.demo.train import STEPS
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from escalade.cli.demo.calibrate import Calibration

HOST = "127.0.0.1"
NODES, ENDPOINTS = 2, 4
MODEL_NAME = "digits"
PORTS = range(20_000, 32_000)
"""Below the ports that systems hand to outgoing connections, so that none is lost between two starts."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the fleet: where it serves, what it asks, where its YAML is."""

    name: str
    tier: str
    address: str
    metrics_address: str
    config: Path
    upstream: Member | None = None


def plan(folder: Path) -> list[Member]:
    """Lay out the fleet with free ports; each upstream stands before those who ask it."""
    ports = iter(free_ports(2 * (1 + NODES + ENDPOINTS)))

    def member(name: str, tier: str, upstream: Member | None = None) -> Member:
        address, metrics = f"{HOST}:{next(ports)}", f"{HOST}:{next(ports)}"
        return Member(name, tier, address, metrics, folder / f"{name}.yaml", upstream)

    server = member("edge-server", "edge_server")
    nodes = [member(f"edge-node-{k}", "edge_node", server) for k in range(NODES)]
    endpoints = [member(f"endpoint-{k}", "endpoint", nodes[k * NODES // ENDPOINTS]) for k in range(ENDPOINTS)]
    return [server, *nodes, *endpoints]


def write_config(member: Member, calibration: Calibration) -> None:
    """Write the YAML of one process; `escalade serve` starts the same process from it by hand."""
    command = f"escalade serve {member.tier.replace('_', '-')} --config {member.config.name}"
    content = yaml.safe_dump(config_of(member, calibration), sort_keys=False, default_flow_style=None)
    member.config.write_text(f"# Written by `escalade demo`. To start this tier alone: {command}\n{content}")


def config_of(member: Member, calibration: Calibration) -> dict[str, Any]:
    """Return the configuration of one process as the YAML will say it."""
    config: dict[str, Any] = {
        "tier": member.tier,
        "model": {
            "file": f"models/{member.tier}.onnx",
            "name": MODEL_NAME,
            "input": {"shape": [8, 8], "dtype": "UINT8", "steps": STEPS[member.tier]},
            "output": "logits",
            "temperature": calibration.temperature[member.tier],
        },
        "score": "max_prob",
        "listen": {"address": member.address},
        "metrics": {"address": member.metrics_address},
        "limits": {"drain_seconds": 2.0, "default_deadline_ms": 10_000.0},
    }
    if member.upstream:
        config["policy"] = {"name": "Threshold", "threshold": calibration.threshold[member.tier]}
        config["upstream"] = {"address": member.upstream.address, "timeout_ms": 5_000.0}
    return config


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nothing listens on, starting the search at a random one.

    Raises
    ------
    SetupError
        Fewer than `count` are free.
    """
    start = random.SystemRandom().randrange(len(PORTS))
    free: list[int] = []
    for step in range(len(PORTS)):
        port = PORTS[(start + step) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return free
    raise SetupError(f"needs {count} free ports from {PORTS.start} to {PORTS.stop - 1} on {HOST}, found {len(free)}")


def of_tier(members: Sequence[Member], tier: str) -> list[Member]:
    """Return the members of one tier."""
    return [member for member in members if member.tier == tier]
