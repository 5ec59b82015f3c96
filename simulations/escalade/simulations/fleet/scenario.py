"""A simulated world's description: `Scenario`. Units stand in names; a default's source in its docstring.

`scenario_file.load_scenario` reads one from YAML, with overrides and clear messages.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from escalade.simulations.fleet.arrivals import Arrivals
from escalade.simulations.fleet.distribution import Constant, Distribution, NonNegative, Positive, Share
from escalade.simulations.fleet.event_section import Events
from escalade.simulations.fleet.hardware import HardwareProfile
from escalade.simulations.fleet.network import Link, Period, UpDown
from escalade.tiers.config import Section

TIERS = ("endpoint", "edge_node", "edge_server")
Count = Annotated[int, Field(ge=1)]


class Scores(Section):
    """What the tiers' models say: a table of samples, of which every request draws one, evenly.

    ``parametric`` needs nothing; ``digits`` trains three models on scikit-learn's digits; any other is a trace
    file as `escalade record merge` writes (see `escalade.simulations.trace_file`).
    """

    table: str = "parametric"
    split: Literal["cal", "test"] = "test"
    score: str = "max_prob"
    """As in the tiers; ``energy`` needs a table of logits."""
    temperature: Positive | list[Positive] = 1.0
    """Divides the logits of a trace file."""
    classes: Annotated[int, Field(ge=2, le=1000)] = 10
    """Of ``parametric``."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Of ``parametric``."""
    accuracy: tuple[Share, Share, Share] = (0.80, 0.90, 0.96)
    """Of ``parametric``, lowest tier first: assumed, about what Fashion-MNIST gives with three sizes of CNN."""


class Churn(Section):
    """Devices that leave and come back, each by itself; both times are exponential. All start online."""

    online_s: Positive
    """Mean."""
    offline_s: Positive
    """Mean."""


class Mobility(Section):
    """Devices that move from edge node to edge node, each at moments of its own, every `dwell_s`.

    The next node is any of the same cell, evenly: nobody leaves the cell (`Engine.cell_endpoints`).
    """

    dwell_s: Positive


class Escalation(Section):
    """How long a tier waits for the one above: the tiers' own `upstream` keys."""

    timeout_ms: Positive = 1000.0
    """As in the tiers."""
    reserve_ms: NonNegative = 10.0
    """As in the tiers: kept back from the deadline, at most a quarter of what is left."""


class EndpointClass(Section):
    """Endpoints of one kind."""

    name: str
    count: Count
    profile: str | HardwareProfile = "raspberry_pi_4"
    """A built-in's name, a file that `escalade profile` wrote, or the profile itself."""
    service: Distribution | None = None
    """In place of the profile's."""
    arrivals: Arrivals
    deadline_ms: Positive | None = None
    """From arrival to answer. Default: none."""
    policy: dict[str, Any] = Field(default={"name": "Threshold", "threshold": 0.8})
    """As in a tier's configuration."""
    escalation: Escalation = Escalation()
    bytes_up: Annotated[int, Field(ge=0)] = 784
    """Of one input sent up: 28 x 28 pixels of a byte."""
    churn: Churn | None = None
    mobility: Mobility | None = None


class Batching(Section):
    """A free worker takes all that waits, up to `max_batch`, as the tiers' batcher does."""

    max_batch: Count = 1
    each_more: Share | None = None
    """A batch of ``b`` takes ``1 + each_more * (b - 1)`` times one inference; 1 is no gain. Default: the profile's,
    or 0.3, assumed."""


class Station(Section):
    """What edge nodes and servers have in common."""

    count: Count = 1
    profile: str | HardwareProfile = "jetson_orin_nano"
    service: Distribution | None = None
    """In place of the profile's."""
    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Inferences at a time."""
    batching: Batching = Batching()
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests that wait for a worker; one more is refused, and the tier below answers. Default: no limit (the
    tiers': 1024 that are in the tier, on their way upward too)."""
    failures: UpDown | None = None
    """While down it refuses what arrives; what it has accepted it finishes."""


class EdgeNodes(Station):
    """The middle tier. Endpoints are dealt to the nodes in equal, consecutive shares of each class."""

    policy: dict[str, Any] = Field(default={"name": "Threshold", "threshold": 0.8})
    escalation: Escalation = Escalation()
    bytes_up: Annotated[int, Field(ge=0)] = 784
    """Of one input sent on."""


class Brownout(Period):
    """A time in which every inference that begins takes longer."""

    slowdown: Annotated[float, Field(ge=1, le=1000)]


class EdgeServers(Station):
    """The top tier. Each server has an equal, consecutive share of the edge nodes; it answers all it gets."""

    profile: str | HardwareProfile = "server"
    workers: Annotated[int, Field(ge=1, le=100_000)] = 4
    brownouts: tuple[Brownout, ...] = ()
    """Ascending, apart from each other."""


