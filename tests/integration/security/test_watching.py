"""A tier's TLS files are watched whatever becomes of them, and what they say counts for who is connected already."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from escalade.tiers import EdgeServer
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import replace
from escalade.tiers.testing.fleet import DAY_S, Fleet
from escalade.tiers.tls_files import TlsFiles

pytestmark = pytest.mark.asyncio

STATUS, WATCH = "/escalade.protos.v1.Tier/GetStatus", "/grpc.health.v1.Health/Watch"
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
PATIENCE_S = 20.0
NAMES = "escalade://{0}: {0}\n"


class World:
    """A server with all its TLS files in a folder, and `my-operator` connected to it with an open stream."""

    def __init__(self, tls: dict[str, Path], server: EdgeServer, address: str, channel: Any, serial: str) -> None:
        self.tls, self.server, self.address, self.channel, self.serial = tls, server, address, channel, serial
        self.stream = channel.unary_stream(WATCH)(b"")

    @property
    def files(self) -> TlsFiles:
        assert self.server._security
        return self.server._security.files

    async def code(self) -> grpc.StatusCode:
        try:
            await self.channel.unary_unary(STATUS)(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def ended(self) -> grpc.StatusCode:
        async with asyncio.timeout(PATIENCE_S):
            return await self.stream.code()  # type: ignore[no-any-return]

    async def looked(self, what: str) -> None:
        """Return when a change of a file has been seen."""
        before = self.files._signature()
        async with asyncio.timeout(PATIENCE_S):
            while self.files._seen != before:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def world(models: Path, fleet: Fleet, tmp_path: Path) -> AsyncIterator[World]:
    tls = {part: Path(file) for part, file in fleet.copied("server-1", tmp_path).items()}
    tls |= {"deny": tmp_path / "denied.txt", "identities": tmp_path / "identities.yaml"}
    replace(tls["deny"], b"# revoked\n")
    replace(tls["identities"], names("edge-server/server-1", "operator/my-operator"))
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "listen": {"address": "127.0.0.1:0"},
        "tls": {part: str(file) for part, file in tls.items()},
        "audit": str(tmp_path / "audit.log"),
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EdgeServer.from_config(config))
        address = await server.listen()
        channel = await stack.enter_async_context(grpc.aio.secure_channel(address, fleet.credentials("my-operator")))
        serial = x.facts_of(x.from_pem(fleet.client("my-operator").certificate.read_bytes())).serial_hex
        world = World(tls, server, address, channel, serial)
        assert await world.stream.read()
        yield world


def names(*who: str) -> bytes:
    return "".join(NAMES.format(one) for one in who).encode()


@pytest.mark.parametrize(("part", "spoilt"), [("ca", b""), ("identities", b"[" * 20_000), ("deny", b"\xff")])
async def test_no_content_of_a_file_ends_the_watching(
    world: World, part: str, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One line; what was in force stays; what is revoked later is refused, and its open stream ended."""
    good = world.tls[part].read_bytes()
    replace(world.tls[part], spoilt)
    await world.looked(part)
    assert await world.code() is grpc.StatusCode.OK
    assert sum("changed file is not used" in record.getMessage() for record in caplog.records) == 1
    replace(world.tls[part], good)
    await world.looked(part)
    replace(world.tls["deny"], f"# revoked\n{world.serial}\n".encode())
    assert await world.ended() is DENIED
    assert await world.code() is DENIED


async def test_no_surprise_ends_the_watching(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one in the code that watches, which stands for all that nobody thought of."""
    refresh, failed = world.files.refresh, asyncio.Event()

    def fail() -> None:
        monkeypatch.setattr(world.files, "refresh", refresh)
        failed.set()
        raise RuntimeError("a surprise")

    monkeypatch.setattr(world.files, "refresh", fail)
    await failed.wait()
    replace(world.tls["deny"], f"# revoked\n{world.serial}\n".encode())
    assert await world.ended() is DENIED


@pytest.mark.parametrize("left", [b"", b"# revoked\n2D47"], ids=["emptied", "cut"])
async def test_a_deny_list_that_is_cut_lets_nobody_back_in(world: World, left: bytes) -> None:
    """The one before stays."""
    replace(world.tls["deny"], f"# revoked\n{world.serial}\n".encode())
    assert await world.ended() is DENIED
    world.tls["deny"].write_bytes(left)
    await world.looked("deny")
    assert await world.code() is DENIED


async def test_serial_numbers_that_vanish_are_counted(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log; the audit log has every list with its file, its digest and how many it denies."""
    replace(world.tls["deny"], f"# revoked\n{world.serial}\n0A\n".encode())
    assert await world.ended() is DENIED
    replace(world.tls["deny"], b"# revoked\n")
    await world.looked("deny")
    assert await world.code() is grpc.StatusCode.OK
    assert any("have vanished" in (text := record.getMessage()) and "count=2" in text for record in caplog.records)
    lists = [line for line in lines(tmp_path / "audit.log") if line["what"] == "deny"]
    assert [line["serials"] for line in lists] == ["0", "2", "0"]
    assert {line["name"] for line in lists} == {str(world.tls["deny"])}
    assert lists[0]["sha256"] == lists[2]["sha256"] != lists[1]["sha256"]


async def test_the_audit_log_names_the_certificate(world: World, tmp_path: Path) -> None:
    """At start, by its serial number."""
    [line] = [line for line in lines(tmp_path / "audit.log") if line["what"] == "certificate"]
    facts = x.facts_of(x.from_pem(world.tls["certificate"].read_bytes()))
    assert (line["name"], int(line["serial"], 16)) == (str(world.tls["certificate"]), facts.serial)


async def test_who_loses_its_name_loses_its_streams(world: World) -> None:
    """As its calls; what was said of others is nothing to it."""
    replace(world.tls["identities"], names("edge-server/server-1", "operator/my-operator", "viewer/somebody"))
    await world.looked("identities")
    assert await world.code() is grpc.StatusCode.OK
    replace(world.tls["identities"], names("edge-server/server-1"))
    assert await world.ended() is UNKNOWN
    assert await world.code() is UNKNOWN


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_that_ends_is_not_carried_on_by_resumption(
    world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """A session ticket spares the look at the certificate; its dates count for every call all the same."""
    shown = fleet.client("my-operator")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(shown.ca)
    context.load_cert_chain(shown.certificate, shown.key)
    context.set_alpn_protocols(["h2"])
    context.maximum_version = version
    host, _, port = world.address.partition(":")

    def ask(session: ssl.SSLSession | None) -> tuple[Any, bool | None, bytes]:
        plain = socket.create_connection((host, int(port)), PATIENCE_S)
        with context.wrap_socket(plain, server_hostname=host, session=session) as tls:
            tls.sendall(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, HEADERS) + frame(0, 1, 1, bytes(5)))
            said = b""
            while b"grpc-status" not in said:
                said += tls.recv(65536)
            return tls.session, tls.session_reused, said

    ticket, _, said = await asyncio.to_thread(ask, None)
    assert b"server-1" in said
    assert world.server._security
    monkeypatch.setattr(world.server._security.guard, "_clock", lambda: time.time() + 400 * DAY_S)
    _, reused, said = await asyncio.to_thread(ask, ticket)
    assert reused
    assert b"has expired" in said


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = b"".join(
    b"\0%c%b%c%b" % (len(name), name, len(value), value)  # literal, not indexed (RFC 7541, 6.2.2)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", STATUS.encode()),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
