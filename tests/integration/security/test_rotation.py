"""Certificates, CAs and the deny-list change under live traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from escalade.tiers import EdgeServer, Endpoint
from escalade.tiers.identity import Identity
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.files import OWNER_ONLY, replace
from escalade.tiers.service import Service
from escalade.tiers.testing.fleet import Fleet
from escalade.tiers.wire.messages import request_bytes

pytestmark = [pytest.mark.asyncio, pytest.mark.alone]

X = np.array([[0, 0, 0.5, 0]], np.float32)
INFER, STREAM = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"
REQUEST = request_bytes(X, model="m", input_name="input", id="1")
PATIENCE_S = 20.0
SOON_S = 1.0
AGE_S = 0.4


@pytest.fixture
def tiers(models: Path) -> Any:
    """Start a server, and an endpoint that asks it everything, with the given `tls:` sections."""

    @asynccontextmanager
    async def start(server: dict[str, Any], endpoint: dict[str, Any] | None) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            config = {"tier": "edge_server", "model": {"file": str(models / "sure.onnx"), "name": "m"}, "tls": server}
            above = EdgeServer.from_config({**config, "listen": {"address": "127.0.0.1:0"}})
            await stack.enter_async_context(above)
            address = await above.listen()
            if endpoint is None:
                yield above, address
                return
            below = Endpoint.from_config(
                {
                    "tier": "endpoint",
                    "model": {"file": str(models / "unsure.onnx"), "name": "m"},
                    "policy": {"name": "AlwaysEscalate"},
                    "upstream": {"address": address, "timeout_ms": 5000, "retry": {"burst": 0, "ratio": 0}},
                    "tls": endpoint,
                }
            )
            yield above, await stack.enter_async_context(below)

    return start


class Traffic:
    """Asks all the time, four at once, and keeps why an answer did not come from above."""

    def __init__(self, service: Service) -> None:
        self.service, self.answered, self.reasons = service, 0, list[str]()

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            answer = await self.service.infer(X, deadline_ms=10_000)
            self.answered += 1
            if answer.reason:
                self.reasons.append(answer.reason)
            await asyncio.sleep(0.002)

    async def some(self) -> None:
        """Return when fifty more are answered."""
        wanted = self.answered + 50
        await until(lambda: self.answered >= wanted)


async def until(there: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not there():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def write(section: dict[str, str], key: bytes, certificate: bytes) -> None:
    """Put a new pair in place of the old: the certificate first, as `cp` would, so that for a moment they differ."""
    replace(Path(section["certificate"]), certificate)
    replace(Path(section["key"]), key, OWNER_ONLY)


def issued(authority: Authority, identity: Identity, hosts: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    key = x.new_key()
    pem, _ = authority.sign(identity, x.make_request("x", key), hosts, days=30)
    return x.key_to_pem(key), pem


def versions(*services: Service) -> list[int]:
    return [service._security.files.version for service in services if service._security]


async def test_no_call_fails_while_certificates_and_ca_are_exchanged(
    tiers: Any, fleet: Fleet, strangers: Authority, tmp_path: Path
) -> None:
    """First both CAs are believed, then each side shows a certificate of the new one, then the old CA goes."""
    server, device = fleet.copied("server-1", tmp_path), fleet.copied("my-endpoint", tmp_path)
    async with tiers({**server, "max_connection_age_s": AGE_S}, device) as (above, below), Traffic(below) as traffic:
        await traffic.some()
        for section in (server, device):
            replace(Path(section["ca"]), fleet.ca.read_bytes() + strangers.ca_pem)
        await until(lambda: versions(above, below) == [1, 1])
        await traffic.some()
        write(server, *issued(strangers, Identity("edge-server", "server-1"), ("127.0.0.1",)))
        write(device, *issued(strangers, Identity("endpoint", "my-endpoint")))
        await until(lambda: versions(above, below) == [2, 2])
        await traffic.some()
        for section in (server, device):
            replace(Path(section["ca"]), strangers.ca_pem)
        await until(lambda: versions(above, below) == [3, 3])
        await asyncio.sleep(3 * AGE_S)  # until all that connected before has had to do so anew
        await traffic.some()
        assert traffic.reasons == []


async def test_a_broken_pair_is_not_used_and_said_once(
    tiers: Any, fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one stays, for the server as for the endpoint; the next good one is taken."""
    server, device = fleet.copied("server-1", tmp_path), fleet.copied("my-endpoint", tmp_path)
    async with tiers({**server, "max_connection_age_s": AGE_S}, device) as (above, below), Traffic(below) as traffic:
        for section in (server, device):
            replace(Path(section["certificate"]), b"-----BEGIN CERTIFICATE-----\nhalf")
        await until(lambda: sum("changed file is not used" in record.getMessage() for record in caplog.records) == 2)
        await traffic.some()
        assert versions(above, below) == [0, 0]
        write(server, *issued(fleet.authority, Identity("edge-server", "server-1"), ("127.0.0.1",)))
        write(device, *issued(fleet.authority, Identity("endpoint", "my-endpoint")))
        await until(lambda: versions(above, below) == [1, 1])
        await traffic.some()
        assert traffic.reasons == []


