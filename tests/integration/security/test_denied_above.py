"""A tier above whose certificate is revoked is sent nothing and believed nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from escalade.cli.main import main
from escalade.tiers import Client, EdgeServer, Endpoint
from escalade.tiers.errors import NotSentError, UnavailableError
from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.files import OWNER_ONLY, replace
from escalade.tiers.service import Service
from escalade.tiers.testing.fleet import Fleet
from escalade.tiers.tls_config import TlsConfig
from escalade.tiers.tls_files import TlsFiles
from escalade.tiers.wire.aggregator_client import AggregatorClient
from escalade.tiers.wire.link_channel import LinkChannel

pytestmark = pytest.mark.asyncio

X = np.array([[0, 0, 0.5, 0]], np.float32)
PATIENCE_S = 20.0
EMPTY = b"# revoked\n"


class World:
    """A server above an endpoint that asks it everything; both have copies of their files, the endpoint a deny-list."""

    def __init__(self, fleet: Fleet, models: Path, folder: Path, stack: AsyncExitStack) -> None:
        self.fleet, self.models, self.stack, self.deny = fleet, models, stack, folder / "denied.txt"
        self.above, self.below = fleet.copied("server-1", folder), fleet.copied("my-endpoint", folder)
        self.renew()
        replace(self.deny, EMPTY)

    def renew(self) -> None:
        """Give the server a new certificate, for a new key."""
        key = x.new_key()
        request, who = x.make_request("x", key), Identity("edge-server", "server-1")
        pem, facts = self.fleet.authority.sign(who, request, ("127.0.0.1",), days=30)
        replace(Path(self.above["certificate"]), pem)
        replace(Path(self.above["key"]), x.key_to_pem(key), OWNER_ONLY)
        self.certificate, self.serial = pem, facts.serial_hex

    def revoke(self, serial: str) -> None:
        replace(self.deny, self.deny.read_bytes() + f"{serial}  # stolen\n".encode())

    async def server(self, address: str = "127.0.0.1:0", drain_s: float = 0) -> EdgeServer:
        model = {"file": str(self.models / "sure.onnx"), "name": "m"}
        config = {"tier": "edge_server", "model": model, "tls": self.above, "limits": {"drain_seconds": drain_s}}
        server = await self.stack.enter_async_context(
            EdgeServer.from_config({**config, "listen": {"address": address}})
        )
        self.address = await server.listen()
        return server

    async def endpoint(self) -> Endpoint:
        config = {
            "tier": "endpoint",
            "model": {"file": str(self.models / "unsure.onnx"), "name": "m"},
            "policy": {"name": "AlwaysEscalate"},
            "upstream": {
                "address": self.address,
                "timeout_ms": 5000,
                "probe_ms": 100,
                "breaker": {"wait_ms": 100, "max_wait_ms": 100},
            },
            "tls": {**self.below, "deny": str(self.deny)},
        }
        return await self.stack.enter_async_context(Endpoint.from_config(config))

    def client(self, name: str = "my-operator") -> TlsConfig:
        return TlsConfig.model_validate(self.fleet.tls(name, deny=self.deny))


@pytest_asyncio.fixture
async def world(fleet: Fleet, models: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(fleet, models, tmp_path, stack)


async def answered(endpoint: Service) -> None:
    """Return when an answer comes from above."""
    async with asyncio.timeout(PATIENCE_S):
        while (await endpoint.infer(X)).reason:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.02)


async def refused(endpoint: Service, state: str) -> None:
    """Return when the link is in that state, in which no answer comes from above."""
    await until(lambda: endpoint.status().links[0].state == state)
    assert (await endpoint.infer(X)).reason


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.02)


def asked(server: Service) -> int:
    return sum(server.tier.metrics.requests.values())


async def test_a_revoked_tier_above_is_sent_nothing(world: World) -> None:
    """From the first input on; status says so, and the ledger has nothing."""
    world.revoke(world.serial)
    server, endpoint = await world.server(), await world.endpoint()
    answer = await endpoint.infer(X)
    assert (answer.reason, answer.tier) == ("denied", ["endpoint"])
    await refused(endpoint, "denied")
    assert asked(server) == 0
    assert endpoint.egress.lines() == []


async def test_a_tier_above_that_is_revoked_is_left_at_once_until_it_has_another_certificate(world: World) -> None:
    """On the connection that stands, as on the next."""
    server, endpoint = await world.server(), await world.endpoint()
    await answered(endpoint)
    world.revoke(world.serial)
    await refused(endpoint, "denied")
    before = asked(server)
    assert (await endpoint.infer(X)).reason
    assert asked(server) == before
    world.renew()
    await answered(endpoint)
    assert endpoint.status().links[0].state == "up"


async def test_a_tier_above_that_comes_back_with_another_certificate_is_looked_at_anew(world: World) -> None:
    """With one that is revoked it is not even asked once; with a good one it is used."""
    world.revoke("0A")
    server, endpoint = await world.server(), await world.endpoint()
    await answered(endpoint)
    await server.close()
    world.renew()
    world.revoke(world.serial)
    again = await world.server(world.address)
    await refused(endpoint, "denied")
    assert asked(again) == 0
    world.renew()
    await answered(endpoint)


async def test_a_tier_above_that_shows_its_certificate_to_nobody_else_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hides what it is from the look while its connection stands is not believed for the connection's sake."""
    _, endpoint = await world.server(), await world.endpoint()
    await answered(endpoint)
    monkeypatch.setattr("escalade.tiers.wire.peer_certificate.host_port", lambda _: ("127.0.0.1", 1))
    world.revoke("0A")
    await refused(endpoint, "refused")


