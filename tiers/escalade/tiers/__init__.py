"""The services and what they are made of.

`Endpoint`, `EdgeNode` and `EdgeServer` are `Service`s around a `Tier`; `Client` asks any of them. Each name is imported
when it is first asked for: who needs only the configuration, as the fleet simulator does, does not load gRPC and
onnxruntime with it.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before onnxruntime is imported: nothing about a device leaves it unless its owner says so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from escalade.tiers.answer import REASONS, Answer, Hop
    from escalade.tiers.client import Client
    from escalade.tiers.config import TierConfig
    from escalade.tiers.config_file import load_config
    from escalade.tiers.edge_node import EdgeNode
    from escalade.tiers.edge_server import EdgeServer
    from escalade.tiers.endpoint import Endpoint
    from escalade.tiers.tier import Tier

__all__ = [
    "REASONS",
    "Answer",
    "Client",
    "EdgeNode",
    "EdgeServer",
    "Endpoint",
    "Hop",
    "Tier",
    "TierConfig",
    "load_config",
]

_HOMES = {
    "REASONS": "answer",
    "Answer": "answer",
    "Client": "client",
    "EdgeNode": "edge_node",
    "EdgeServer": "edge_server",
    "Endpoint": "endpoint",
    "Hop": "answer",
    "Tier": "tier",
    "TierConfig": "config",
    "load_config": "config_file",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
