"""Run a scenario: `simulate`."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies import listens
from escalade.simulations.fleet.backends import SerialBackend, ThreadBackend
from escalade.simulations.fleet.book import Asked
from escalade.simulations.fleet.compiled import World, profile_of
from escalade.simulations.fleet.deciding import PolicyRaisedError, failure_of
from escalade.simulations.fleet.learning import Mailbox, mean_ms
from escalade.simulations.fleet.load import unstable
from escalade.simulations.fleet.policy_setup import Given, policies_of, reads
from escalade.simulations.fleet.protocol import Backend, Control, Lesson, Progress
from escalade.simulations.fleet.result import Count, Failure, FleetResult, Series, Stats
from escalade.simulations.fleet.rows import FAR, Ended
from escalade.simulations.fleet.server import Servers
from escalade.simulations.fleet.windows import Windows
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from escalade.policies import Feedback, Policy, Telemetry
    from escalade.simulations.fleet.aggregators import Aggregators
    from escalade.simulations.fleet.protocol import ShardEnd, ShardOutput
    from escalade.simulations.fleet.scenario import Scenario


REQUEST_COLUMNS = {
    "cell": Ended.CELL,
    "number": Ended.RID,
    "arrived_ns": Ended.T,
    "device": Ended.DEVICE,
    "class": Ended.KIND,
    "tier": Ended.TIER,
    "reason": Ended.REASON,
    "ended_ns": Ended.AT,
    "correct": Ended.ROW,
}
"""Of `FleetResult.requests_table`; int64, `tier` -1 and `correct` 0 where there is no answer."""


def simulate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    backend: str | Backend = "threads",
    workers: int | None = None,
    policy: Given = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    keep_requests: bool = False,
) -> FleetResult:
    """Run a scenario and return what became of every request.

    Parameters
    ----------
    seed
        In place of the scenario's.
    backend
        ``serial``, ``threads``, ``ray``, or an object of the protocol `Backend`, which is closed at the end.
    workers
        Threads, or Ray's actors; default: as many as there are processors.
    policy
        In place of the scenario's: one for all endpoints, or by name of class and ``edge_node``. Used as they are:
        what they learn stays in them.
    progress
        Called after every window.
    stop
        Asked after every window; once it says yes the run ends and what was done is returned.
    keep_requests
        Return a row for every request; for small runs.

    Raises
    ------
    ConfigError
        For what cannot be run, before anything starts. A policy that raises later does not raise here: see
        `FleetResult.failure`.
    """
    world = World.of(scenario, seed)
    fused = _aggregators(world)
    run = _Run(world, policies_of(world, policy), fused, _backend(backend, workers), keep_requests)
    try:
        return run.go(progress, stop)
    finally:
        run.backend.close()


def check(scenario: Scenario, policy: Given = None) -> list[str]:
    """Return warnings about a scenario without running it; raises ConfigError as `simulate` does."""
    world = World.of(scenario)
    _aggregators(world)
    return unstable(world, policies_of(world, policy))


class _Run:
    """One run: windows, servers, policies."""

    def __init__(
        self, world: World, policies: list[Policy], fused: Aggregators | None, backend: Backend, keep: bool
    ) -> None:
        self._world, self._policies, self.backend = world, policies, backend
        levels = [int(place == len(policies) - 1) for place in range(len(policies))]
        self._observes = [listens(one, "observe") for one in policies]
        self._retunes = [listens(one, "retune") for one in policies]
        read = [reads(world, one, level) for one, level in zip(policies, levels, strict=True)]
        self._told = any("upstream_ms" in one for one in read)
        loads = ["upstream_load" in one for one in read]
        self._asked = Asked(
            keep,
            (any(self._retunes[:-1]), self._retunes[-1]),
            self._retunes[-1] and policies[-1].sequential,
            (any(loads[:-1]), loads[-1]),
            any(self._observes),
        )
        heats = any(profile_of(one).thermal is not None for one in world.scenario.endpoints)
        steps = []
        if any(self._retunes) or self._told or any(loads) or heats:
            steps.append(world.interval)
        if any(self._observes):
            steps.append(world.feedback)
        self._windows = Windows.of(world, tuple(steps))
        self._mail = Mailbox(world, self._asked.outcomes, by_node=self._asked.by_node)
        self._servers = Servers(world, self._mail.counts, self._asked)
        self._aggregators = fused
        self._stats = Stats.empty(world.intervals, len(world.scenario.endpoints))
        self._ended: list[NDArray[np.int64]] = []
        self._requests, self._answered, self._pending = 0, [0, 0], 0

    def go(self, progress: Callable[[Progress], None] | None, stop: Callable[[], bool] | None) -> FleetResult:
        """Run window by window."""
        world, started, cpu = self._world, time.perf_counter(), time.process_time()
        result = FleetResult(world.scenario, world.seed, self.backend.name, self._stats, 0.0)
        result.warnings = unstable(world, self._policies)
        self.backend.start(world, self._asked)
        control = Control(self._policies)
        now = 0
        for t1 in self._windows:
            outputs = self.backend.advance(control, t1)
            result.failure = next((one.failure for one in outputs if one.failure is not None), None)
            self._serve(outputs, t1)
            if self._aggregators is not None and result.failure is None:
                try:
                    self._aggregators.advance([one.seen for one in outputs], t1, self._stats)
                except PolicyRaisedError as error:
                    result.failure = error.failure
            if result.failure is not None:
                break
            now = min(t1, world.duration)
            if t1 < world.duration:
                try:
                    control = self._control(outputs, t1)
                except PolicyRaisedError as error:
                    result.failure = error.failure
                    break
            else:
                control = replace(control, lessons=[])
            if progress is not None:
                progress(self._progress(now, started))
            if stop is not None and t1 < FAR and stop():
                result.complete = False
                break
            del outputs  # the next window makes as much again
        result.complete = result.complete and result.failure is None
        result.simulated_s = now / 1e9
        self._finish(result, self.backend.finish(now))
        elsewhere_s, elsewhere_mb = self.backend.used()
        result.wall_s, result.cpu_s = time.perf_counter() - started, time.process_time() - cpu + elsewhere_s
        result.peak_rss_mb = _peak_rss_mb() + elsewhere_mb
        return result

    def _serve(self, outputs: list[ShardOutput], t1: int) -> None:
        up = [rows for one in outputs for rows in one.up]
        for one in outputs:
            one.up = []  # so that each goes as soon as the servers have it
        served = self._servers.advance(up, t1, self._stats, self._asked)
        self._ended += served.ended
        self._mail.put(
            [*(one.feedback for one in outputs), *served.fed], [*(one.outcomes for one in outputs), *served.outcomes]
        )
        for one in outputs:
            self._mail.put_counts(one.told)
            one.told = []
        self._requests += sum(one.requests for one in outputs)
        for level in (0, 1):
            self._answered[level] += sum(one.answered[level] for one in outputs)
        self._pending = sum(one.pending for one in outputs) + served.pending

    def _control(self, outputs: list[ShardOutput], t1: int) -> Control:
        """Tell the policies what is due at `t1`; return what is in force from then on."""
        world, changed = self._world, False
        control = Control(upstream_ms=self._upstream_ms, server_load=self._servers.loads(t1))
        if any(self._observes) and t1 % world.feedback == 0:
            for number, told in enumerate(self._mail.feedback(t1)):
                if told is not None and self._observes[number]:
                    changed |= self._tell(number, "observe", *told, t1, control)
        if t1 % world.interval == 0:
            row = self._stats.series[(t1 - 1) // world.interval] + sum(one.interval for one in outputs)
            if any(self._retunes):
                edge, server = world.scenario.edge_nodes, world.scenario.edge_servers
                load = (
                    int(row[Series.BUSY_NS_1]) / (edge.count * edge.workers * world.interval),
                    int(row[Series.BUSY_NS_2]) / (server.count * server.workers * world.interval),
                )
                for number, heard in enumerate(self._mail.telemetry(t1, world.interval, load, self._retunes)):
                    if heard is not None:
                        changed |= self._tell(number, "retune", *heard, t1, control)
            if self._told:
                self._upstream_ms = (
                    mean_ms(int(row[Series.ABOVE_NS_0]), int(row[Series.ABOVE_0]), self._upstream_ms[0]),
                    mean_ms(int(row[Series.ABOVE_NS_1]), int(row[Series.ABOVE_1]), self._upstream_ms[1]),
                )
                control.upstream_ms = self._upstream_ms
        if changed:
            control.policies = self._policies
        return control

    _upstream_ms: tuple[float, float] = (float("nan"), float("nan"))

    def _tell(
        self, number: int, call: str, what: Feedback | Telemetry, unit: NDArray[np.int64], t1: int, control: Control
    ) -> bool:
        """Tell a policy, or have every unit's own told; return whether the one that all share has changed."""
        if self._policies[number].sequential:
            control.lessons.append(Lesson(number, what, unit, t1 / 1e9))
            return False
        try:
            getattr(self._policies[number], call)(what)
        except Exception as error:
            tier = "edge_node" if number == len(self._policies) - 1 else self._class(number)
            raise PolicyRaisedError(_told_failure(error, tier, call, what, t1)) from error
        return True

    def _class(self, number: int) -> str:
        return f"endpoints {self._world.scenario.endpoints[number].name!r}"

    def _progress(self, now: int, started: float) -> Progress:
        top = int(self._stats.count[Count.ANSWERED_2])
        beside = self._stats.count[[Count.ANSWERED_0, Count.ANSWERED_1]]  # the servers', of those they gave up
        answered = (self._answered[0] + int(beside[0]), self._answered[1] + int(beside[1]), top)
        return Progress(
            now / 1e9,
            self._world.duration / 1e9,
            self._requests,
            answered,
            self._pending,
            time.perf_counter() - started,
        )

    def _finish(self, result: FleetResult, ends: list[ShardEnd]) -> None:
        for one in ends:
            self._stats.add(one.stats)
        if self._aggregators is not None:
            result.unhealthy = self._aggregators.unhealthy()
        ended = np.concatenate([*(one.ended for one in ends), *self._ended]) if self._asked.keep else None
        if ended is not None:
            ended = ended[np.lexsort((ended[:, Ended.RID], ended[:, Ended.CELL]))]
            result.requests_table = {name: ended[:, column] for name, column in REQUEST_COLUMNS.items()}
        device, capacity, left, died = (np.concatenate([one.charge[row] for one in ends]) for row in range(4))
        if len(device):
            result.devices = {
                "device": device.astype(np.float64),
                "charge_share": left / capacity,
                "died_s": np.where(died >= 0, died / 1e9, np.nan),
            }
            if (np.diff(device) < 0).any():  # several classes
                order = np.argsort(device)
                result.devices = {name: column[order] for name, column in result.devices.items()}


def _aggregators(world: World) -> Aggregators | None:
    """Return what answers fused events, if there are any; raises ConfigError if their rule cannot be used."""
    if world.sights is None:
        return None
    from escalade.simulations.fleet.aggregators import Aggregators
    from escalade.simulations.fleet.fusing import rule_of

    return Aggregators(world, rule_of(world))


def _told_failure(error: Exception, tier: str, call: str, what: object, t1: int) -> Failure:
    failure = failure_of(error, tier, -1, call, None, t1 / 1e9)
    rows = len(what) if hasattr(what, "__len__") else 0
    return Failure(t1 / 1e9, tier, -1, rows, call, failure.batch, failure.traceback)


def _backend(backend: str | Backend, workers: int | None) -> Backend:
    if not isinstance(backend, str):
        return backend
    if backend == "serial":
        return SerialBackend()
    if backend == "threads":
        return ThreadBackend(workers)
    if backend == "ray":
        from escalade.simulations.fleet.ray_backend import RayBackend

        return RayBackend(workers=workers)
    raise ConfigError(f"no backend {backend!r}; there are serial, threads and ray", key="backend")


def _peak_rss_mb() -> float:
    """Return the most memory this process has held so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
