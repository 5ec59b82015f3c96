"""The services and what they are made of.

`Endpoint`, `EdgeNode` and `EdgeServer` are `Service`s around a `Tier`; `Client` asks any of them.
"""

import os

# Before onnxruntime is imported: nothing about a device leaves it unless its owner says so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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
