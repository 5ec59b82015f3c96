from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from escalade.tiers.admission import Admission, RunTimes
from escalade.tiers.batcher import Batcher
from escalade.tiers.errors import DeadlineError, ModelError, OverloadedError
from escalade.tiers.testing.fakes import ManualClock

FOREVER = float("inf")


class GatedModel:
    """Doubles its input; each run waits at a gate that the test opens, and is written down."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.batches: list[list[float]] = []

    def __call__(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        self.batches.append(x[:, 0].tolist())
        self.started.release()
        assert self.gate.acquire(timeout=10)
        if 13.0 in x:
            raise ModelError("unlucky")
        return [x * 2]


def row(value: float) -> NDArray[np.float32]:
    return np.full((1, 2), value, np.float32)


Make = Callable[..., Batcher]


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def make(model: GatedModel, clock: ManualClock) -> AsyncIterator[Make]:
    made: list[Batcher] = []

    def build(max_batch: int = 8, max_delay_s: float = 0.0, max_queue: int = 100) -> Batcher:
        times = RunTimes(0.0, max_rows=max_batch)
        admission = Admission("edge_node", times, max_queue=max_queue, max_batch=max_batch, workers=1)
        batcher = Batcher(
            model,
            max_batch=max_batch,
            max_delay_s=max_delay_s,
            workers=1,
            clock=clock,
            admission=admission,
            on_batch=lambda rows: None,
        )
        made.append(batcher)
        return batcher

    yield build
    for batcher in made:
        model.gate.release(100)
        await asyncio.to_thread(batcher.close)


async def started(model: GatedModel) -> None:
    assert await asyncio.to_thread(model.started.acquire, timeout=10)


@pytest.mark.asyncio
async def test_an_idle_batcher_runs_a_request_at_once_and_alone(make: Make, model: GatedModel) -> None:
    """The first request does not wait for company, even where a delay is allowed."""
    batcher = make(max_delay_s=60)
    future = batcher.submit(row(1), FOREVER)
    await started(model)
    model.gate.release()
    (output,) = await future
    assert output.tolist() == [[2, 2]]


@pytest.mark.asyncio
async def test_what_waits_while_the_worker_is_busy_shares_the_next_run(make: Make, model: GatedModel) -> None:
    """Under load the batch grows, in order, and everyone gets their own rows."""
    batcher = make()
    futures = [batcher.submit(row(value), FOREVER) for value in range(5)]
    await started(model)
    model.gate.release(2)
    outputs = await asyncio.gather(*futures)
    assert model.batches == [[0], [1, 2, 3, 4]]
    assert [output[0][0, 0] for output in outputs] == [0, 2, 4, 6, 8]


@pytest.mark.asyncio
async def test_a_run_never_has_more_rows_than_max_batch(make: Make, model: GatedModel) -> None:
    """Requests are taken whole, up to max_batch rows; a larger one goes alone."""
    batcher = make(max_batch=3)
    sizes = [1, 2, 2, 5, 1]
    futures = [batcher.submit(np.full((size, 2), size, np.float32), FOREVER) for size in sizes]
    model.gate.release(5)
    await asyncio.gather(*futures)
    assert [len(batch) for batch in model.batches] == [1, 2, 2, 5, 1]


@pytest.mark.asyncio
async def test_a_request_that_is_late_is_dropped_not_computed(
    make: Make, model: GatedModel, clock: ManualClock
) -> None:
    """When a worker is free too late, the request fails with DeadlineError and its rows are never run."""
    batcher = make()
    first = batcher.submit(row(1), FOREVER)
    late = batcher.submit(row(2), clock() + 1)
    await started(model)
    clock.advance(2)
    model.gate.release()
    await first
    with pytest.raises(DeadlineError):
        await late
    assert model.batches == [[1]]


@pytest.mark.asyncio
async def test_a_cancelled_request_leaves_the_queue(make: Make, model: GatedModel) -> None:
    """Nobody computes what nobody waits for."""
    batcher = make()
    first = batcher.submit(row(1), FOREVER)
    gone = batcher.submit(row(2), FOREVER)
    last = batcher.submit(row(3), FOREVER)
    await started(model)
    gone.cancel()
    model.gate.release(2)
    await asyncio.gather(first, last)
    assert model.batches == [[1], [3]]


@pytest.mark.asyncio
async def test_one_input_that_breaks_the_model_fails_alone(make: Make, model: GatedModel) -> None:
    """Its neighbours in the run are computed again, each alone, and answered."""
    batcher = make()
    first = batcher.submit(row(1), FOREVER)
    shared = [batcher.submit(row(value), FOREVER) for value in (2, 13, 3)]
    model.gate.release(10)
    await first
    good, bad, other = await asyncio.gather(*shared, return_exceptions=True)
    assert isinstance(bad, ModelError)
    assert not isinstance(good, BaseException)
    assert good[0][0, 0] == 4
    assert not isinstance(other, BaseException)
    assert other[0][0, 0] == 6


@pytest.mark.asyncio
async def test_rows_of_different_sizes_do_not_share_a_run(make: Make, model: GatedModel) -> None:
    """Inputs of an open size are batched with their like only."""
    batcher = make()
    futures = [batcher.submit(np.ones((1, size), np.float32), FOREVER) for size in (2, 2, 3)]
    model.gate.release(10)
    await asyncio.gather(*futures)
    assert [len(batch) for batch in model.batches] == [1, 1, 1]


@pytest.mark.asyncio
async def test_under_load_a_run_may_wait_to_fill(make: Make, model: GatedModel, clock: ManualClock) -> None:
    """With max_delay_s, a run after a shared one is held until it is full."""
    batcher = make(max_batch=2, max_delay_s=60)
    futures = [batcher.submit(row(0), FOREVER), batcher.submit(row(1), FOREVER)]
    await started(model)
    futures += [batcher.submit(row(2), FOREVER), batcher.submit(row(3), FOREVER)]
    model.gate.release(2)
    await asyncio.gather(*futures[:3])
    held = futures[3]
    assert not held.done()
    model.gate.release()
    last = batcher.submit(row(4), FOREVER)
    await asyncio.gather(held, last)
    assert model.batches == [[0], [1, 2], [3, 4]]


@pytest.mark.asyncio
async def test_the_more_urgent_run_first_and_each_class_in_its_order(make: Make, model: GatedModel) -> None:
    """Critical before normal before bulk, whoever came first."""
    batcher = make(max_batch=2)
    futures = [batcher.submit(row(0), FOREVER)]
    for value, rank in ((1, 2), (2, 1), (3, 2), (4, 0), (5, 1), (6, 0)):
        futures.append(batcher.submit(row(value), FOREVER, rank))
    model.gate.release(4)
    await asyncio.gather(*futures)
    assert model.batches == [[0], [4, 6], [2, 5], [1, 3]]
    assert batcher.waiting_rows == [0, 0, 0]


@pytest.mark.asyncio
async def test_a_class_that_is_never_served_expires(make: Make, model: GatedModel, clock: ManualClock) -> None:
    """More urgent requests that never end cost the others their turn, not their answer: it is an error, in time."""
    batcher = make(max_batch=1)
    first = batcher.submit(row(0), FOREVER)
    bulk = batcher.submit(row(1), clock() + 1, 2)
    critical = [batcher.submit(row(value), FOREVER, 0) for value in (2, 3, 4)]
    clock.advance(2)
    model.gate.release()
    await first
    with pytest.raises(DeadlineError):
        await bulk
    assert not critical[-1].done()
    assert batcher.waiting_rows[2] == 0
    model.gate.release(3)
    await asyncio.gather(*critical)
    assert model.batches == [[0], [2], [3], [4]]


@pytest.mark.asyncio
async def test_in_a_full_queue_the_newest_of_the_least_urgent_makes_room(make: Make, model: GatedModel) -> None:
    """It is told so at once, and the more urgent request is run."""
    batcher = make(max_queue=4)
    first = batcher.submit(row(0), FOREVER)
    normal = batcher.submit(row(1), FOREVER, 1, pending=1)
    bulk = [batcher.submit(row(value), FOREVER, 2, pending=value) for value in (2, 3)]
    critical = batcher.submit(row(4), FOREVER, 0, pending=4)
    with pytest.raises(OverloadedError, match="more urgent") as displaced:
        await bulk[1]
    assert displaced.value.cause == "displaced"
    with pytest.raises(OverloadedError, match="max_queue"):
        batcher.submit(row(5), FOREVER, 2, pending=4)
    model.gate.release(2)
    await asyncio.gather(first, normal, bulk[0], critical)
    assert model.batches == [[0], [4, 1, 2]]


@pytest.mark.asyncio
async def test_a_run_that_would_end_too_late_is_not_started(make: Make, model: GatedModel, clock: ManualClock) -> None:
    """Runs took a second; a request that waited and has half a second left is not computed in vain."""
    batcher = make(max_batch=1)
    for value in (0, 1):
        slow = batcher.submit(row(value), FOREVER)
        await started(model)
        clock.advance(1)
        model.gate.release()
        await slow
    first = batcher.submit(row(2), FOREVER)
    await started(model)
    hasty = batcher.submit(row(3), clock() + 1.5)
    clock.advance(1.1)
    model.gate.release()
    await first
    with pytest.raises(DeadlineError):
        await hasty
    assert model.batches == [[0], [1], [2]]
