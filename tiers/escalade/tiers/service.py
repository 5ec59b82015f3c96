"""A tier as a running service: built from a configuration, opened, served, drained, closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import structlog

from escalade.policies.combinator import listens
from escalade.tiers.at_rest import in_the_clear, open_seal
from escalade.tiers.attached import Attached
from escalade.tiers.audited import note_start
from escalade.tiers.building import build_forwarding, build_links
from escalade.tiers.config_file import load_config, parse_config
from escalade.tiers.deliveries import Deliveries, MemoryWindow
from escalade.tiers.egress_ledger import EgressLedger, EgressMetrics
from escalade.tiers.errors import ConfigError
from escalade.tiers.forgetting import Forgetting
from escalade.tiers.forwarding_metrics import ForwardingMetrics, InboxMetrics
from escalade.tiers.logs import configure_logs
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.metrics_server import serve_metrics
from escalade.tiers.outbox import Inbox, InboxLimits, OutboxError
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.parts import check_tier, load_parts
from escalade.tiers.record import Recorder
from escalade.tiers.reports import received
from escalade.tiers.retuning import Window, retune_forever
from escalade.tiers.security import Security
from escalade.tiers.status import Status, inbox_status, link_status, outbox_status
from escalade.tiers.tier import Tier
from escalade.tiers.wire.server import GrpcServer
from escalade.tiers.wire.servicer import InferenceServicer
from escalade.tiers.wire.tier_servicer import TierServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray
    from prometheus_client.registry import Collector

    from escalade.tiers.admission import Admission
    from escalade.tiers.answer import Answer
    from escalade.tiers.config import InboxConfig, TierConfig, TierName
    from escalade.tiers.corrections import Correction
    from escalade.tiers.egress import DataClass
    from escalade.tiers.forwarding import Forwarding
    from escalade.tiers.links import Links
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.outbox import Priority
    from escalade.tiers.outbox.item import ReportKind
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.reports import Received

log = structlog.get_logger(__name__)

EXPIRE_S = 60.0
"""At most so long what has left the inbox's window stays on the disk."""
WATCH_S = 0.25
"""Between two looks at how busy the event loop is."""


