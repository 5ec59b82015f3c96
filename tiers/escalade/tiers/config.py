"""What one tier's YAML may say: every key, its unit and its default.

`config_file.load_config` reads the file, applies environment overrides and turns every mistake into
one line that names file, line and key.
"""

from __future__ import annotations

from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from escalade.tiers.aggregator.config import AggregateConfig, AggregatorConfig
from escalade.tiers.config_types import DTYPES as DTYPES
from escalade.tiers.config_types import Address, Datatype, Megabytes, Milliseconds, PositiveInt, is_loopback
from escalade.tiers.config_types import RecordConfig as RecordConfig
from escalade.tiers.config_types import Section as Section
from escalade.tiers.config_types import host_port as host_port
from escalade.tiers.egress import DATA_CLASSES, DataClass
from escalade.tiers.errors import ConfigError
from escalade.tiers.keeping_config import AtRestConfig, EgressLedgerConfig
from escalade.tiers.preprocess import StepSpec
from escalade.tiers.providers import Provider, full_name
from escalade.tiers.tls_config import TlsConfig, refuse_plaintext

TierName = Literal["endpoint", "edge_node", "edge_server"]
OutputKind = Literal["logits", "posterior", "raw"]
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def _provider(value: Any) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        try:
            value = {**value, "name": full_name(value["name"])}
        except ConfigError as error:
            raise ValueError(error.message) from error
    return value


class InputConfig(Section):
    """The tensor a caller sends, and the steps from it to the model's input."""

    name: str | None = None
    """Tensor name on the wire; default: the model's own."""
    shape: list[Annotated[int, Field(ge=-1)]] | None = None
    """One row's shape, -1 for any size; default: the model's, without the batch."""
    datatype: Datatype | None = Field(default=None, validation_alias="dtype", serialization_alias="dtype")
    """Default: the model's."""
    steps: list[StepSpec] = []
    data: Literal["features", "raw"] = "raw"
    """What callers send, for `egress`: escalation passes it on as it came."""


class ProviderConfig(Section):
    """An execution provider: `cuda`, or with options, or `required`."""

    name: str
    options: dict[str, Any] = {}
    required: bool = False

    def as_provider(self) -> Provider:
        """Return the plain value that `model` works with."""
        return Provider(self.name, self.options, self.required)


class SelfTestConfig(Section):
    """What a new model may take in the process in which it is run before it serves."""

    memory_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 512.0
    """Beside three times the model's file."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """For starting the process, loading the model and running a few rows."""


def _switch(value: Any) -> Any:
    """Read `false` as none, and `true` as all defaults."""
    return (SelfTestConfig() if value else None) if isinstance(value, bool) else value


class ModelConfig(Section):
    """The ONNX model and how to read its output."""

    file: Path
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The digest that the model's bytes must have; default: any. Of an encrypted file, that of the model in it."""
    name: str | None = None
    """Name on the wire; default: the file's stem."""
    version: str = "1"
    input: InputConfig = InputConfig()
    output: str | None = None
    """The output that holds the classes; default: the model's first."""
    output_kind: OutputKind = "logits"
    """`raw`: not a classifier; the outputs are answered as they are and `score` is the user's own."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Divides the logits before softmax; see `escalade.policies.fit_temperature`."""
    providers: list[Annotated[ProviderConfig, BeforeValidator(_provider)]] = [
        ProviderConfig(name="CPUExecutionProvider")
    ]
    """In order of preference. A missing one is logged, and an error only when `required`."""
    threads: PositiveInt = 1
    """onnxruntime's intra-op threads."""
    self_test: Annotated[SelfTestConfig | None, BeforeValidator(_switch)] = SelfTestConfig()
    """`false`: the model is loaded as it is."""

    @property
    def served_name(self) -> str:
        """The model's name on the wire."""
        return self.name or self.file.stem


class BreakerConfig(Section):
    """When a tier above that gives no answers is left alone for a moment."""

    failures: PositiveInt = 5
    """In a row; a timeout counts unless the call was given less time than answers usually take."""
    wait_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 500.0
    """Then it is asked again, by one request; the wait doubles with every failure."""
    max_wait_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2000.0


class RetryConfig(Section):
    """What second tries on a link that just failed may cost: never more than burst + ratio x first tries."""

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    burst: Annotated[int, Field(ge=0)] = 10
    """0: a failed call is never tried again on the same link."""
    pause_ms: Milliseconds = 20.0
    """Before the second try; half as much to half as much again."""


