from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from escalade.policies import Policy, Threshold, load_score
from escalade.tiers.config import BatchingConfig, LimitsConfig, ModelConfig
from escalade.tiers.head import Head
from escalade.tiers.model import OnnxModel
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.tier import Tier
from escalade.tiers.upstream import Upstream

MakeTier = Callable[..., Tier]


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes whose logits are its inputs."""
    path = tmp_path_factory.mktemp("models") / "two.onnx"
    path.write_bytes(scaled_identity(2))
    return path


@pytest_asyncio.fixture
async def make_tier(two_classes: Path) -> AsyncIterator[MakeTier]:
    """Build an edge node on the model of two classes; everything may be said otherwise."""
    made: list[Tier] = []

    def make(
        upstream: Upstream | None = None,
        policy: Policy | None = None,
        *,
        score: str = "max_prob",
        output_kind: str = "logits",
        inline: bool = True,
        limits: dict[str, Any] | None = None,
        **options: Any,
    ) -> Tier:
        model = OnnxModel(ModelConfig(file=two_classes, output_kind=output_kind))  # type: ignore[arg-type]
        tier = Tier(
            "edge_node",
            model,
            Head(model, 1.0, load_score(score, output_kind)),  # type: ignore[arg-type]
            policy or Threshold(0.9),
            upstream,
            batching=BatchingConfig(inline_below_us=1e6 if inline else 0, workers=1),
            limits=LimitsConfig(**limits or {}),
            **options,
        )
        made.append(tier)
        return tier

    yield make
    for tier in made:
        await tier.close()