class Service:
    """What endpoint, edge node and edge server have in common.

    Use it in process, `async with Endpoint.from_config("tier.yaml") as e: await e.infer(x)`, and call
    `listen` for others to reach it.
    """

    tier_name: ClassVar[TierName]
    retune_seconds: ClassVar[float] = 5.0
    """How often a policy that has a slow loop is told how the tier fares."""

    def __init__(self, config: TierConfig) -> None:
        if config.tier != self.tier_name:
            command = config.tier.replace("_", "-")
            raise ConfigError(
                f"this is the configuration of an {command}, not of an {self.tier_name.replace('_', '-')}; "
                f"use `escalade serve {command}`",
                key="tier",
            )
        self.config = config
        self.links: Links | None = None
        """The links upward, once started; None at the top."""
        self.egress = EgressLedger()
        """What went up."""
        self._tier: Tier | None = None
        self._servicer: InferenceServicer | None = None
        self._server: GrpcServer | None = None
        self._metrics_server: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._retuning: asyncio.Task[None] | None = None
        self._security: Security | None = None
        self._recorder: Recorder | None = None
        self._forwarding: Forwarding | None = None
        self._inbox: Inbox | None = None
        self._seal: Seal = UNSEALED
        self._deliveries = Deliveries(MemoryWindow(time.monotonic))
        self._attached = Attached()
        self._started = time.monotonic()

    @classmethod
    def from_config(cls, config: TierConfig | Mapping[str, Any] | str | Path) -> Self:
        """Return a service that is not started yet.

        Parameters
        ----------
        config:
            A YAML file, a mapping of the same form, or a `TierConfig`.

        Raises
        ------
        ConfigError
            When the configuration is wrong.
        """
        if isinstance(config, (str, Path)):
            config = load_config(config)
        elif isinstance(config, Mapping):
            config = parse_config(config)
        return cls(config)

    @property
    def tier(self) -> Tier:
        """The tier; RuntimeError before `start`."""
        if self._tier is None:
            raise RuntimeError(f"the {self.tier_name} is not started; use `async with`")
        return self._tier

    def check(self) -> OnnxModel:
        """See `parts.check_tier`."""
        return check_tier(self.config)

    async def start(self) -> None:
        """Load the model, warm it up, open the link upward; on an error everything is closed again.

        Raises
        ------
        SetupError
            When the model, a provider, the score or the policy does not work.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            self._tier = self.links = None
            raise

    async def _start(self) -> None:
        if not structlog.is_configured():  # an application that has its own logging keeps it
            configure_logs(self.config.log)
        if self.config.tls:
            self._security = Security(self.config, self.config.tls)
            self.config = self._security.config
        config, files = self.config, self._security.files if self._security else None
        self._seal = await asyncio.to_thread(open_seal, config.at_rest)
        for warning in in_the_clear(config):
            log.warning(warning)
        model, policy, score, head = load_parts(config, self._seal)
        if config.audit:
            note_start(config.audit, config, model=model.name, sha256=model.sha256, tls=files.used if files else {})
        metrics = TierMetrics(self.tier_name, model.name)
        upstream = config.upstream
        if ledger := config.egress_ledger:
            self.egress = EgressLedger(ledger.file, max_lines=ledger.max_lines)
        if upstream:
            self.links, first = build_links(
                config, upstream, model=model, score=score, metrics=metrics, ledger=self.egress, files=files
            )
            self._tasks.append(asyncio.create_task(self.egress.write_forever()))
            if config.outbox:
                self._forwarding = build_forwarding(
                    config, config.outbox, self.links, first, model=model, ledger=self.egress, seal=self._seal
                )
        if config.record:
            facts = {"model": model.name, "sha256": model.sha256, "policy": config.policy, "score": config.score}
            self._recorder = Recorder(config.record, {"tier": self.tier_name, **facts}, seal=self._seal)
        forwarding = self._forwarding
        self._tier = Tier(
            self.tier_name,
            model,
            head,
            policy,
            self.links,
            batching=config.batching,
            limits=config.limits,
            metrics=metrics,
            upstream_reserve_s=upstream.reserve_ms / 1e3 if upstream else 0.0,
            upstream_timeout_s=upstream.timeout_ms / 1e3 if upstream else 0.0,
            upstream_max_batch=upstream.max_batch if upstream else 1,
            recorder=self._recorder,
            keeper=forwarding.keeper if forwarding else None,
            reports=forwarding.reports if forwarding and forwarding.config.results else None,
            device=config.device,
        )
        if self.links:
            self.links.watch()
        if config.inbox:
            await self._open_inbox(config.inbox)
        if forwarding:
            await forwarding.start(lambda: self.status().as_json())
        await self._attached.start(config, self._tier, self.egress, self._seal, files)
        if listens(policy, "retune"):
            slow_loop = retune_forever(policy, Window(metrics), self.retune_seconds, self._tier.policy_failed)
            self._retuning = asyncio.create_task(slow_loop)
            self._tasks.append(self._retuning)
        log.info(
            "model ready",
            tier=self.tier_name,
            model=model.name,
            sha256=model.sha256[:12],
            providers=model.providers,
            row_us=round(model.run_us, 1),
            inline=self._tier.runs_inline,
        )

    async def listen(self) -> str:
        """Serve the tier over gRPC, and its metrics where configured; return the bound address.

        Raises
        ------
        SetupError
            When an address cannot be bound.
        """
        config = self.config
        if config.metrics and self._metrics_server is None:
            self._metrics_server = serve_metrics(self._collectors(), config.metrics.address)
        self._servicer = InferenceServicer(
            self.tier,
            version=version("escalade"),
            default_deadline_s=config.limits.default_deadline_ms / 1e3,
            clock=time.monotonic,
            deliveries=self._deliveries,
            device_rate=config.limits.device_rate,
            answered=self._attached.answered,
        )
        corrections = self._forwarding.corrections if self._forwarding else None
        forgetting = Forgetting(
            config,
            forwarding=self._forwarding,
            window=self._deliveries.window,
            attached=self._attached,
            ledger=self.egress,
            recorder=self._recorder,
        )
        more = [TierServicer(self.status, corrections, self._inbox, forgetting.forget), *self._attached.services]
        self._server = GrpcServer(
            self._servicer,
            config.listen.address,
            limits=config.limits,
            reflection_on=config.listen.reflection,
            more=more,
            security=None if config.listen.insecure else self._security,
        )
        address = await self._server.start()
        self._tasks.append(asyncio.create_task(_watch_loop(self.tier.admission)))
        metrics_port = self._metrics_server.server_port if self._metrics_server else None
        log.info("serving", tier=self.tier_name, address=address, metrics_port=metrics_port)
        return address

    def status(self) -> Status:
        """Return how the tier fares."""
        tier, metrics, now = self.tier, self.tier.metrics, time.monotonic()
        return Status(
            tier=self.tier_name,
            device=self.config.device,
            version=version("escalade"),
            up_s=now - self._started,
            model=tier.model.name,
            model_sha256=tier.model.sha256,
            draining=tier.draining,
            queue=tier.pending,
            max_queue=self.config.limits.max_queue,
            load=tier.load,
            requests=dict(metrics.requests),
            actions=dict(metrics.actions),
            degraded=dict(metrics.degraded),
            shed={" ".join(names): count for names, count in metrics.shed.items()},
            links=[link_status(facts, now) for facts in self.links.facts()] if self.links else [],
            outbox=outbox_status(self._forwarding.outbox) if self._forwarding else None,
            inbox=inbox_status(self._inbox, self._deliveries.repeats) if self._inbox else None,
        )

    def on_correction(self, callback: Callable[[Correction], Any], after: int | None = None) -> None:
        """Call back with each later, better answer to what was answered provisionally.

        Parameters
        ----------
        after:
            The `seq` of the last correction that the application has dealt with; default: those to come.

        Raises
        ------
        ConfigError
            The tier keeps no outbox.
        """
        if self._forwarding is None:
            raise ConfigError("there are no corrections without an outbox; add `outbox: {file: ...}`", key="outbox")
        self._forwarding.on_correction(callback, after)

    async def report(
        self,
        payload: bytes,
        *,
        data: DataClass = "raw",
        kind: ReportKind = "telemetry",
        priority: Priority = "bulk",
    ) -> str:
        """Report something of the application's to the inbox of the tier above; return its id.

        It is on the disk on return, and is sent when the link allows.

        Raises
        ------
        ConfigError
            The tier keeps no outbox, or data of its class, `data`, may not leave.
        OutboxError
            It could not be kept.
        """
        if self._forwarding is None:
            raise ConfigError("reports go through the outbox; add `outbox: {file: ...}`", key="outbox")
        return await self._forwarding.reports.report(payload, data=data, kind=kind, priority=priority)

    def reports(self, after: int = 0, *, until_now: bool = False) -> AsyncIterator[Received]:
        """Yield the reports that came from tiers below after the number `after`, then those that come.

        Parameters
        ----------
        until_now:
            End instead of waiting for more.

        Raises
        ------
        ConfigError
            The tier keeps no inbox.
        OutboxError
            While reading: the tier was closed; with `until_now` also when the inbox cannot be read now.
        """
        if self._inbox is None:
            raise ConfigError("there are no reports without an inbox; add `inbox: {file: ...}`", key="inbox")
        return received(self._inbox, after, until_now=until_now)

    async def infer(self, x: NDArray[Any], deadline_ms: float | None = None, *, event: str = "") -> Answer:
        """Return the answer to `x`, `[B, *row]`, within `deadline_ms` (default: `limits.default_deadline_ms`).

        `event` is the key of what `x` is an observation of, for a tier that reports to an aggregator.

        Raises
        ------
        CallerError, TierError
            See `escalade.tiers.errors`.
        """
        limit_ms = self.config.limits.default_deadline_ms if deadline_ms is None else deadline_ms
        answer = await self.tier.infer(x, time.monotonic() + limit_ms / 1e3)
        if self._attached.answered is not None:
            self._attached.answered(x, answer, event)
        return answer

    async def close(self) -> None:
        """Finish what was accepted, refuse what is new, within `limits.drain_seconds`; then let everything go."""
        limit_s = self.config.limits.drain_seconds
        stop = time.monotonic() + limit_s
        if self._server:
            await self._server.announce_stop()
        if self._tier:
            await self._tier.drain(limit_s)
        if self._server:
            await self._server.stop(max(0.0, stop - time.monotonic()))
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._forwarding:
            await self._forwarding.close()
            self._forwarding = None
        if self._inbox:
            await self._inbox.close()
            self._inbox = None
        await self._attached.close()
        if self._tier:
            await self._tier.close()
        elif self.links:
            await self.links.close()
        if self._security:
            await self._security.close()
            self._security = None
        await self.egress.close()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)
            self._recorder = None
        if self._metrics_server:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()
            self._metrics_server = None
        if self._tier:
            log.info("stopped", tier=self.tier_name)

    def _collectors(self) -> Iterator[Collector]:
        metrics = self.tier.metrics
        yield metrics
        if self._security:
            yield self._security.refusals
        if self.links:
            yield EgressMetrics(self.egress.lines, metrics.labels)
        yield from self._attached.collectors
        if self._forwarding:
            yield ForwardingMetrics(self._forwarding, metrics.labels)
        if self._inbox:
            yield InboxMetrics(self._inbox.stats, lambda: self._deliveries.repeats, metrics.labels)

    async def _open_inbox(self, config: InboxConfig) -> None:
        limits = InboxLimits(config.window_s, config.max_items, int(config.max_mb * 2**20))
        self._inbox = Inbox(config.file, limits, seal=self._seal)
        self._deliveries = Deliveries(self._inbox)
        self._tasks.append(asyncio.create_task(self._inbox.expire_forever(min(EXPIRE_S, config.window_s / 2))))
        try:
            await self._inbox.open()
        except OutboxError:  # it has logged it
            log.warning("deliveries wait until the inbox works", file=str(config.file))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _watch_loop(admission: Admission) -> None:
    """Tell the admission how busy the event loop is: where it runs the model, that is how full the tier is."""
    while True:
        wall_s, cpu_s = time.monotonic(), time.thread_time()
        await asyncio.sleep(WATCH_S)
        admission.busy = (time.thread_time() - cpu_s) / (time.monotonic() - wall_s)
