"""Fleet simulation: a scenario in, what became of every request out.

::

    from escalade.simulations.fleet import load_scenario, simulate

    scenario = load_scenario("simulations/scenarios/smart-cameras.yaml", ["endpoints.camera.count=500"])
    result = simulate(scenario, seed=1, backend="threads")
    print(result.hash, result.share, result.accuracy)

Where to look:

- `scenario`, `distribution`, `hardware`, `arrivals`, `network`: the pydantic models; `scenario_file` reads YAML with
  ``--set`` overrides and raises `escalade.tiers.errors.ConfigError`, one line with file, key and remedy.
- `engine.simulate(scenario, *, seed=None, backend="threads", workers=None, policy=None, progress=None, stop=None,
  keep_requests=False) -> FleetResult`: runs it. `progress(Progress)` is called after every window; when `stop()`
  returns true the run ends there and returns what it has (`complete` is false). A policy that raises ends it as well,
  with `FleetResult.failure` set. `check(scenario)` returns the warnings (unstable load) without running.
- `result`: `FleetResult` and `Stats` (counters by `Count`, `Reason`, `Hist`, `Series`), merged by addition.
- `compiled.World`: a scenario as arrays, picklable: what a backend ships to a worker.
- `shard.Shard(world, cells, asked)`: the state of consecutive cells. ``advance(control, t1) -> ShardOutput``;
  ``checkpoint() -> bytes``, ``Shard.restore(world, blob)``; ``finish(until) -> ShardEnd``. It is pure but for its own
  state: a Ray actor owns one, and a lost actor is restarted from the last window's checkpoint and advanced again.
- `book.Asked`: what the run wants beside counters; it is part of `Backend.start`.
- `protocol`: `Control`, `ShardOutput`, `ShardEnd`, and `Backend`, which a new backend implements; `ranges` deals out
  the cells. ``simulate(backend=...)`` takes ``"serial"``, ``"threads"`` or an object with that protocol.
- `frames.frames(result)`: tidy tables, as Polars or pandas data frames where one is installed.
- `reference.simulate_by_events`: one heap, one request at a time; bit-identical, for tests.
"""

from escalade.simulations.fleet.engine import check, simulate
from escalade.simulations.fleet.frames import frames
from escalade.simulations.fleet.result import FleetResult
from escalade.simulations.fleet.scenario import Scenario
from escalade.simulations.fleet.scenario_file import load_scenario, parse_scenario

__all__ = ["FleetResult", "Scenario", "check", "frames", "load_scenario", "parse_scenario", "simulate"]
