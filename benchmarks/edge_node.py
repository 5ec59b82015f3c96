"""B2 and B3: an edge node over loopback against the hand-written servicer."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.load import Load
from benchmarks.processes import all_cores, bare_server, escalade_server, pinned, split_cores
from benchmarks.repeats import as_dicts, interleave, middle, ratio
from benchmarks.report import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.models import Model, Models
    from benchmarks.repeats import Samples, Settings

CONCURRENCY = 64


def node_config(model: Model) -> dict[str, object]:
    """Return an edge node that accepts every answer of its own, all else as by default."""
    return {
        "tier": "edge_node",
        "model": {"file": str(model.file)},
        "policy": {"name": "Threshold", "threshold": 0.0},
        "limits": {"default_deadline_ms": 30_000},
    }


async def small_model(models: Models, folder: Path, settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """B2: a model much cheaper than a call. Each server on one core, the load generator on another."""
    server_cores, own_cores = split_cores()
    async with AsyncExitStack() as stack:
        ours, bare = await open_both(stack, models.small, folder, server_cores, own_cores)
        seconds = settings.seconds
        samples = await interleave(
            {
                "bare unary c64": partial(bare.unary, CONCURRENCY, seconds),
                "ours unary c64": partial(ours.unary, CONCURRENCY, seconds),
                "ours stream w64": partial(ours.stream, CONCURRENCY, seconds),
                "ours 4 streams w16": partial(ours.stream, CONCURRENCY // 4, seconds, 4),
                "bare unary c16": partial(bare.unary, 16, seconds / 2),
                "ours unary c16": partial(ours.unary, 16, seconds / 2),
                "bare unary c1": partial(bare.unary, 1, seconds / 2),
                "ours unary c1": partial(ours.unary, 1, seconds / 2),
            },
            settings.repeats,
        )
    rows = [
        _against_bare("B2", "small CNN, unary c64", samples, "unary c64", 0.9),
        _against_unary("small CNN, 1 stream / our unary", samples, "ours stream w64", 2.0),
        _against_unary("small CNN, 4 streams / our unary", samples, "ours 4 streams w16", None),
        _against_bare("B2", "small CNN, unary c16", samples, "unary c16", None),
        _against_bare("B2", "small CNN, unary c1", samples, "unary c1", None),
    ]
    return rows, {"B2": as_dicts(samples)}


async def large_model(models: Models, folder: Path, settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """B3: a model dearer than a call. Every process may use every core, as where nobody pins them."""
    async with AsyncExitStack() as stack:
        ours, bare = await open_both(stack, models.large, folder, all_cores(), all_cores())
        samples = await interleave(
            {
                "bare unary c64": partial(bare.unary, CONCURRENCY, settings.seconds),
                "ours unary c64": partial(ours.unary, CONCURRENCY, settings.seconds),
                "bare unary c1": partial(bare.unary, 1, settings.seconds),
                "ours unary c1": partial(ours.unary, 1, settings.seconds),
            },
            settings.repeats,
        )
    p99 = ratio(samples, "ours unary c64", "bare unary c64", "p99_ms")
    p50 = ratio(samples, "ours unary c1", "bare unary c1", "p50_ms")
    rows = [
        _against_bare("B3", "1 ms model, unary c64", samples, "unary c64", 1.0),
        Row("B3", "1 ms model, p99 at c64", p99, "x", 1.0, detail="both as in the row above"),
        Row(
            "B3",
            "1 ms model, p50 at c1",
            p50,
            "x",
            1.1,
            detail=f"ours {figures(samples, 'ours unary c1')}; bare {figures(samples, 'bare unary c1')}",
        ),
    ]
    return rows, {"B3": as_dicts(samples)}


async def open_both(
    stack: AsyncExitStack, model: Model, folder: Path, cores: Sequence[int], own_cores: Sequence[int]
) -> tuple[Load, Load]:
    """Start our node and the bare servicer; only the one under load uses the processor."""
    ours = stack.enter_context(escalade_server(node_config(model), folder, cores))
    bare = stack.enter_context(bare_server(model.file, cores))
    stack.enter_context(pinned(own_cores))
    return (
        await stack.enter_async_context(Load(ours, model, output="posterior")),
        await stack.enter_async_context(Load(bare, model, output="logits")),
    )


def _against_bare(bench: str, what: str, samples: Samples, case: str, at_least: float | None) -> Row:
    ours, bare = f"ours {case}", f"bare {case}"
    detail = f"ours {figures(samples, ours)}; bare {figures(samples, bare)}"
    value = ratio(samples, ours, bare, "requests_per_s")
    return Row(bench, f"{what}, ours / bare", value, "x", at_least, at_most=False, detail=detail)


def _against_unary(what: str, samples: Samples, case: str, at_least: float | None) -> Row:
    value = ratio(samples, case, "ours unary c64", "requests_per_s")
    return Row("B2", what, value, "x", at_least, at_most=False, detail=figures(samples, case))


def figures(samples: Samples, case: str) -> str:
    """Return one case's medians as text."""
    rate, p50, p99, cpu = (
        middle(samples, case, field) for field in ("requests_per_s", "p50_ms", "p99_ms", "server_cpu_us")
    )
    return f"{rate:.0f}/s p50 {p50:.2f} p99 {p99:.2f} ms cpu {cpu:.0f} us"
