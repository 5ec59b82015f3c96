"""What `aggregate:` (on a node that reports) and `aggregator:` (on the edge server) may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from escalade.tiers.config_types import Address, Megabytes, Milliseconds, PositiveInt, RecordConfig, Section
from escalade.tiers.egress import DATA_CLASSES, DataClass

Name = Annotated[str, Field(min_length=1, max_length=200)]
Wait = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AggregateConfig(Section):
    """How a tier reports what it answers."""

    address: Address
    """The aggregator's: the edge server's `listen.address`."""
    insecure: bool = False
    """Plaintext; see `LinkConfig`."""
    node: Name
    """This tier's name in the aggregator's `nodes`; with TLS the name in its certificate."""
    tenant: str = ""
    zone: str = ""
    """Where this tier looks, for events without a key."""
    event_key: Literal["either", "request", "time"] = "either"
    """`request`: only requests that carry `escalade.event` are reported; `time`: the aggregator finds each
    event by time and zone; `either`: by time and zone where the request names none."""
    send: Literal["posterior", "features", "raw"] = "posterior"
    """Beside the posterior, which is always sent: nothing, an output of the model, or the input as it came."""
    features: str | None = None
    """With `send: features`: the model's output to send. The model is run once more for it."""
    timeout_ms: Wait = 250.0
    """Of one report; what was not taken by then waits in the outbox, or is lost and counted."""
    max_batch: PositiveInt = 16
    """Observations in one call; they are not waited for."""
    max_queue: PositiveInt = 1024
    """Observations on their way; more are lost and counted."""
    outbox: Path | None = None
    """The SQLite file where observations wait while the aggregator cannot be reached; not one of the tier's."""
    outbox_mb: Megabytes = 64.0
    egress: list[DataClass] = list(DATA_CLASSES)
    """What may go to the aggregator; default: what may go by the first link upward, or everything without one."""

    def in_folder(self, folder: Path) -> AggregateConfig:
        """Return the same, with relative names of files relative to `folder`."""
        return self.model_copy(update={"outbox": self.outbox and folder / self.outbox})

    @model_validator(mode="after")
    def _features_are_named(self) -> AggregateConfig:
        if (self.send == "features") != (self.features is not None):
            raise ValueError("`send: features` and `features: OUTPUT` belong together; give both or none")
        return self

    def check_egress(self, raw: DataClass) -> None:
        """Raise ValueError for something to be sent that may not leave; `raw` is what the tier's inputs are."""
        for data in ("posterior", raw if self.send == "raw" else self.send):
            if data not in self.egress:
                raise ValueError(
                    f"aggregate.send: {self.send} sends {data}, which aggregate.egress (by default upstream.egress) "
                    f"does not allow; add `{data}` there"
                )


class AggregatorConfig(Section):
    """How events are gathered, answered and remembered."""

    nodes: Annotated[list[Name], Field(min_length=1, max_length=256)]
    """The edge nodes that are expected, in the order of what the rule was fitted to."""
    tenant: str = ""
    """Observations of another are refused."""
    classes: PositiveInt | None = None
    """Default: as many as the edge server's own model has."""
    file: Path = Path("aggregator.db")
    """The SQLite file of what was acknowledged, answered and learnt."""
    window_ms: Wait = 100.0
    """Observations without a key that lie at most half of this apart, in one zone, are of one event."""
    deadline_ms: Wait = 200.0
    """After its first observation arrived an event is answered with what there is."""
    late_ms: Milliseconds = 2000.0
    """After its answer, so long a late observation may correct it."""
    quorum: PositiveInt | None = None
    """So many nodes are enough; default: all."""
    early_close: bool = True
    """Answer as soon as no missing node can change the label, where the rule can tell."""
    rule: dict[str, Any] = {"name": "MeanProbability"}
    """See `escalade.policies.fusion.load_rule`."""
    score: str = "max_prob"
    """`max_prob`, `margin` or `entropy` of the fused posterior, or `agreement`: 1 - conflict."""
    policy: dict[str, Any] = {"name": "AlwaysAccept"}
    """Decides on that score; what it escalates the edge server's own model answers, where nodes sent `raw`."""
    escalate_ms: Wait = 500.0
    """The longest wait for that model."""
    max_skew_ms: Wait = 5000.0
    """A node whose clock is further off is refused."""
    future_ms: Wait = 1000.0
    """Observations so much later than now, by the corrected clock, are refused."""
    max_events: PositiveInt = 20_000
    """Events that are open or may still be corrected; each node may have opened its equal share of them."""
    max_kept: PositiveInt = 20_000
    """Answers kept for `GetEvent` and `WatchEvents`, the oldest given up first; at least `max_events`."""
    max_batch: PositiveInt = 256
    """Observations in one request."""
    max_raw_bytes: PositiveInt = 65_536
    """Of one raw input."""
    max_features: PositiveInt = 4096
    """Numbers in one feature vector."""
    record: RecordConfig | None = None
    """Where the policy's decisions on events are kept; a folder of its own."""

    def in_folder(self, folder: Path) -> AggregatorConfig:
        """Return the same, with relative names of files relative to `folder`."""
        record = self.record and self.record.model_copy(update={"folder": folder / self.record.folder})
        return self.model_copy(update={"file": folder / self.file, "record": record})

    @field_validator("nodes")
    @classmethod
    def _each_node_once(cls, nodes: list[str]) -> list[str]:
        if twice := next((node for node in nodes if nodes.count(node) > 1), None):
            raise ValueError(f"node {twice!r} stands twice; name each once")
        return nodes

    @model_validator(mode="after")
    def _a_quorum_that_can_be_met(self) -> AggregatorConfig:
        if self.quorum is not None and self.quorum > len(self.nodes):
            raise ValueError(f"a quorum of {self.quorum} of {len(self.nodes)} nodes is never met; lower `quorum`")
        return self

    @model_validator(mode="after")
    def _answers_outlive_their_events(self) -> AggregatorConfig:
        if self.max_kept < self.max_events:
            raise ValueError(f"max_kept ({self.max_kept}) must be at least max_events ({self.max_events}); raise it")
        return self
