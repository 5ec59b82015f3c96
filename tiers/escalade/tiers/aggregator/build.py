"""From a configuration to an aggregator, with one clear line for each mistake."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from escalade.policies import Policy, PolicyConfigError, Score, load_policy, load_score
from escalade.policies.fusion import load_rule
from escalade.tiers.aggregator.aggregator import Aggregator
from escalade.tiers.aggregator.checks import Checks
from escalade.tiers.aggregator.deciding import AGREEMENT, NAME
from escalade.tiers.aggregator.fusing import Fusing
from escalade.tiers.aggregator.store import Store
from escalade.tiers.errors import ConfigError
from escalade.tiers.outbox.errors import OutboxError
from escalade.tiers.outbox.sealing import UNSEALED
from escalade.tiers.record import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.policies.fusion import FeatureFusion, FusionRule
    from escalade.tiers.aggregator.config import AggregatorConfig
    from escalade.tiers.model import OnnxModel
    from escalade.tiers.outbox.sealing import Seal
    from escalade.tiers.tier import Tier

log = structlog.get_logger(__name__)


def check_aggregator(config: AggregatorConfig, folder: Path) -> tuple[FusionRule | FeatureFusion, Policy, Score | None]:
    """Return rule, policy and score that a block names; PolicyConfigError for what is wrong with them."""
    rule = load_rule(config.rule, key="aggregator.rule", folder=folder)
    policy = load_policy(config.policy, key="aggregator.policy", folder=folder)
    if config.score not in (AGREEMENT, "max_prob", "margin", "entropy"):
        raise PolicyConfigError(
            "aggregator.score",
            f"there is no score {config.score!r} of an event: max_prob, margin, entropy, {AGREEMENT}",
        )
    return rule, policy, None if config.score == AGREEMENT else load_score(config.score, "posterior")


class Fitted(NamedTuple):
    """What an aggregator is made of, fitted to its edge server's model."""

    classes: int
    rule: FusionRule | FeatureFusion
    fusing: Fusing
    checks: Checks
    policy: Policy
    score: Score | None
    digest: str


def fit_aggregator(config: AggregatorConfig, folder: Path, model: OnnxModel) -> Fitted:
    """Return the parts of an edge server's aggregator; nothing is opened.

    Raises
    ------
    ConfigError
        Rule, policy or score do not work.
    """
    classes = config.classes or model.classes
    if not classes:
        raise ConfigError("is not known: the edge server's model is no classifier; give it", key="aggregator.classes")
    try:
        rule, policy, score = check_aggregator(config, folder)
    except PolicyConfigError as error:
        raise ConfigError(error.message, key=error.key) from error
    digest = rule_digest(config, folder)
    try:
        policy.check_model(digest)
        policy.check_score(config.score)
    except ValueError as error:
        raise ConfigError(f"does not fit the aggregator: {error}", key="aggregator.policy") from error
    try:
        fusing = Fusing(rule, nodes=len(config.nodes), classes=classes)
    except Exception as error:
        raise ConfigError(
            f"does not fuse {len(config.nodes)} nodes and {classes} classes: {error}", key="aggregator.rule"
        ) from error
    raw_row = (model.input.datatype, model.input.row_shape)
    return Fitted(classes, rule, fusing, Checks(config, classes, fusing.feature_size, raw_row), policy, score, digest)


def build_aggregator(config: AggregatorConfig, folder: Path, tier: Tier, seal: Seal = UNSEALED) -> Aggregator:
    """Return the aggregator of an edge server, with its file open; it is not started. `seal` encrypts what is kept.

    Raises
    ------
    ConfigError
        Rule, policy, score or file do not work.
    """
    classes, rule, fusing, checks, policy, score, digest = fit_aggregator(config, folder, tier.model)
    try:
        store = Store(config.file, config.nodes, config.max_kept, seal)
    except OutboxError as error:
        raise ConfigError(str(error), key="aggregator.file") from error
    recorder = None
    try:
        if config.record:
            facts: dict[str, Any] = {"policy": config.policy, "score": config.score}
            recorder = Recorder(config.record, {"tier": NAME, "model": "fusion", "sha256": digest, **facts}, seal=seal)
        asks = tier if tier.model.classes == classes else None
        aggregator = Aggregator(config, classes, checks, fusing, store, policy, score, tier=asks, recorder=recorder)
    except BaseException:
        store.close()
        raise
    log.info("aggregator ready", nodes=len(config.nodes), classes=classes, rule=repr(rule), sha256=digest[:12])
    return aggregator


def rule_digest(config: AggregatorConfig, folder: Path) -> str:
    """Return what stands for a model's digest: of the rule's configuration and of the bytes of its fit."""
    whole = hashlib.sha256(json.dumps([config.rule, config.nodes], sort_keys=True, default=str).encode())
    if "state" in config.rule:
        whole.update((folder / str(config.rule["state"])).read_bytes())
    return whole.hexdigest()
