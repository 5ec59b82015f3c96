"""The plain fleet as a SimPy user would write it: a resource for every processor, a process for every input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tandem:
    """The workload; times in seconds, all exponential but the one-way latencies, which are constant."""

    devices: int
    nodes: int
    workers: int
    rate_hz: float = 0.1
    service_s: tuple[float, float, float] = (0.5, 0.02, 0.004)
    access_s: float = 0.002
    uplink_s: float = 0.015
    share_up: tuple[float, float] = (0.2, 0.25)

    @classmethod
    def of(cls, devices: int) -> Tandem:
        """Return the workload for so many devices: 100 to a node, the server at about half load."""
        return cls(devices, devices // 100, max(1, round(devices * 0.1 * 0.2 * 0.25 * 0.004 / 0.5)))


def run_simpy(work: Tandem, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Return the latency of every input, seconds."""
    import simpy

    env = simpy.Environment()
    rng = np.random.default_rng(seed)
    processors = [simpy.Resource(env) for _ in range(work.devices)]
    nodes = [simpy.Resource(env) for _ in range(work.nodes)]
    server = simpy.Resource(env, work.workers)
    pool: list[float] = []
    latencies: list[float] = []

    def exponential(mean: float) -> float:
        if not pool:
            pool.extend(rng.standard_exponential(10_000).tolist())
        return mean * pool.pop()

    chances: list[float] = []

    def uniform() -> float:
        if not chances:
            chances.extend(rng.random(10_000).tolist())
        return chances.pop()

    def serve(resource: Any, mean: float) -> Generator[Any, Any, None]:
        with resource.request() as turn:
            yield turn
            yield env.timeout(exponential(mean))

    def handle(device: int) -> Generator[Any, Any, None]:
        arrived = env.now
        yield from serve(processors[device], work.service_s[0])
        if uniform() < work.share_up[0]:
            yield env.timeout(work.access_s)
            yield from serve(nodes[device * work.nodes // work.devices], work.service_s[1])
            if uniform() < work.share_up[1]:
                yield env.timeout(work.uplink_s)
                yield from serve(server, work.service_s[2])
                yield env.timeout(work.uplink_s)
            yield env.timeout(work.access_s)
        latencies.append(env.now - arrived)

    def source(device: int) -> Generator[Any, Any, None]:
        while True:
            yield env.timeout(exponential(1.0 / work.rate_hz))
            if env.now >= duration_s:
                return
            env.process(handle(device))

    for device in range(work.devices):
        env.process(source(device))
    env.run()
    return np.array(latencies)
