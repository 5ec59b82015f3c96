"""A model's times in a tier of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from escalade.tiers.config_file import parse_config
from escalade.tiers.profiling.timing import fit_each_more, time_model
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.testing.pace import EACH_MORE, held


def test_a_slow_model_and_its_batches_are_timed(tmp_path: Path) -> None:
    """One row takes what it was made to take at least, four of them what four were made to take."""
    (tmp_path / "m.onnx").write_bytes(scaled_identity(4, 1.0))
    model = {"file": "m.onnx", "input": {"steps": [{"custom": held(5.0)}]}}
    config = parse_config({"tier": "endpoint", "model": model, "log": {"level": "error"}}, base=tmp_path)
    timing = asyncio.run(time_model(config, [1, 4], 0.1))
    assert not timing.inline
    assert timing.medians_ms[1] >= 5.0
    assert timing.quantiles_ms[0] >= 5.0
    assert timing.medians_ms[4] >= 5.0 * (1 + 3 * EACH_MORE)
    assert timing.each_more == fit_each_more(timing.medians_ms)
    assert timing.rss_mb > 10


def test_a_gain_is_a_share_and_needs_batches() -> None:
    """It is at most 1, and not known from one size."""
    assert fit_each_more({1: 1.0}) is None
    assert fit_each_more({1: 1.0, 2: 3.0}) == 1.0
    assert fit_each_more({1: 1.0, 2: 1.0, 4: 1.0}) == 0.0