class Links(Section):
    """The two hops."""

    access: Link = Link(latency=Constant(ms=2.0))
    """Endpoint to edge node. 2 ms: assumed, a quiet local network."""
    uplink: Link = Link(latency=Constant(ms=15.0))
    """Edge node to server. 15 ms: assumed, a metropolitan connection."""


class Wave(Section):
    """At `at_s` the rollout has reached `share` of the devices."""

    at_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    share: Share


class Rollout(Section):
    """Another model for one tier, in waves: another score table of the same classes."""

    tier: Literal["endpoint", "edge_node", "edge_server"]
    scores: Scores
    """The table whose column of this tier is taken."""
    waves: Annotated[list[Wave], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for a, b in pairwise(self.waves):
            if b.at_s <= a.at_s or b.share < a.share:
                raise ValueError("waves must ascend in at_s, and share must not fall")
        return self


class Control(Section):
    """The slow loop. Time series have one row an interval."""

    interval_s: Positive = 10.0
    """`retune` is called at the end of each, thermal states move on. Assumed."""
    feedback_s: Positive | None = None
    """What came of decisions reaches `observe` at the next multiple; default: `interval_s`. The service tells at
    once, so for online learners keep it small."""
    audit_share: Share = 0.0
    """Requests, drawn by chance, whose true label comes back to the policies."""


class Engine(Section):
    """How it is computed. None of it changes results but `cell_endpoints`, which deals out the random numbers."""

    cell_endpoints: Count = 20_000
    """Endpoints of a cell, about: a cell's arrays should stay in a processor's cache."""
    window_s: Positive | None = None
    """Default: as many arrivals as fit the cache; never longer than the time between two actions of control."""


class Scenario(Section):
    """One simulated world, whole."""

    name: str = "scenario"
    duration_s: Positive = 600.0
    """Arrivals end then; what is under way is followed to its end."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    slo_ms: Positive | None = None
    """What counts as in time for telemetry; default: each class's `deadline_ms`."""
    scores: Scores = Scores()
    endpoints: Annotated[list[EndpointClass], Field(min_length=1)]
    edge_nodes: EdgeNodes = EdgeNodes()
    edge_servers: EdgeServers = EdgeServers()
    links: Links = Links()
    events: Events | None = None
    rollouts: tuple[Rollout, ...] = ()
    control: Control = Control()
    engine: Engine = Engine()
    _folder: Path = PrivateAttr(Path())

    @property
    def folder(self) -> Path:
        """What names of files in it are relative to: the scenario file's folder."""
        return self._folder

    @property
    def device_count(self) -> int:
        """How many endpoints there are."""
        return sum(one.count for one in self.endpoints)

    def in_folder(self, folder: Path) -> Scenario:
        """Return the same scenario with names of files relative to `folder`."""
        scenario = self.model_copy()
        scenario._folder = folder
        return scenario

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [one.name for one in self.endpoints]
        if len(set(names)) < len(names):
            raise ValueError("endpoints: two classes have the same name; give each its own")
        tiers = [one.tier for one in self.rollouts]
        if len(set(tiers)) < len(tiers):
            raise ValueError("rollouts: two for the same tier; simulate them one after another")
        for where, periods in self._periods():
            late = next((one for one in periods if one.to_s > self.duration_s), None)
            if late is not None:
                raise ValueError(
                    f"{where}: a period ends at {late.to_s:g} s, after the run of duration_s {self.duration_s:g}; "
                    "end it earlier or lengthen the run"
                )
        begun = max((one.at_s for one in self.events.faults), default=0.0) if self.events else 0.0
        if begun >= self.duration_s:
            raise ValueError(
                f"events.faults: one begins at {begun:g} s, after the run of duration_s {self.duration_s:g}; "
                "begin it earlier or lengthen the run"
            )
        for number, rollout in enumerate(self.rollouts):
            if rollout.waves[-1].at_s >= self.duration_s:
                raise ValueError(
                    f"rollouts.{number}.waves: one begins at {rollout.waves[-1].at_s:g} s, after the run of duration_s "
                    f"{self.duration_s:g}; begin it earlier or lengthen the run"
                )
        brownouts = self.edge_servers.brownouts
        if any(b.from_s < a.to_s for a, b in pairwise(brownouts)):
            raise ValueError("edge_servers.brownouts: must ascend and not overlap")
        return self

    def _periods(self) -> list[tuple[str, tuple[Period, ...]]]:
        found: list[tuple[str, tuple[Period, ...]]] = [("edge_servers.brownouts", self.edge_servers.brownouts)]
        for where, one in (
            ("links.access.outages", self.links.access.outages),
            ("links.uplink.outages", self.links.uplink.outages),
            ("edge_nodes.failures", self.edge_nodes.failures),
            ("edge_servers.failures", self.edge_servers.failures),
        ):
            if one is not None:
                found.append((where, one.periods))
        return found
