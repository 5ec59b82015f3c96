from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.tiers.at_rest import MODEL, Vault, id_of_key, open_seal, read_model
from escalade.tiers.config_file import parse_config
from escalade.tiers.errors import ConfigError
from escalade.tiers.keeping_config import AtRestConfig
from escalade.tiers.key_sources import EnvironmentKeys, FileKeys, new_key_line
from escalade.tiers.outbox import Delivered, Inbox, Item, Outbox, OutboxError
from escalade.tiers.outbox.file import OUTBOX
from escalade.tiers.outbox.offline import offline
from escalade.tiers.outbox.salvage import set_aside
from escalade.tiers.outbox.sealing import MAGIC, UNSEALED
from escalade.tiers.testing.fakes import ManualClock

OLD, NEW = b"o" * 32, b"n" * 32
SECRET = b"a face in the crowd"


class Keys:
    def __init__(self, *keys: bytes) -> None:
        self.found: list[bytes] = [*keys]
        self.asked = 0

    def keys(self) -> list[bytes]:
        self.asked += 1
        if not self.found:
            raise OSError("the token was taken out")
        return self.found


def vault(*keys: bytes, **options: Any) -> Vault:
    return Vault(Keys(*keys), **options)


VAULT = vault(OLD)


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_what_is_sealed_opens_for_its_place_alone(plain: bytes, about: bytes) -> None:
    """And shows nothing of itself but its length; twice the same is not the same."""
    stored = VAULT.seal(plain, about)
    assert VAULT.open(stored, about) == plain
    assert len(stored) == len(plain) + 44
    assert VAULT.seal(plain, about) != stored
    with pytest.raises(ValueError, match="stands where something else stood"):
        VAULT.open(stored, about + b"!")


@given(st.data())
def test_a_changed_bit_is_noticed(data: st.DataObject) -> None:
    """Wherever it is, but in the eight bytes that say that it is sealed: without them it is read as it stands."""
    stored = bytearray(VAULT.seal(SECRET, b""))
    place = data.draw(st.integers(len(MAGIC), len(stored) - 1))
    stored[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="it is"):
        VAULT.open(bytes(stored), b"")
    with pytest.raises(ValueError, match="it is"):
        VAULT.open(VAULT.seal(SECRET, b"")[: data.draw(st.integers(len(MAGIC), 62))], b"")


def test_what_was_kept_before_is_read_until_that_is_refused() -> None:
    """With `require` what is not sealed counts as tampered with."""
    assert VAULT.open(SECRET, b"") == SECRET
    with pytest.raises(ValueError, match="it is not encrypted"):
        vault(OLD, require=True).open(SECRET, b"")


def test_keys_rotate_without_a_restart() -> None:
    """A new key is found within a minute; what the old one sealed opens with it, and without it not."""
    clock, keys = ManualClock(), Keys(OLD)
    seal = Vault(keys, clock=clock)
    before = seal.seal(SECRET, b"")
    keys.found = [NEW, OLD]
    clock.advance(61)
    after = seal.seal(SECRET, b"")
    assert [stored[8:16] for stored in (before, after)] == [id_of_key(OLD), id_of_key(NEW)]
    assert seal.open(before, b"") == seal.open(after, b"") == SECRET
    assert vault(NEW, OLD).open(before, b"") == SECRET
    with pytest.raises(ValueError, match=f"another key \\({id_of_key(OLD).hex()}\\)"):
        vault(NEW).open(before, b"")


def test_another_process_may_have_sealed_with_a_newer_key() -> None:
    """The source is asked for a key that is not known yet."""
    keys = Keys(OLD)
    seal = Vault(keys)
    keys.found = [NEW, OLD]
    assert seal.open(vault(NEW).seal(SECRET, b""), b"") == SECRET