class LinkConfig(Section):
    """One way upward: to another escalade tier or any Open Inference Protocol server."""

    address: Address
    insecure: bool = False
    """Plaintext: whoever listens on the way reads and changes what is asked and answered."""
    model: str | None = None
    """The model's name there; default: this tier's own."""
    version: str = ""
    """Default: the server's choice."""
    input: str | None = None
    """The input tensor's name there; default: this tier's own."""
    output: str = "posterior"
    """The output that holds the classes."""
    output_kind: Literal["logits", "posterior"] = "posterior"
    tier: str | None = None
    """What to call it in answers when it does not say itself; default: the next tier's name."""
    breaker: BreakerConfig = BreakerConfig()
    probe_ms: Milliseconds = 1000.0
    """A link that has been quiet for so long is asked whether its peer is there, which may take as long; 0: never."""
    egress: list[DataClass] = list(DATA_CLASSES)
    """What may go up by this link, whatever the policy wants. Default: everything, raw inputs included; a fallback's
    default is what is written for `upstream`."""


class UpstreamConfig(LinkConfig):
    """The tier above, and what holds for all links to it or to its stand-ins."""

    timeout_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    """The longest wait for an answer over all links, whatever the request's deadline."""
    reserve_ms: Milliseconds = 10.0
    """Kept back from the deadline for this tier's own answer (at most a quarter of what is left)."""
    max_batch: PositiveInt = 64
    """Most rows in one call."""
    retry: RetryConfig = RetryConfig()


class FallbackConfig(LinkConfig):
    """A further way upward, for when those before it fail."""

    only: Literal["critical"] | None = None
    """Requests of this priority alone; default: all."""


class ListenConfig(Section):
    """Where the tier serves."""

    address: Address = "127.0.0.1:8001"
    """Port 0: any free one."""
    insecure: bool = False
    """Plaintext, and whoever reaches the address may call everything."""
    reflection: bool = True


class BatchingConfig(Section):
    """How requests share a run of the model."""

    max_batch: PositiveInt = 32
    """Most rows in one run; 1 switches batching off."""
    max_delay_ms: Milliseconds = 0.0
    """Under load, how long a run may wait to fill. An idle tier never waits."""
    workers: PositiveInt = 2
    """Threads that run the model when it is too slow to run on the event loop."""
    inline_below_us: Annotated[float, Field(ge=0)] = 150.0
    """A model measured faster than this at warm-up runs on the event loop."""


class DeviceRateConfig(Section):
    """How much one device may ask; a device is what `escalade.device` says, or else the caller's IP address."""

    per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Rows a second, over any window, of every priority."""
    burst: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Rows at once, and so the most in one request."""
    max_devices: PositiveInt = 10_000
    """The one that asked least recently is forgotten beyond, and gets its burst anew."""


