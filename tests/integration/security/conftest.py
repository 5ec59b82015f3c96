from __future__ import annotations

from pathlib import Path

import pytest

from escalade.tiers.pki.authority import Authority
from escalade.tiers.testing.fleet import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another CA, that nobody here believes."""
    return Authority.init(tmp_path_factory.mktemp("strangers") / "ca", "strangers")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "ca", "test")