def test_a_source_that_fails_later_does_not_stop_the_tier() -> None:
    """The keys that are known go on; at the start it is one line."""
    clock, keys = ManualClock(), Keys(OLD)
    seal = Vault(keys, clock=clock)
    keys.found = []
    clock.advance(61)
    assert seal.open(seal.seal(SECRET, b""), b"") == SECRET
    assert keys.asked == 2
    with pytest.raises(OSError, match="taken out"):
        Vault(keys)


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Keys in their order, comments left out; what is wrong with it is one line that does not quote it."""
    file = tmp_path / "keys"
    file.write_text("# ours\n\n" + "".join(f"{base64.b64encode(key).decode()} # x\n" for key in (NEW, OLD)))
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"keys' may be read by others; chmod 600 it"):
        FileKeys(file).keys()
    file.chmod(0o600)
    assert FileKeys(file).keys() == [NEW, OLD]
    for text, said in (
        ("", "there is no key"),
        ("c2VjcmV0", "line 1: a key has 32 bytes, not 6"),
        ("\ns3cret!", "line 2: is not base64"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said) as caught:
            FileKeys(file).keys()
        assert "s3cret" not in str(caught.value)
        assert "c2V" not in str(caught.value)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file or directory; put it back, or name another"):
        FileKeys(file).keys()


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by blanks; a variable that is not set is named."""
    lines = [new_key_line("x").split()[0] for _ in range(2)]
    monkeypatch.setenv("TIER_KEYS", " ".join(lines))
    assert EnvironmentKeys("TIER_KEYS").keys() == [base64.b64decode(line) for line in lines]
    monkeypatch.delenv("TIER_KEYS")
    with pytest.raises(ConfigError, match="the variable TIER_KEYS is not set"):
        EnvironmentKeys("TIER_KEYS").keys()


def test_a_source_of_ones_own_is_named(tmp_path: Path) -> None:
    """`module:Class` with parameters; what it raises, and what is missing, is one line."""

    def seal(**source: Any) -> Any:
        return open_seal(AtRestConfig.model_validate({"key_source": source}))

    mine = f"{__name__}:FromToken"
    assert seal(source=mine, parameters={"slot": 3}).knows(id_of_key(bytes([3]) * 32))
    with pytest.raises(ConfigError, match="the source gives no keys: no token in slot 0"):
        seal(source=mine, parameters={"slot": 0})
    with pytest.raises(ConfigError, match=r"cannot be made: .*unexpected keyword"):
        seal(source=mine, parameters={"slod": 0})
    with pytest.raises(ConfigError, match="cannot import 'nowhere'"):
        seal(source="nowhere:Keys")
    with pytest.raises(ConfigError, match=r"at_rest\.key_source: name one of `file`, `environment` and `source`"):
        parse_config({"tier": "endpoint", "model": {"file": "m"}, "at_rest": {"key_source": {}}})


class FromToken:
    def __init__(self, slot: int) -> None:
        self.slot = slot

    def keys(self) -> list[bytes]:
        if not self.slot:
            raise RuntimeError("no token in slot 0")
        return [bytes([self.slot]) * 32]


def test_a_model_is_opened_with_the_key_it_was_sealed_with(tmp_path: Path) -> None:
    """A plain one is read as it is, unless encryption is required."""
    file = tmp_path / "m.onnx"
    file.write_bytes(b"model")
    assert read_model(file, UNSEALED) == read_model(file, VAULT) == b"model"
    with pytest.raises(ConfigError, match="it is not encrypted"):
        read_model(file, vault(OLD, require=True))
    file.write_bytes(VAULT.seal(b"model", MODEL))
    assert read_model(file, VAULT) == b"model"
    with pytest.raises(ConfigError, match=r"is encrypted; configure at_rest\.key_source"):
        read_model(file, UNSEALED)
    with pytest.raises(ConfigError, match="with another key"):
        read_model(file, vault(NEW))


Work = Callable[[Outbox], Awaitable[Any]]


def with_outbox(path: Path, work: Work, seal: Any = VAULT) -> Any:
    async def run() -> Any:
        outbox = Outbox(path, seal=seal)
        try:
            await outbox.open()
            return await work(outbox)
        finally:
            await outbox.close()

    return asyncio.run(run())


async def put(outbox: Outbox) -> None:
    for name in ("1", "2"):
        await outbox.put(Item("cam", name, SECRET + name.encode(), provisional=SECRET))


async def take(outbox: Outbox) -> list[tuple[str, bytes, bytes]]:
    return [(one.item.id, one.item.payload, one.item.provisional) for one in await outbox.take(9)]


BOTH = [("1", SECRET + b"1", SECRET), ("2", SECRET + b"2", SECRET)]