async def test_who_shows_one_certificate_to_the_look_and_another_to_the_link_gets_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link believes the certificate that was looked at, and no other of the same CA."""
    good = world.certificate
    world.renew()
    world.revoke(world.serial)
    server = await world.server()

    async def looked(*_: object) -> bytes:
        return good

    monkeypatch.setattr("escalade.tiers.wire.link_channel.certificate_at", looked)
    async with Client(world.address, tls=world.client()) as client:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.infer(X, model="m", timeout_s=PATIENCE_S)
    assert asked(server) == 0


async def test_a_stream_of_a_tier_above_that_is_revoked_is_believed_no_more(world: World) -> None:
    """What it says on a stream that was open already is not passed on."""
    server = await world.server(drain_s=1)
    link = LinkChannel(world.address, 2**20, TlsFiles(world.client(), time.time))
    watch = link.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert await anext(watch)
    world.revoke(world.serial)
    await until(lambda: not link.connected)
    said = asyncio.ensure_future(anext(watch))
    closing = asyncio.ensure_future(server.close())  # which it tells those who watch
    with pytest.raises(NotSentError) as caught:
        await said
    await closing
    assert caught.value.reason == "denied"
    await link.close()


async def test_no_surprise_ends_the_watching_of_a_link(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and what is revoked later is heeded."""
    await world.server()
    files, failed = TlsFiles(world.client(), time.time), asyncio.Event()
    link = LinkChannel(world.address, 2**20, files)
    await link.connect(PATIENCE_S)
    refresh = files.refresh

    def fail() -> None:
        monkeypatch.setattr(files, "refresh", refresh)
        failed.set()
        raise RuntimeError("a surprise")

    monkeypatch.setattr(files, "refresh", fail)
    await failed.wait()
    world.revoke(world.serial)
    await until(lambda: not link.connected)
    await link.close()


async def test_reports_to_an_aggregator_that_is_revoked_are_not_sent(world: World) -> None:
    """Nor are its answers asked for."""
    server = await world.server()
    world.revoke(world.serial)
    async with AggregatorClient(world.address, tls=TlsFiles(world.client("node-1"), time.time)) as node:
        with pytest.raises(NotSentError) as caught:
            await node.send([b""], PATIENCE_S)
        assert caught.value.reason == "denied"
        with pytest.raises(UnavailableError, match="is on the deny-list"):
            await anext(node.watch())
    assert asked(server) == 0


async def test_clients_heed_a_deny_list(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Where they are given one: calls, streams that are open, `escalade status --deny`."""
    await world.server()
    async with Client(world.address, tls=world.client()) as client:
        assert (await client.status()).tier == "edge_server"
        world.revoke(world.serial)
        await until(lambda: not client._channel.connected)
        with pytest.raises(UnavailableError, match="is on the deny-list"):
            await client.status()
    async with Client(world.address, tls=world.client()) as client:
        with pytest.raises(UnavailableError, match="is on the deny-list"):
            await anext(client.corrections())
    files = [world.fleet.tls("my-operator")[part] for part in ("certificate", "key", "ca")]
    command = ["status", world.address, "--tls", *files, "--deny", str(world.deny)]
    assert await asyncio.to_thread(main, command) == 1
    assert "is on the deny-list" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["status", world.address, "--deny", str(world.deny)]) == 2
