"""Whether one observation is what it should be, whatever the others are. No clock, no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.observations import SUM_TOLERANCE
from escalade.tiers.aggregator.observation import MAX_KEY, Observation, Raw, RefusalError, is_name
from escalade.tiers.config_types import DTYPES, MAX_RANK

if TYPE_CHECKING:
    from escalade.tiers.aggregator.config import AggregatorConfig


class Checks:
    """What every observation is held against.

    Parameters
    ----------
    classes:
        Of the posteriors.
    features:
        Numbers in a feature vector; 0: any, up to `max_features`.
    raw_row:
        Type and shape of the input that the edge server's own model takes, -1 for any size; None: any.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        classes: int,
        features: int = 0,
        raw_row: tuple[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._nodes = {name: place for place, name in enumerate(config.nodes)}
        self._classes, self._features, self._raw_row = classes, features, raw_row
        self._max_features, self._max_raw_bytes = config.max_features, config.max_raw_bytes

    def place(self, observation: Observation) -> int:
        """Return the node's place; raise RefusalError for an observation that cannot be taken whenever it comes."""
        place = self._nodes.get(observation.node)
        if place is None:
            raise RefusalError("unknown_node", f"no node {observation.node[:MAX_KEY]!r} is expected; add it to `nodes`")
        if not (is_name(observation.event) and is_name(observation.zone) and is_name(observation.id)):
            raise RefusalError("key", f"event, zone and id must be printable text of at most {MAX_KEY} characters")
        self._check_posterior(observation)
        if (label := observation.label) is not None and not 0 <= label < self._classes:
            raise RefusalError("label", f"label {label} is none of {self._classes} classes")
        if observation.features is not None:
            size = len(observation.features)
            if size > self._max_features or (self._features and size != self._features):
                raise RefusalError(
                    "features", f"{size} features; expected {self._features or f'<= {self._max_features}'}"
                )
            if not np.isfinite(observation.features).all():
                raise RefusalError("features", "the features are not all finite")
        elif self._features:
            raise RefusalError(
                "features", f"the rule fuses {self._features} features; set `send: features` on the node"
            )
        if observation.raw is not None:
            self._check_raw(observation.raw)
        return place

    def _check_posterior(self, observation: Observation) -> None:
        posterior = observation.posterior
        if len(posterior) != self._classes:
            raise RefusalError("classes", f"the posterior has {len(posterior)} classes; expected {self._classes}")
        values = posterior.tolist()
        total = sum(values)
        if not abs(total - 1.0) <= SUM_TOLERANCE:  # not: nan too
            raise RefusalError("posterior", f"the posterior sums to {total:.4g}, not to 1")
        if min(values) < 0.0:
            raise RefusalError("posterior", f"the posterior has the negative value {min(values):.4g}")

    def _check_raw(self, raw: Raw) -> None:
        dtype = DTYPES.get(raw.datatype)
        if dtype is None or len(raw.shape) > MAX_RANK or min(raw.shape, default=1) < 0:
            raise RefusalError("raw", f"a raw input of {raw.datatype[:20]!r} {list(raw.shape[:16])} cannot be")
        size = math.prod(raw.shape) * dtype.itemsize
        if size != len(raw.content) or size > self._max_raw_bytes:
            raise RefusalError(
                "raw", f"{len(raw.content)} bytes of raw input; its shape needs {size}, {self._max_raw_bytes} may be"
            )
        if self._raw_row is not None:
            datatype, row = self._raw_row
            fits = len(row) == len(raw.shape) and all(
                want in (-1, got) for want, got in zip(row, raw.shape, strict=True)
            )
            if datatype != raw.datatype or not fits:
                raise RefusalError(
                    "raw",
                    f"raw input {raw.datatype} {list(raw.shape)}; the edge server's model takes {datatype} {list(row)}",
                )
