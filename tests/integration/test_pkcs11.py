"""Keys from an HSM, here SoftHSM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from escalade.tiers.at_rest import Vault, open_seal
from escalade.tiers.errors import ConfigError
from escalade.tiers.keeping_config import AtRestConfig
from escalade.tiers.pkcs11_keys import Pkcs11Keys

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = pytest.mark.skipif(
    not LIBRARY.exists() or not shutil.which("softhsm2-util"), reason="needs SoftHSM (Debian: apt install softhsm2)"
)


@pytest.fixture
def token(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A token with an AES key that cannot be taken out."""
    pkcs11 = pytest.importorskip("pkcs11", reason="pip install 'escalade[hsm]'")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    monkeypatch.setenv("ESCALADE_PKCS11_PIN", "1234")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "site", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    library = pkcs11.lib(str(LIBRARY))
    library.reinitialize()
    with library.get_token(token_label="site").open(user_pin="1234", rw=True) as session:  # noqa: S106
        session.generate_key(pkcs11.KeyType.AES, 256, label="wrap", store=True)
    return {"library": str(LIBRARY), "token": "site", "key": "wrap", "file": str(folder / "wrapped")}


def test_the_token_unwraps_the_keys(token: dict[str, str]) -> None:
    """What was sealed opens with them after a rotation; they are not in the file, nor do they open without the PIN."""
    file, source = Path(token["file"]), Pkcs11Keys(**token)
    file.write_text(source.new_line())
    (old,) = source.keys()
    sealed = Vault(source).seal(b"a face", b"")
    file.write_text(source.new_line() + file.read_text())
    new, again = source.keys()
    assert again == old != new
    assert len(new) == 32
    assert old not in file.read_bytes()
    config: dict[str, Any] = {"source": "escalade.tiers.pkcs11_keys:Pkcs11Keys", "parameters": token}
    assert open_seal(AtRestConfig.model_validate({"key_source": config})).open(sealed, b"") == b"a face"


def test_a_token_that_refuses_is_one_line(token: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong PIN, no such key, token or library, a line that was tampered with: what, where."""
    source = Pkcs11Keys(**token)
    Path(token["file"]).write_text(source.new_line()[::-1].strip())
    with pytest.raises(ConfigError, match=r"is not base64|token 'site'"):
        source.keys()
    for change, said in (
        ({"key": "none"}, "NoSuchKey"),
        ({"token": "x"}, "NoSuchToken"),
        ({"library": "/no.so"}, "/no.so"),
    ):
        with pytest.raises(ConfigError, match=said):
            Pkcs11Keys(**{**token, **change}).new_line()
    monkeypatch.setenv("ESCALADE_PKCS11_PIN", "0000")
    with pytest.raises(ConfigError, match="PinIncorrect"):
        source.new_line()
    monkeypatch.delenv("ESCALADE_PKCS11_PIN")
    with pytest.raises(ConfigError, match="the variable ESCALADE_PKCS11_PIN is not set"):
        source.new_line()
