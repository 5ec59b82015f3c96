"""From a configuration to a tier's links upward, its outbox and its inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.tiers.forwarding import Forwarding
from escalade.tiers.links import Links
from escalade.tiers.wire.kept import KeptMessages
from escalade.tiers.wire.reports import ReportSender
from escalade.tiers.wire.tier_messages import correction_from_stored
from escalade.tiers.wire.upstream import GrpcUpstream

if TYPE_CHECKING:
    from escalade.policies import Score
    from escalade.tiers.config import OutboxConfig, TierConfig, UpstreamConfig
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.metrics import TierMetrics
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.tls_files import TlsFiles


def build_links(
    config: TierConfig,
    upstream: UpstreamConfig,
    *,
    model: OnnxModel,
    score: Score,
    metrics: TierMetrics,
    ledger: EgressLedger,
    files: TlsFiles | None,
) -> tuple[Links, GrpcUpstream]:
    """Return all links upward, and the first of them, by which reports go; they do nothing yet."""
    peers = [
        GrpcUpstream(
            link,
            tier=config.tier,
            model=model,
            score=score,
            metrics=metrics,
            max_message_bytes=config.limits.max_message_bytes,
            ledger=ledger,
            data=config.model.input.data,
            tls=None if link.insecure else files,
        )
        for link in config.links
    ]
    ways = list(zip(peers, config.links, strict=True))
    return Links(ways, retry=upstream.retry, metrics=metrics, data=config.model.input.data), peers[0]


def build_forwarding(
    config: TierConfig,
    outbox: OutboxConfig,
    links: Links,
    first: GrpcUpstream,
    *,
    model: OnnxModel,
    ledger: EgressLedger,
    seal: Seal,
) -> Forwarding:
    """Return a tier's outbox with what fills and empties it; it is not started."""
    raw, egress = config.model.output_kind == "raw", config.links[0].egress
    return Forwarding(
        outbox,
        links,
        device=config.device,
        wire=KeptMessages(model),
        read=lambda stored: correction_from_stored(stored, raw=raw),
        reports=ReportSender(
            first.channel,
            timeout_s=outbox.timeout_ms / 1e3,
            destination=first.address,
            ledger=ledger,
            egress=egress,
        ),
        load=lambda: links.load,
        max_batch=config.upstream.max_batch if config.upstream else 1,
        egress=egress,
        seal=seal,
    )