async def test_a_certificate_of_another_name_is_no_renewal(tiers: Any, fleet: Fleet, tmp_path: Path) -> None:
    """A device does not become another one while it runs."""
    server, device = fleet.copied("server-1", tmp_path), fleet.copied("my-endpoint", tmp_path)
    async with tiers(server, device) as (_, below):
        write(device, *issued(fleet.authority, Identity("endpoint", "somebody")))
        before = below._security.files._seen
        await until(lambda: below._security.files._seen != before)
        assert below._security.files.identity == Identity("endpoint", "my-endpoint")


async def test_who_is_revoked_is_refused_within_a_second_on_an_open_connection(
    tiers: Any, fleet: Fleet, tmp_path: Path
) -> None:
    """Calls and an open stream of the one; those of the other go on."""
    deny = tmp_path / "denied.txt"
    replace(deny, b"# revoked\n")
    ca = fleet.ca.read_bytes()
    pairs = [issued(fleet.authority, Identity("endpoint", name)) for name in ("lost", "kept")]
    async with tiers(fleet.tls("server-1", deny=deny), None) as (_, address), AsyncExitStack() as stack:
        channels: list[Any] = [
            await stack.enter_async_context(grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair)))
            for pair in pairs
        ]
        streams = [channel.stream_stream(STREAM)() for channel in channels]
        for channel, stream in zip(channels, streams, strict=True):
            await channel.unary_unary(INFER)(REQUEST, timeout=5)
            await stream.write(REQUEST)
            assert await stream.read()
        serial = x.facts_of(x.from_pem(pairs[0][1])).serial_hex
        replace(deny, f"# revoked\n{serial}  # lost\n".encode())
        revoked = time.monotonic()
        assert await streams[0].code() is grpc.StatusCode.PERMISSION_DENIED
        assert time.monotonic() - revoked < SOON_S
        with pytest.raises(grpc.aio.AioRpcError, match="is revoked") as caught:
            await channels[0].unary_unary(INFER)(REQUEST, timeout=5)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert time.monotonic() - revoked < SOON_S
        await channels[1].unary_unary(INFER)(REQUEST, timeout=5)
        await streams[1].write(REQUEST)
        assert await streams[1].read()
        streams[1].cancel()


async def test_a_revoked_endpoint_answers_itself_and_says_so(tiers: Any, fleet: Fleet, tmp_path: Path) -> None:
    """Degraded, `rejected`: the tier above is there, and will not have it."""
    deny = tmp_path / "denied.txt"
    replace(deny, b"# revoked\n")
    device = fleet.copied("my-endpoint", tmp_path)
    key, certificate = issued(fleet.authority, Identity("endpoint", "my-endpoint"))
    write(device, key, certificate)
    async with tiers(fleet.tls("server-1", deny=deny), device) as (above, below):
        assert (await below.infer(X)).reason == ""
        replace(deny, f"#\n{x.facts_of(x.from_pem(certificate)).serial_hex}\n".encode())
        above._security.files.refresh()
        assert (await below.infer(X)).reason == "rejected"


async def test_an_endpoint_is_called_by_its_certificate(tiers: Any, fleet: Fleet) -> None:
    """Nobody need write its name a second time."""
    async with tiers(fleet.tls("server-1"), fleet.tls("my-endpoint")) as (_, below):
        assert below.config.device == "my-endpoint"
        assert (await below.infer(X)).tier == ["edge_server"]


async def test_who_has_a_certificate_of_a_ca_that_was_left_out_cannot_connect_again(
    tiers: Any, fleet: Fleet, strangers: Authority, tmp_path: Path
) -> None:
    """Nor go on for longer than a connection may last, though it was let in before."""
    server = fleet.copied("server-1", tmp_path)
    replace(Path(server["ca"]), fleet.ca.read_bytes() + strangers.ca_pem)
    theirs = issued(strangers, Identity("endpoint", "theirs"))
    shown = grpc.ssl_channel_credentials(fleet.ca.read_bytes(), *theirs)
    async with (
        tiers({**server, "max_connection_age_s": AGE_S}, None) as (above, address),
        grpc.aio.secure_channel(address, shown) as channel,
    ):
        call: Any = channel.unary_unary(INFER)
        await call(REQUEST, timeout=5)
        replace(Path(server["ca"]), fleet.ca.read_bytes())
        await until(lambda: versions(above) == [1])

        async def refused() -> bool:
            try:
                await call(REQUEST, timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        async with asyncio.timeout(PATIENCE_S):
            while not await refused():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
        await asyncio.sleep(2 * AGE_S)  # and stays out
        assert await refused()


async def test_a_plaintext_tier_above_is_asked_where_that_is_written(models: Path, fleet: Fleet) -> None:
    """A Triton above an edge node that itself speaks TLS."""
    model = {"file": str(models / "unsure.onnx"), "name": "m"}
    plain = EdgeServer.from_config({"tier": "edge_server", "model": model, "listen": {"address": "127.0.0.1:0"}})
    async with plain:
        link = {"address": await plain.listen(), "insecure": True}
        config = {"tier": "endpoint", "model": model, "policy": {"name": "AlwaysEscalate"}, "upstream": link}
        async with Endpoint.from_config({**config, "tls": fleet.tls("my-endpoint")}) as below:
            assert (await below.infer(X)).tier == ["edge_server"]