class LimitsConfig(Section):
    """What bounds a tier's memory and time."""

    max_queue: PositiveInt = 1024
    """Requests in the tier at once; of more, the least urgent are refused with RESOURCE_EXHAUSTED."""
    max_unread: Annotated[int, Field(ge=2)] = 256
    """Calls that gRPC holds while the tier does not come to read them; from half of it on some, beyond it all are
    refused, unread (CANCELLED)."""
    device_rate: DeviceRateConfig | None = None
    """Default: no limit."""
    max_rows: PositiveInt = 256
    """Rows in one request."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """In one request, decompressed."""
    max_connections: PositiveInt = 4096
    """More are closed as they come; less where the process may not open so many files."""
    max_calls: PositiveInt = 8192
    """Calls and streams of any kind at once; more are refused with RESOURCE_EXHAUSTED."""
    max_streams: PositiveInt = 1024
    """Open streams among them, idle or not."""
    receive_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30_000.0
    """How long a request may take from its first byte to its last, when many are on their way."""
    default_deadline_ms: Annotated[float, Field(gt=0)] = 1000.0
    """For callers that give none."""
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """On stop: the longest time for what was accepted to be answered."""
    hang_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """`escalade serve` ends itself (exit code 70) when its event loop stands still for so long; 0: never."""


class MetricsConfig(Section):
    """Where Prometheus scrapes."""

    address: Address = "127.0.0.1:9464"
    insecure: bool = False
    """Plain HTTP beyond the loopback: whoever reaches the address reads names of devices, addresses and rates."""


class LogConfig(Section):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """`auto`: for people on a terminal, JSON otherwise."""


class OutboxConfig(Section):
    """What could not be asked now is kept here and asked later; see docs/operations.md."""

    file: Path
    """SQLite; one of its own for each tier."""
    keep: Literal["deferred", "all"] = "all"
    """`deferred`: what the policy defers; `all`: what was escalated in vain too."""
    wait_ms: Milliseconds = 100.0
    """The longest time an answer waits for the disk, within its deadline; then it is given unkept."""
    max_mb: Megabytes = 256.0
    max_items: PositiveInt = 100_000
    max_age_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 7 * 24 * 3600.0
    max_corrections: PositiveInt = 10_000
    """Kept for subscribers that are away, as long as `max_age_s`."""
    in_flight: PositiveInt = 4
    """Items that are sent at a time when the link is back; those of one device go one after the other."""
    timeout_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5000.0
    """The longest wait for the answer to an item; nobody waits for it below."""
    give_up_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3600.0
    """How long an item is sent again and again that the tier above refuses, before it is given up."""
    results: bool = False
    """Whether every answer is reported upward, to the inbox of the tier above."""
    telemetry_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How often the tier's state is reported upward; 0: never."""
    corrections: Path | None = None
    """A file to which every correction is appended as a line of JSON."""
    corrections_mb: Megabytes = 256.0
    """A file that would grow beyond loses its older half."""


class InboxConfig(Section):
    """What was delivered from outboxes below, remembered over restarts so that nothing has its effect twice."""

    file: Path
    window_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 24 * 3600.0
    """How long a delivery is recognised when it comes again."""
    max_items: PositiveInt = 100_000
    max_mb: Megabytes = 256.0


Protected = TypeVar("Protected", ListenConfig, LinkConfig, UpstreamConfig | None, AggregateConfig | None)


def _fallbacks(value: list[FallbackConfig], info: ValidationInfo) -> list[FallbackConfig]:
    upstream = info.data.get("upstream")
    if value and upstream is None and "upstream" in info.data:
        raise ValueError("there is nothing to fall back from; add `upstream:`")
    addresses = [link.address for link in ([upstream] if upstream else []) + value]
    if twice := next((one for one in addresses if addresses.count(one) > 1), None):
        raise ValueError(f"two links lead to {twice}; name each address once")
    for link in value:
        _protected(link, info)
    if upstream is None:
        return value
    return [
        link if "egress" in link.model_fields_set else link.model_copy(update={"egress": upstream.egress})
        for link in value
    ]


def _protected(value: Protected, info: ValidationInfo) -> Protected:
    if value is not None:
        refuse_plaintext(value.address, secured=info.data.get("tls") is not None, insecure=value.insecure)
    return value


def _plain_metrics(value: MetricsConfig | None, info: ValidationInfo) -> MetricsConfig | None:
    if value and not (value.insecure or is_loopback(value.address)):
        raise ValueError(
            f"{value.address} is not this machine's alone, and metrics are plain HTTP; scrape the loopback, or add "
            "`insecure: true` here: whoever reaches it reads names of devices, addresses and rates"
        )
    return value


