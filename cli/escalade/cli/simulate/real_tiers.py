"""The real tiers on this machine: `RealFleet` starts them with links between them, and asks them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.cli.demo.layout import HOST, MODEL_NAME, Member, config_of, free_ports
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.validation.measured import Measured
from escalade.simulations.validation.tables import MAX_BATCH, TIMEOUT_MS
from escalade.tiers.client import Client
from escalade.tiers.errors import SetupError
from escalade.tiers.testing.chaos.proxy import FaultyLink, Trouble
from escalade.tiers.testing.pace import held
from escalade.tiers.testing.processes import TierProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.calibrate import Calibration
    from escalade.cli.demo.data import Split

ENDPOINTS = 2
WARM_UP = 20
"""Inputs that each endpoint is asked before those that count."""
JITTER = 0.15
"""Of a link's delay: the mean of what it is exceeded by, each way."""
UPLINK_KBIT_S = 1000.0
SPARE_MS = 10_000.0

Policies = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RealFleet:
    """An edge server, an edge node and endpoints, each `escalade serve`, with a link of its own upward.

    Attributes
    ----------
    folder
        Of the models and of what is written.
    model_ms
        What each tier is made to take for an input.
    delay_ms
        Of access link and uplink, each way.
    imports
        Folders of users' own policies.
    check
        Raises when the run is to end.
    """

    folder: Path
    calibration: Calibration
    digits: Split
    model_ms: Sequence[float]
    delay_ms: Sequence[float]
    imports: Sequence[Path]
    check: Callable[[], None]

    def config(self, level: int, address: str, upstream: str = "", policy: Any = None) -> dict[str, Any]:
        """Return the YAML of one tier: the demo's, with one worker and the time of a slower board."""
        above = Member("", TIERS[level + 1], upstream, "", self.folder) if upstream else None
        config = config_of(Member("", TIERS[level], address, f"{HOST}:0", self.folder, above), self.calibration)
        if self.model_ms[level]:
            steps = config["model"]["input"]["steps"]
            config["model"]["input"]["steps"] = [{"custom": held(self.model_ms[level])}, *steps]
        config["model"]["self_test"] = False  # it was written a moment ago, by this program
        config["batching"] = {"workers": 1, "max_batch": MAX_BATCH if level else 1}
        if above is not None:
            config["policy"] = policy
            config["upstream"]["timeout_ms"] = TIMEOUT_MS
        return config

    async def alone(self, policies: Policies, seconds: float, seed: int) -> Measured:
        """Return what so many seconds give with one input under way at a time."""
        async with self._started(policies) as (asking, uplink):
            order = np.random.default_rng(seed).permutation(len(self.digits))
            before, stop, number = uplink.bytes_up, time.monotonic() + seconds, 0
            while number < 3 or time.monotonic() < stop:
                await asking.ask(number % ENDPOINTS, int(order[number % len(order)]), True)
                number += 1
            return asking.measured(uplink.bytes_up - before)

    async def loaded(self, policies: Policies, rate_hz: float, seconds: float, seed: int) -> Measured:
        """Return what Poisson streams give that wait for no answer: whole passes through the digits, if long enough."""
        rng, inputs = np.random.default_rng(seed), len(self.digits)
        wanted = max(1, round(seconds * rate_hz * ENDPOINTS))
        passes = max(1, round(wanted / inputs))
        order = np.concatenate([rng.permutation(inputs) for _ in range(passes)])
        order = order[: wanted if wanted < inputs else len(order)]
        async with self._started(policies) as (asking, uplink):
            before = uplink.bytes_up
            shares = [order[endpoint::ENDPOINTS] for endpoint in range(ENDPOINTS)]
            times_s = [np.cumsum(rng.exponential(1 / rate_hz, len(own))) for own in shares]
            await asyncio.gather(*map(asking.stream, range(ENDPOINTS), shares, times_s))
            return asking.measured(uplink.bytes_up - before)

    def _started(self, policies: Policies) -> _Started:
        return _Started(self, policies)


