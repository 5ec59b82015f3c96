from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from escalade.tiers import EdgeNode, EdgeServer, Endpoint
from escalade.tiers.service import Service
from escalade.tiers.testing.onnx_models import scaled_identity

Start = Callable[..., Any]
SERVICES: dict[str, type[Service]] = {"endpoint": Endpoint, "edge_node": EdgeNode, "edge_server": EdgeServer}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `unsure.onnx` and `sure.onnx`: four classes, logits are the inputs times 1 and 10."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "unsure.onnx").write_bytes(scaled_identity(4, 1.0))
    (folder / "sure.onnx").write_bytes(scaled_identity(4, 10.0))
    return folder


@pytest_asyncio.fixture
async def start(models: Path) -> AsyncIterator[Start]:
    """Start a tier in this process on a free port; returns the service and its address."""
    async with AsyncExitStack() as stack:

        async def start(
            tier: str = "edge_server", upstream: str | None = None, model: str = "unsure", **sections: Any
        ) -> tuple[Service, str]:
            config: dict[str, Any] = {
                "tier": tier,
                "model": {"file": str(models / f"{model}.onnx"), "name": "m"},
                "listen": {"address": "127.0.0.1:0"},
                **sections,
            }
            if upstream:
                config["upstream"] = {"address": upstream, **sections.get("upstream", {})}
                config.setdefault("policy", {"name": "Threshold", "threshold": 0.9})
            service = SERVICES[tier].from_config(config)
            await stack.enter_async_context(service)
            return service, await service.listen()

        yield start
