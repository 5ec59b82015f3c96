"""What a tier's YAML may say of the protection of what it keeps, and of the count of what it sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from escalade.tiers.config_types import PositiveInt, Section


class KeySourceConfig(Section):
    """Where the keys come from; one of the three."""

    file: Path | None = None
    """One key a line, the current first; made by `escalade keys new`."""
    environment: str | None = None
    """A variable that holds the same."""
    source: str | None = None
    """`my_module:MyKeys`, a `KeySource` of your own: an HSM, a TPM, a secret store."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What it is made with."""

    def in_folder(self, folder: Path) -> KeySourceConfig:
        """Return the same with the file's name relative to a folder."""
        return self.model_copy(update={"file": self.file and folder / self.file})

    @model_validator(mode="after")
    def _one_of_three(self) -> KeySourceConfig:
        if sum(one is not None for one in (self.file, self.environment, self.source)) != 1:
            raise ValueError("name one of `file`, `environment` and `source`")
        return self


class AtRestConfig(Section):
    """Encryption of what outbox and inbox keep, and of the model's file, with AES-256-GCM; needs `cryptography`."""

    key_source: KeySourceConfig
    require: bool = False
    """Whether what is kept unencrypted is set aside like damaged data, and an unencrypted model refused; false while
    what was kept before is still there."""

    def in_folder(self, folder: Path) -> AtRestConfig:
        """Return the same with the key file's name relative to a folder."""
        return self.model_copy(update={"key_source": self.key_source.in_folder(folder)})


class EgressLedgerConfig(Section):
    """Where the count of what went up outlives restarts; without it the metrics start at 0."""

    file: Path
    max_lines: PositiveInt = 1000
    """One for each class, destination and device; further devices are counted together."""

    def in_folder(self, folder: Path) -> EgressLedgerConfig:
        """Return the same with the file's name relative to a folder."""
        return self.model_copy(update={"file": folder / self.file})