def content(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_an_outbox_keeps_nothing_that_can_be_read(tmp_path: Path) -> None:
    """Neither items nor corrections, in file or log, while it is open or after; device and id can be."""
    path = tmp_path / "outbox.db"

    async def deliver(outbox: Outbox) -> list[Any]:
        await put(outbox)
        assert SECRET not in content(path)
        taken = await outbox.take(1)
        await outbox.delivered([Delivered(taken[0].seq, SECRET)])
        return await outbox.corrections(0)

    (correction,) = with_outbox(path, deliver)
    assert (correction.provisional, correction.answer) == (SECRET, SECRET)
    assert with_outbox(path, lambda outbox: outbox.corrections(0)) == [correction]
    assert SECRET not in content(path)
    assert with_outbox(path, take, vault(NEW, OLD)) == BOTH[1:]


def test_an_outbox_from_before_encryption_goes_on(tmp_path: Path) -> None:
    """What it held is read as it is; what comes is sealed."""
    path = tmp_path / "outbox.db"
    with_outbox(path, put, UNSEALED)
    with_outbox(path, lambda outbox: outbox.put(Item("cam", "3", SECRET)))
    assert with_outbox(path, take) == [*BOTH, ("3", SECRET, b"")]
    assert with_outbox(path, take, vault(OLD, require=True)) == [("3", SECRET, b"")]


@pytest.mark.parametrize("seal", [UNSEALED, vault(NEW)])
def test_without_its_key_an_outbox_is_in_trouble_and_loses_nothing(tmp_path: Path, seal: Any) -> None:
    """One line with the key's id; with the key it goes on as if nothing had been."""
    path = tmp_path / "outbox.db"
    with_outbox(path, put)
    with pytest.raises(OutboxError, match=rf"does not have \({id_of_key(OLD).hex()}\); put it back there"):
        with_outbox(path, put, seal)
    assert with_outbox(path, take) == BOTH


def test_a_row_that_was_tampered_with_is_quarantined(tmp_path: Path) -> None:
    """Also by someone who puts a sound row in the place of another, and knows how to reckon a checksum."""
    from escalade.tiers.outbox.item import from_row, to_row

    path = tmp_path / "outbox.db"
    with_outbox(path, put)
    with sqlite3.connect(path) as database:
        names = "seq, rank, kind, created_s, checksum, device, id, provisional, payload"
        first, second = database.execute(f"SELECT {names} FROM items").fetchall()
        item = from_row(first)
        forged = to_row(second[0], Item(item.device, "2", item.payload, provisional=item.provisional))
        database.execute(
            "UPDATE items SET checksum = ?, payload = ?, provisional = ? WHERE seq = ?",
            (forged[4], forged[8], forged[7], second[0]),
        )
    database.close()

    async def look(outbox: Outbox) -> Any:
        return await take(outbox), outbox.stats().quarantined

    assert with_outbox(path, look) == (BOTH[:1], 1)
    with offline(path) as stopped:
        assert [seq for seq, *_ in stopped.quarantined()] == [second[0]]


def test_an_inbox_keeps_nothing_that_can_be_read(tmp_path: Path) -> None:
    """Answers and reports are sealed; over a restart with a new key they are what they were."""
    path = tmp_path / "inbox.db"

    async def run(seal: Any) -> Any:
        async with Inbox(path, seal=seal) as inbox:
            if seal is VAULT:
                await inbox.claim("cam", "1")
                await inbox.answered("cam", "1", SECRET)
                await inbox.store([Item("cam", str(n), SECRET, "result") for n in range(2, 4)])
            seen = await inbox.claim("cam", "1")
            return cast("Any", seen).answer, [stored.item.payload for stored in await inbox.read(0)]

    for seal in (VAULT, vault(NEW, OLD)):
        assert asyncio.run(run(seal)) == (SECRET, [SECRET] * 2)
        assert SECRET not in content(path)


def test_a_damaged_file_is_rescued_without_the_key(tmp_path: Path) -> None:
    """The checksums cover what is stored; the items that are left open afterwards."""
    path, big = tmp_path / "outbox.db", SECRET * 200

    async def put_many(outbox: Outbox) -> None:
        for n in range(60):
            await outbox.put(Item("cam", str(n), big))

    async def take_all(outbox: Outbox) -> set[bytes]:
        return {one.item.payload for _ in range(60) for one in await outbox.take(1)}

    with_outbox(path, put_many)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = os.urandom(20_000)
    path.write_bytes(data)
    set_aside(path, OUTBOX, None, "for the test", wall_s=0.0, synchronous="OFF")
    assert with_outbox(path, take_all) == {big}
