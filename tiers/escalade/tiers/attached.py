"""What may stand beside a tier in its process: an aggregator, or a reporter to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from escalade.tiers.aggregator.build import build_aggregator, fit_aggregator
from escalade.tiers.aggregator.store import WHAT
from escalade.tiers.errors import ConfigError
from escalade.tiers.model import OnnxModel
from escalade.tiers.outbox import Outbox, OutboxError, OutboxLimits
from escalade.tiers.reporter import Reporter
from escalade.tiers.reporter_metrics import ReporterMetrics
from escalade.tiers.reporting import Reporting
from escalade.tiers.wire.aggregator_client import AggregatorClient, encode
from escalade.tiers.wire.aggregator_servicer import AggregatorServicer
from escalade.tiers.wire.report_gate import ReportGate

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.registry import Collector

    from escalade.tiers.aggregator.aggregator import Aggregator
    from escalade.tiers.aggregator.config import AggregateConfig
    from escalade.tiers.config import TierConfig
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.tier import Tier
    from escalade.tiers.tls_files import TlsFiles
    from escalade.tiers.wire.server import MoreService


class Attached:
    """The blocks `aggregator:` and `aggregate:` of one tier, running; nothing where there is none.

    Attributes
    ----------
    services:
        For `GrpcServer`.
    collectors:
        More metrics.
    answered:
        For `InferenceServicer`: to be told of every answer; None where nobody wants to be.
    """

    def __init__(self) -> None:
        self.services: list[MoreService] = []
        self.collectors: list[Collector] = []
        self.answered: Callable[..., None] | None = None
        self.aggregator: Aggregator | None = None
        self._reporting: Reporting | None = None

    async def start(
        self, config: TierConfig, tier: Tier, ledger: EgressLedger, seal: Seal, tls: TlsFiles | None
    ) -> None:
        """Start what the configuration names.

        Parameters
        ----------
        ledger:
            Counts what is reported.
        seal:
            Encrypts what is kept of it; opens the model.
        tls:
            What a reporter shows to the aggregator; None: plaintext.

        Raises
        ------
        SetupError
            A rule, a policy, a file or a model's output does not work.
        """
        if config.aggregator is not None:
            self.aggregator = build_aggregator(config.aggregator, config.folder, tier, seal)
            self.aggregator.start()
            self.services.append(AggregatorServicer(self.aggregator))
            self.collectors.append(self.aggregator.metrics)
        if config.aggregate is not None:
            features = _features_model(config, config.aggregate, seal)
            shown = None if config.aggregate.insecure else tls
            reporter = _reporter(config, config.aggregate, ledger, seal, shown)
            try:
                await reporter.start()
            except OutboxError as error:
                await reporter.close()
                raise ConfigError(str(error), key="aggregate.outbox") from error
            self._reporting = Reporting(config.aggregate, reporter, features)
            self.answered = self._reporting.answered
            self.collectors.append(ReporterMetrics(reporter))

    async def forget(self, device: str) -> list[str]:
        """Delete what is kept of a node; return a line for each place; OutboxError when it cannot be deleted."""
        done = []
        if self.aggregator is not None:
            done.append(f"{WHAT} {self.aggregator.config.file}: {await self.aggregator.forget(device)}")
        if self._reporting is not None:
            done += await self._reporting.forget(device)
        return done

    async def close(self) -> None:
        """Finish what is under way and close files and links."""
        reporting, self._reporting = self._reporting, None
        if reporting is not None:
            await reporting.close()
        aggregator, self.aggregator = self.aggregator, None
        if aggregator is not None:
            await aggregator.close()
        self.services.clear()
        self.collectors.clear()
        self.answered = self._servicer = None


def check_attached(config: TierConfig, model: OnnxModel, seal: Seal) -> None:
    """Raise what `Attached.start` would of a rule, a policy or a model's output; nothing is opened."""
    if config.aggregator is not None:
        fit_aggregator(config.aggregator, config.folder, model)
    if config.aggregate is not None:
        _features_model(config, config.aggregate, seal)


def _reporter(
    tier: TierConfig, config: AggregateConfig, ledger: EgressLedger, seal: Seal, tls: TlsFiles | None
) -> Reporter:
    limits = OutboxLimits(max_bytes=int(config.outbox_mb * 1024 * 1024))
    gate = ReportGate(config.egress, tier.model.input.data, ledger, config.address, config.node)
    return Reporter(
        AggregatorClient(
            config.address, tenant=config.tenant, max_message_bytes=tier.limits.max_message_bytes, gate=gate, tls=tls
        ),
        None if config.outbox is None else Outbox(config.outbox, limits, seal=seal),
        encode,
        timeout_s=config.timeout_ms / 1e3,
        max_batch=config.max_batch,
        max_queue=config.max_queue,
        max_bytes=tier.limits.max_message_bytes,
    )


def _features_model(config: TierConfig, aggregate: AggregateConfig, seal: Seal) -> Any:
    if aggregate.features is None:
        return None
    update = {"output": aggregate.features, "output_kind": "raw"}
    try:
        return OnnxModel(config.model.model_copy(update=update), seal)
    except ConfigError as error:
        key = "aggregate.features" if error.key == "model.output" else error.key
        raise ConfigError(error.message, key=key) from error
