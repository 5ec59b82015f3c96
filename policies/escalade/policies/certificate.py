"""What was promised of a policy, of what data, for which models: `Certificate`."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Certificate(BaseModel):
    """With a confidence of ``1 - delta``, a cascade with these thresholds loses at most `alpha`.

    It holds for inputs like those of the calibration data (drawn independently from the same
    distribution), for the tiers' models as they were, and while every escalated input does reach the tier
    above. It says nothing of drift, outages or single classes.

    Attributes
    ----------
    title, version
        What this is.
    n, n_test
        Labelled inputs in all, and those of them that the test was done on; the others chose what to test.
    alpha, delta
        The promise: P(loss > alpha) <= delta.
    loss
        ``regret``: the share of inputs that the top tier answers right and the cascade wrong. ``net``: the top
        tier's accuracy less the cascade's.
    score
        What the thresholds are compared with.
    thresholds
        For each tier that decides, lowest first, one threshold for each class, or one for all.
    p_value
        Of "the loss is above alpha", at these thresholds.
    bound
        Upper bound of the loss at these thresholds alone, at confidence ``1 - delta``, on the test's rows.
    measured
        The loss on all `n` inputs.
    models
        SHA-256 of the tiers' models, lowest first; None for one that was not given. Empty: none was.
    policy_digest
        SHA-256 of all the rest: of the thresholds, the promise and the evidence. It shows a careless change;
        it is no signature.
    data_digest
        SHA-256 of the calibration data.
    date
        Of the fit, ``YYYY-MM-DD``.

    Examples
    --------
    >>> certificate = Certificate.of(
    ...     n=1000, n_test=600, alpha=0.02, delta=0.1, loss="regret", score="max_prob", thresholds=[[0.75]],
    ...     p_value=0.03, bound=0.017, measured=0.011, models=["a" * 64], data_digest="b" * 64, date="2025-01-31")
    >>> Certificate.from_json(certificate.to_json()) == certificate
    True
    >>> certificate.check_model(0, "a" * 64)
    >>> Certificate.from_json(certificate.to_json().replace("0.75", "0.25"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: not a valid certificate: it was changed after it was made: ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: Literal["escalade risk certificate"] = "escalade risk certificate"
    version: Literal[1] = 1
    n: int = Field(ge=1)
    n_test: int = Field(ge=1)
    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    loss: Literal["regret", "net"]
    score: str
    thresholds: list[list[Annotated[float, Field(allow_inf_nan=False)]]] = Field(min_length=1)
    p_value: float = Field(ge=0, le=1)
    bound: float = Field(ge=-1, le=1)
    measured: float = Field(ge=-1, le=1)
    models: list[Sha256 | None] = []
    policy_digest: Sha256
    data_digest: Sha256
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    @classmethod
    def of(cls, **fields: object) -> Certificate:
        """Make a certificate of all fields but `policy_digest`, which follows from them.

        Raises
        ------
        ValueError
            If a field is missing or out of range (pydantic's ValidationError).
        """
        draft = cls.model_validate({**fields, "policy_digest": "0" * 64}, context={"draft": True})
        return draft.model_copy(update={"policy_digest": draft._digest()})

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If it is no certificate, or one that was changed afterwards; the text says which field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"not a valid certificate: {where + ': ' if where else ''}{message}") from None

    def to_json(self) -> str:
        """Return it as JSON text, fields in a fixed order."""
        return self.model_dump_json(indent=1)

    def check_model(self, level: int, sha256: str) -> None:
        """Raise ValueError if another model than this was certified for the tier `level` (0 the lowest)."""
        certified = self.models[level] if level < len(self.models) else None
        if certified is not None and certified != sha256:
            raise ValueError(
                f"the certificate of {self.date} is of another model of tier {level + 1}: it names SHA-256 "
                f"{certified}, the model is {sha256}; load that model, or certify this one"
            )

    @model_validator(mode="after")
    def _unchanged(self, info: ValidationInfo) -> Certificate:
        if not (info.context or {}).get("draft") and self.policy_digest != self._digest():
            raise ValueError(
                f"it was changed after it was made: policy_digest is {self.policy_digest}, but that of its "
                f"content is {self._digest()}"
            )
        return self

    def _digest(self) -> str:
        content = self.model_dump(exclude={"policy_digest"})
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
