"""How long a tier on this board takes for its model: `time_model`, over batch sizes."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.config import LimitsConfig, TierConfig
from escalade.tiers.edge_server import EdgeServer
from escalade.tiers.errors import ConfigError
from escalade.tiers.profiling.power import Draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.tiers.profiling.power import Meter
    from escalade.tiers.tier import Tier

SHARES = np.concatenate([np.linspace(0.0, 0.95, 20), [0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0]])
"""Of which the table of service times has a row."""
WARM_UP = 20
LEAST_RUNS = 20
"""Of each batch size, however short the time."""
SPREAD = 50
"""Different inputs, so that no run is like the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """Measured times of one model.

    Attributes
    ----------
    runs_ms:
        Float64 by batch size: the time of each run, in order.
    sha256, providers, inline:
        Of the model's bytes; what executed it; whether a single row runs on the event loop.
    rss_mb:
        Resident memory of this process at the end, Python and onnxruntime included; nan where it is not told.
    active_mw:
        What the meter told meanwhile; nan without one.
    """

    runs_ms: dict[int, NDArray[np.float64]]
    sha256: str
    providers: list[str]
    inline: bool
    rss_mb: float
    active_mw: float

    @property
    def quantiles_ms(self) -> NDArray[np.float64]:
        """Times of the smallest batch at `SHARES`."""
        found: NDArray[np.float64] = np.quantile(self.runs_ms[min(self.runs_ms)], SHARES)
        return found

    @property
    def medians_ms(self) -> dict[int, float]:
        """The median by batch size."""
        return {size: float(np.median(runs)) for size, runs in self.runs_ms.items()}

    @property
    def each_more(self) -> float | None:
        """What each further row of a batch takes, as a share of one alone, in [0, 1]; None without batches.

        Least squares of ``time(b) / time(1) - 1 = each_more * (b - 1)`` over the medians.
        """
        return fit_each_more(self.medians_ms)


def fit_each_more(medians_ms: dict[int, float]) -> float | None:
    """See `Timing.each_more`.

    >>> fit_each_more({1: 2.0, 4: 3.2})
    0.2
    """
    if len(medians_ms) < 2 or 1 not in medians_ms:
        return None
    more = np.array([size - 1 for size in medians_ms])
    gain = np.array(list(medians_ms.values())) / medians_ms[1] - 1
    return round(float(np.clip((more @ gain) / (more @ more), 0.0, 1.0)), 4)


def tier_config(config: TierConfig, batches: Sequence[int]) -> TierConfig:
    """Return a tier of the same model and score that answers everything itself and batches as much as asked for."""
    most = max(batches)
    return TierConfig(
        tier="edge_server",
        model=config.model,
        score=config.score,
        batching=config.batching.model_copy(update={"max_batch": max(most, config.batching.max_batch)}),
        limits=LimitsConfig(max_rows=max(most, LimitsConfig().max_rows)),
        at_rest=config.at_rest,
        log=config.log,
    )


async def time_model(config: TierConfig, batches: Sequence[int], seconds: float, meter: Meter | None = None) -> Timing:
    """Run the model as a tier does, one request after another, and take the time of each.

    In it are the event loop or the worker's thread, preprocessing, the model, score and policy; not in it are gRPC
    and waiting for others. Inputs are drawn evenly from [0, 1), whole numbers of the type's small values.

    Parameters
    ----------
    config:
        A tier's; model, score, batching and the model's key are used, and nothing is written or listened on.
    batches:
        Rows of a request, with 1 among them.
    seconds:
        For all of them together, after the warm-up.
    meter:
        Tells what the board draws during the runs.

    Raises
    ------
    ConfigError
        When the model does not work, has several inputs, or its input's size is open.
    """
    runs_ms: dict[int, NDArray[np.float64]] = {}
    async with EdgeServer(tier_config(config, batches)) as server:
        tier = server.tier
        shape = tier.model.input.row_shape
        if -1 in shape:
            raise ConfigError(
                f"the size of a row is open: {list(shape)}; give it with --shape, or as `model.input.shape` in a "
                "tier's YAML",
                key="model.input.shape",
            )
        with meter.over() if meter else nullcontext(Draw()) as draw:
            for size in batches:
                runs_ms[size] = await _timed(tier, size, seconds / len(batches))
        return Timing(runs_ms, tier.model.sha256, tier.model.providers, tier.runs_inline, resident_mb(), draw.mw)


async def _timed(tier: Tier, size: int, seconds: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(size)
    shape, dtype = (size, *tier.model.input.row_shape), tier.model.input.dtype
    inputs = [_drawn(rng, shape, dtype) for _ in range(SPREAD if size == 1 else 4)]
    for number in range(WARM_UP):
        await tier.infer(inputs[number % len(inputs)])
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < stop:
        x = inputs[len(times) % len(inputs)]
        begin = time.perf_counter()
        await tier.infer(x)
        times.append(time.perf_counter() - begin)
    return np.array(times) * 1e3


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape, np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def resident_mb() -> float:
    """Return this process's resident memory, MB of 10^6 bytes; nan where the kernel does not tell it."""
    return _kernel_mb("/proc/self/status", "VmRSS")


def board_mb() -> float:
    """Return this machine's memory, MB of 10^6 bytes; nan where the kernel does not tell it."""
    return _kernel_mb("/proc/meminfo", "MemTotal")


def _kernel_mb(file: str, key: str) -> float:
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith(f"{key}:")), float("nan"))


def bare_config(file: Path, shape: list[int] | None = None) -> TierConfig:
    """Return the configuration of a tier that has nothing but a model: an ONNX file."""
    model: dict[str, Any] = {"file": file} | ({"input": {"shape": shape}} if shape is not None else {})
    return TierConfig.model_validate({"tier": "edge_server", "model": model})