class TierConfig(Section):
    """One tier, whole."""

    tier: TierName
    device: Annotated[str, Field(min_length=1, max_length=256)] = Field(default_factory=gethostname)
    """This device's name, towards the tiers above and in what is kept; default: the host's."""
    model: ModelConfig
    score: str = "max_prob"
    """`max_prob`, `margin`, `entropy`, `energy`, or `my_module:score` on the model's outputs."""
    policy: dict[str, Any] = {"name": "AlwaysAccept"}
    """`{name: Threshold, threshold: 0.8}`, or `{name: my_module:MyPolicy, ...}`; `state: FILE` beside the name
    is what the policy was fitted to or has learnt."""
    tls: TlsConfig | None = None
    """Who this tier is, and whom it believes; without it plaintext, which stays on this machine."""
    upstream: Annotated[UpstreamConfig | None, AfterValidator(_protected)] = None
    fallbacks: Annotated[list[FallbackConfig], AfterValidator(_fallbacks)] = []
    """In order of preference, asked when `upstream` gives no answer."""
    listen: Annotated[ListenConfig, AfterValidator(_protected)] = ListenConfig()
    batching: BatchingConfig = BatchingConfig()
    limits: LimitsConfig = LimitsConfig()
    metrics: Annotated[MetricsConfig | None, AfterValidator(_plain_metrics)] = None
    outbox: OutboxConfig | None = None
    inbox: InboxConfig | None = None
    egress_ledger: EgressLedgerConfig | None = None
    at_rest: AtRestConfig | None = None
    record: RecordConfig | None = None
    audit: Path | None = None
    """A file to which is appended which configuration, model and certificates were used since when."""
    aggregate: Annotated[AggregateConfig | None, AfterValidator(_protected)] = None
    """What this tier answers is reported to an aggregator."""
    aggregator: AggregatorConfig | None = None
    """On an edge server: fuses what several edge nodes report of one event."""
    log: LogConfig = LogConfig()
    _folder: Path = PrivateAttr(Path())

    @property
    def links(self) -> list[LinkConfig]:
        """All ways upward, the preferred first."""
        return [self.upstream, *self.fallbacks] if self.upstream else []

    @property
    def folder(self) -> Path:
        """What the names of files in `policy` are relative to: the configuration file's folder."""
        return self._folder

    def in_folder(self, folder: Path) -> TierConfig:
        """Return the same configuration, with relative names of files relative to `folder`."""
        model = self.model.model_copy(update={"file": folder / self.model.file})
        record = self.record and self.record.model_copy(update={"folder": folder / self.record.folder})
        outbox, inbox = self.outbox, self.inbox
        if outbox:
            lines = outbox.corrections and folder / outbox.corrections
            outbox = outbox.model_copy(update={"file": folder / outbox.file, "corrections": lines})
        if inbox:
            inbox = inbox.model_copy(update={"file": folder / inbox.file})
        parts = {"model": model, "record": record, "outbox": outbox, "inbox": inbox}
        others = {
            name: part.in_folder(folder)
            for name in ("aggregate", "aggregator", "egress_ledger", "at_rest", "tls")
            if (part := getattr(self, name))
        }
        others["audit"] = self.audit and folder / self.audit
        config = self.model_copy(update={**parts, **others})
        config._folder = folder
        return config

    @model_validator(mode="after")
    def _an_outbox_needs_an_upstream(self) -> TierConfig:
        if self.outbox and not self.upstream:
            raise ValueError("an outbox without an upstream would never be emptied; add `upstream: {address: ...}`")
        return self

    @field_validator("aggregate")
    @classmethod
    def _as_the_first_link(cls, value: AggregateConfig | None, info: ValidationInfo) -> AggregateConfig | None:
        upstream = info.data.get("upstream")
        if value and upstream and "egress" not in value.model_fields_set:
            return value.model_copy(update={"egress": upstream.egress})
        return value

    @model_validator(mode="after")
    def _reports_may_leave(self) -> TierConfig:
        outbox, upstream = self.outbox, self.upstream
        if outbox and upstream and (outbox.results or outbox.telemetry_s) and "label" not in upstream.egress:
            what = "outbox.results" if outbox.results else "outbox.telemetry_s"
            raise ValueError(f"{what} sends labels, which upstream.egress does not allow; add `label` there")
        if self.aggregate:
            self.aggregate.check_egress(self.model.input.data)
        return self

    @model_validator(mode="before")
    @classmethod
    def _an_upstream_needs_a_policy(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("upstream") and not data.get("policy"):
            raise ValueError(
                "an upstream without a policy would never be asked; add `policy: {name: Threshold, threshold: 0.8}`"
            )
        return data

    @model_validator(mode="after")
    def _each_block_on_its_tier(self) -> TierConfig:
        if self.aggregator and self.tier != "edge_server":
            raise ValueError(f"`aggregator:` belongs to an edge_server, not to an {self.tier}")
        if self.aggregate and self.tier == "edge_server":
            raise ValueError("`aggregate:` belongs to the nodes that report, not to the edge_server they report to")
        return self

    @model_validator(mode="after")
    def _an_observation_fits_a_message(self) -> TierConfig:
        whole, raw = self.limits.max_message_bytes, self.aggregator.max_raw_bytes if self.aggregator else 0
        if raw > whole:
            raise ValueError(
                f"aggregator.max_raw_bytes ({raw}) does not fit limits.max_message_bytes ({whole}); "
                "raise that, or lower max_raw_bytes"
            )
        return self