class _Started:
    """The processes and links of one run, and who asks them."""

    def __init__(self, fleet: RealFleet, policies: Policies) -> None:
        self._fleet, self._policies, self._stack = fleet, policies, AsyncExitStack()

    async def __aenter__(self) -> tuple[_Asking, FaultyLink]:
        async with AsyncExitStack() as stack:
            found = await self._start(stack)
            self._stack = stack.pop_all()
        return found

    async def __aexit__(self, *about: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> tuple[_Asking, FaultyLink]:
        fleet = self._fleet
        addresses = [f"{HOST}:{port}" for port in free_ports(2 + ENDPOINTS)]
        server, node, *endpoints = addresses
        uplink = await self._link(stack, server, 1)
        configs = [fleet.config(2, server), fleet.config(1, node, uplink.address, self._policies[1])]
        for address in endpoints:
            access = await self._link(stack, node, 0)
            configs.append(fleet.config(0, address, access.address, self._policies[0]))
        paths = [*map(str, fleet.imports), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
        processes = [TierProcess(config, fleet.folder, environment=environment) for config in configs]
        for level in reversed(TIERS):  # who asks another finds it serving: its breaker must not open at the start
            await self._serve(stack, [process for process in processes if process.tier == level])
        clients = [await stack.enter_async_context(Client(address)) for address in endpoints]
        asking = _Asking(clients, fleet.digits)
        for number in range(WARM_UP):
            await asyncio.gather(*(asking.ask(one, number, False) for one in range(ENDPOINTS)))
        return asking, uplink

    async def _serve(self, stack: AsyncExitStack, processes: Sequence[TierProcess]) -> None:
        for process in processes:
            stack.callback(_stop, process)
            process.launch()
        for process in processes:
            if await asyncio.to_thread(process.wait_for, "serving") is None:
                self._fleet.check()
                last = process.stderr[-1] if process.stderr else "it printed nothing"
                raise SetupError(f"the {process.tier.replace('_', ' ')} does not serve: {last}")

    async def _link(self, stack: AsyncExitStack, target: str, hop: int) -> FaultyLink:
        delay_s = self._fleet.delay_ms[hop] / 1e3
        trouble = Trouble(delay_s=delay_s, delay_up_s=delay_s, jitter_s=JITTER * delay_s)
        if hop == 1:
            trouble = replace(trouble, up_bytes_per_s=UPLINK_KBIT_S * 1e3 / 8)
        link: FaultyLink = await stack.enter_async_context(FaultyLink(target, seed=hop))
        await link.set(trouble)
        return link


class _Asking:
    """Sends digits to endpoints and notes each answer."""

    def __init__(self, clients: Sequence[Client], digits: Split) -> None:
        self._clients, self._digits = clients, digits
        self._rows: list[tuple[int, bool, bool, list[float]]] = []
        self._reasons: Counter[str] = Counter()

    async def ask(self, endpoint: int, index: int, count: bool) -> None:
        """Ask an endpoint about one digit."""
        image = self._digits.images[index : index + 1]
        answer = await self._clients[endpoint].infer(image, model=MODEL_NAME, timeout_s=SPARE_MS / 1e3)
        assert answer.label is not None
        if count:
            hops = {hop.tier: hop.elapsed_ms for hop in answer.path}
            times = [hops.get(name, float("nan")) for name in TIERS]
            right = int(answer.label[0]) == int(self._digits.labels[index])
            self._reasons.update([answer.reason] if answer.reason else [])
            self._rows.append((TIERS.index(answer.tier[0]), right, bool(answer.degraded[0]), times))

    async def stream(self, endpoint: int, indices: NDArray[np.int64], at_s: NDArray[np.float64]) -> None:
        """Ask about each at its time, without waiting for answers."""
        begin, asked = time.monotonic(), []
        for index, at in zip(indices.tolist(), at_s.tolist(), strict=True):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            asked.append(asyncio.create_task(self.ask(endpoint, index, True)))
        await asyncio.gather(*asked)

    def measured(self, bytes_up: int) -> Measured:
        """Return everything that counted; `bytes_up` went over the uplink meanwhile."""
        tier, right, degraded, hops = zip(*self._rows, strict=True)
        hop_ms = np.array(hops)
        asked = max(1, int(np.isfinite(hop_ms[:, 2]).sum()))
        return Measured(np.array(tier), np.array(right), np.array(degraded), hop_ms, bytes_up / asked, self._reasons)


def _stop(process: TierProcess) -> None:
    if process.running:
        process.stop()
