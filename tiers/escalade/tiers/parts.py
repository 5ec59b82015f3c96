"""What a tier decides with, as its configuration names it: model, policy, score, head. Nothing else is opened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from escalade.policies import Policy, PolicyConfigError, load_policy, load_score
from escalade.tiers.at_rest import open_seal
from escalade.tiers.attached import check_attached
from escalade.tiers.errors import ConfigError
from escalade.tiers.head import Head
from escalade.tiers.model import OnnxModel
from escalade.tiers.paths import check_usable
from escalade.tiers.record_chunk import import_pyarrow
from escalade.tiers.tls_files import TlsFiles, named_by

if TYPE_CHECKING:
    from escalade.policies import Score
    from escalade.tiers.config import TierConfig
    from escalade.tiers.outbox.sealing import Seal


class Parts(NamedTuple):
    """They fit one another."""

    model: OnnxModel
    policy: Policy
    score: Score
    head: Head


def load_parts(config: TierConfig, seal: Seal) -> Parts:
    """Return a tier's parts; ConfigError when the model, a provider, the score or the policy does not work."""
    model = OnnxModel(config.model, seal)
    policy = _policy(config, model.sha256)
    score = load_score(config.score, config.model.output_kind, temperature=config.model.temperature)
    return Parts(model, policy, score, Head(model, config.model.temperature, score))


def check_tier(config: TierConfig) -> OnnxModel:
    """Find what a tier's start would refuse, and return its model.

    Nothing is written, and no outbox, link or port opened: a tier with the same configuration may run meanwhile.

    Raises
    ------
    SetupError
        As `Service.start`.
    """
    check_usable(config)
    if config.tls:
        config = named_by(TlsFiles(config.tls, time.time), config)
    seal = open_seal(config.at_rest)
    model = load_parts(config, seal).model
    check_attached(config, model, seal)
    if config.record and config.record.format == "parquet":
        import_pyarrow()
    return model


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
