"""A tier as a running service: built from a configuration, opened, served, drained, closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from escalade.policies import Policy, PolicyConfigError, load_policy, load_score
from escalade.policies.combinator import listens
from escalade.tiers.attached import Attached
from escalade.tiers.config import TierConfig, TierName, host_port
from escalade.tiers.config_file import load_config, parse_config
from escalade.tiers.errors import ConfigError
from escalade.tiers.head import Head
from escalade.tiers.logs import configure_logs
from escalade.tiers.metrics import TierMetrics
from escalade.tiers.model import OnnxModel
from escalade.tiers.record import Recorder
from escalade.tiers.retuning import Window, retune_forever
from escalade.tiers.tier import Tier
from escalade.tiers.wire.server import GrpcServer
from escalade.tiers.wire.servicer import InferenceServicer
from escalade.tiers.wire.upstream import GrpcUpstream

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray
    from prometheus_client.registry import Collector

    from escalade.tiers.answer import Answer

log = structlog.get_logger(__name__)


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
        self._tier: Tier | None = None
        self._servicer: InferenceServicer | None = None
        self._server: GrpcServer | None = None
        self._metrics_server: Any = None
        self._retuning: asyncio.Task[None] | None = None
        self._recorder: Recorder | None = None
        self._attached = Attached()

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

    async def start(self) -> None:
        """Load the model, warm it up, open the link upward.

        Raises
        ------
        SetupError
            When the model, a provider, the score or the policy does not work.
        """
        config = self.config
        if not structlog.is_configured():  # an application that has its own logging keeps it
            configure_logs(config.log)
        model = OnnxModel(config.model)
        policy = _policy(config, model.sha256)
        score = load_score(config.score, config.model.output_kind, temperature=config.model.temperature)
        head = Head(model, config.model.temperature, score)
        metrics = TierMetrics(self.tier_name, model.name)
        upstream = config.upstream
        link: GrpcUpstream | None = None
        if upstream:
            link = GrpcUpstream(
                upstream,
                tier=self.tier_name,
                model=model,
                score=score,
                metrics=metrics,
                max_message_bytes=config.limits.max_message_bytes,
            )
        if config.record:
            facts = {"model": model.name, "sha256": model.sha256, "policy": config.policy, "score": config.score}
            self._recorder = Recorder(config.record, {"tier": self.tier_name, **facts})
        self._tier = Tier(
            self.tier_name,
            model,
            head,
            policy,
            link,
            batching=config.batching,
            limits=config.limits,
            metrics=metrics,
            upstream_reserve_s=upstream.reserve_ms / 1e3 if upstream else 0.0,
            upstream_timeout_s=upstream.timeout_ms / 1e3 if upstream else 0.0,
            upstream_max_batch=upstream.max_batch if upstream else 1,
            recorder=self._recorder,
        )
        await self._attached.start(config, self._tier)
        if listens(policy, "retune"):
            slow_loop = retune_forever(policy, Window(metrics), self.retune_seconds, self._tier.policy_failed)
            self._retuning = asyncio.create_task(slow_loop)
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
            self._metrics_server = _serve_metrics(
                [self.tier.metrics, *self._attached.collectors], config.metrics.address
            )
        self._servicer = InferenceServicer(
            self.tier,
            version=version("escalade"),
            default_deadline_s=config.limits.default_deadline_ms / 1e3,
            clock=time.monotonic,
            answered=self._attached.answered,
        )
        self._server = GrpcServer(
            self._servicer,
            config.listen.address,
            max_message_bytes=config.limits.max_message_bytes,
            reflection_on=config.listen.reflection,
            more=self._attached.services,
        )
        address = await self._server.start()
        metrics_port = self._metrics_server.server_port if self._metrics_server else None
        log.info("serving", tier=self.tier_name, address=address, metrics_port=metrics_port)
        return address

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
        if self._tier is None:
            return
        limit_s = self.config.limits.drain_seconds
        stop = time.monotonic() + limit_s
        if self._server:
            await self._server.announce_stop()
            self._attached.announce_stop()
        await self._tier.drain(limit_s)
        if self._server:
            await self._server.stop(max(0.0, stop - time.monotonic()))
            self._server = None
        if self._retuning:
            self._retuning.cancel()
            await asyncio.gather(self._retuning, return_exceptions=True)
            self._retuning = None
        await self._attached.close()
        await self._tier.close()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)
            self._recorder = None
        if self._metrics_server:
            await asyncio.to_thread(self._metrics_server.shutdown)
            self._metrics_server.server_close()
            self._metrics_server = None
        log.info("stopped", tier=self.tier_name)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _policy(config: TierConfig, sha256: str) -> Policy:
    try:
        policy = load_policy(config.policy, folder=config.folder)
    except PolicyConfigError as error:
        raise ConfigError(error.message, key=error.key) from error
    try:
        policy.check_model(sha256)
    except ValueError as error:
        raise ConfigError(f"does not decide for this model: {error}", key="policy") from error
    try:
        policy.check_score(config.score)
    except ValueError as error:
        raise ConfigError(f"does not fit the tier: {error}", key="policy") from error
    return policy


def _serve_metrics(collectors: Sequence[Collector], address: str) -> Any:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    host, port = host_port(address)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {address}: {error.strerror}; set it to a free one", key="metrics.address"
        ) from error
    return server
