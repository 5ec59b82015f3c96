"""Every RPC, for every role, with every certificate that one may come with."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import escalade.protos.v1
from escalade.protos.oip import open_inference_pb2 as oip
from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.protos.v1 import tier_pb2
from escalade.tiers import EdgeServer
from escalade.tiers.aggregator.observation import Observation
from escalade.tiers.caller import Caller
from escalade.tiers.identity import SPEAKER, Identity, Speaker
from escalade.tiers.outbox import Correction
from escalade.tiers.pki import certificates as x
from escalade.tiers.pki.authority import Authority
from escalade.tiers.pki.files import replace, write_new
from escalade.tiers.refusals import Refusals
from escalade.tiers.roles import ROLES, TABLE, Role, Scope
from escalade.tiers.service import Service
from escalade.tiers.testing.fleet import DAY_S, Fleet
from escalade.tiers.tls_files import TlsFiles
from escalade.tiers.wire.aggregator_client import AggregatorClient
from escalade.tiers.wire.credentials import server_credentials
from escalade.tiers.wire.guard import Guard
from escalade.tiers.wire.messages import request_bytes
from escalade.tiers.wire.tier_servicer import TierServicer

pytestmark = pytest.mark.asyncio(loop_scope="module")

# endpoint, edge-node, edge-server, operator, viewer: A for any device, O for its own alone, - not at all.
EXPECTED = {
    "/inference.GRPCInferenceService/ServerLive": "AAAAA",
    "/inference.GRPCInferenceService/ServerReady": "AAAAA",
    "/inference.GRPCInferenceService/ModelReady": "AAAAA",
    "/inference.GRPCInferenceService/ServerMetadata": "AAAAA",
    "/inference.GRPCInferenceService/ModelMetadata": "AAAAA",
    "/inference.GRPCInferenceService/ModelInfer": "OAAO-",
    "/inference.GRPCInferenceService/ModelStreamInfer": "OAAO-",
    "/escalade.protos.v1.Tier/GetStatus": "---AA",
    "/escalade.protos.v1.Tier/WatchCorrections": "OO-A-",
    "/escalade.protos.v1.Tier/Deliver": "OAA--",
    "/escalade.protos.v1.Tier/WatchReports": "---AA",
    "/escalade.protos.v1.Tier/Forget": "---A-",
    "/escalade.protos.v1.Aggregator/Observe": "OO---",
    "/escalade.protos.v1.Aggregator/ObserveStream": "OO---",
    "/escalade.protos.v1.Aggregator/WatchEvents": "--AAA",
    "/escalade.protos.v1.Aggregator/GetEvent": "--AA-",
    "/escalade.protos.v1.Aggregator/ListNodes": "---AA",
    "/escalade.protos.v1.Enrolment/Enrol": "-----",
    "/grpc.health.v1.Health/Check": "AAAAA",
    "/grpc.health.v1.Health/Watch": "AAAAA",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "---AA",
}
NOT_SERVED = "/escalade.protos.v1.Enrolment/Enrol"
STREAMS = ("ModelStreamInfer", "ServerReflectionInfo", "ObserveStream")
SERVER_STREAMS = ("WatchCorrections", "WatchReports", "WatchEvents", "Watch")
DEVICE_CALLS = ("ModelInfer", "ModelStreamInfer", "Deliver", "Observe", "ObserveStream")

DENIED, UNKNOWN, UNAVAILABLE = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
)


def declared() -> set[str]:
    """Return every RPC that the contracts have, ours and those that are served beside."""
    modules = [importlib.import_module(f"escalade.protos.v1.{one.name}") for one in pkgutil.iter_modules(PROTOS)]
    files = [module.DESCRIPTOR for module in modules if hasattr(module, "DESCRIPTOR")]
    files += [oip.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    return {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


PROTOS = escalade.protos.v1.__path__


def message(method: str, device: str) -> bytes:
    """Return a request of the method about a device."""
    name = method.rpartition("/")[2]
    if name in ("ModelInfer", "ModelStreamInfer"):
        rows = np.array([[9, 0, 0, 0]], np.float32)
        return request_bytes(rows, model="m", input_name="input", id="1", caller=Caller(device))
    if name == "Deliver":
        report = tier_pb2.Report(device=device, id=f"{device}-1", kind="telemetry", payload=b"{}")
        return tier_pb2.DeliverRequest(reports=[report]).SerializeToString()
    if name in ("Observe", "ObserveStream"):
        observation = pb.Observation(node=device, id="1", event="e", posterior=np.full(4, 0.25, np.float32).tobytes())
        return pb.ObserveRequest(observations=[observation]).SerializeToString()
    return b""


async def status(channel: Any, method: str, device: str = "") -> grpc.StatusCode:
    """Return how a call ends; OK as soon as it is answered."""
    name = method.rpartition("/")[2]
    try:
        if name in STREAMS:
            stream = channel.stream_stream(method)(iter([message(method, device)]), timeout=10)
            return await first(stream)
        if name in SERVER_STREAMS:
            return await first(channel.unary_stream(method)(message(method, device), timeout=10))
        await channel.unary_unary(method)(message(method, device), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def first(stream: Any) -> grpc.StatusCode:
    """Return OK for any answer; one that is an error in a stream of inference has it in its text."""
    answer = await stream.read()
    stream.cancel()
    if answer is grpc.aio.EOF:
        code: grpc.StatusCode = await stream.code()
        return code
    try:
        text = oip.ModelStreamInferResponse.FromString(answer).error_message
    except Exception:  # noqa: BLE001  # another message: an answer all the same
        text = ""
    return DENIED if text.startswith("PERMISSION_DENIED") else grpc.StatusCode.OK


def allowed(code: grpc.StatusCode) -> bool:
    """Whether the call came through to the service, whatever that made of it."""
    return code not in (DENIED, UNKNOWN, UNAVAILABLE)


@pytest.fixture(scope="module")
def deny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("deny") / "denied.txt"
    file.write_text("# revoked\n")
    return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, fleet: Fleet, deny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An edge server that speaks TLS, with everything that a tier may serve, and its address."""
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "inbox": {"file": str(tmp_path_factory.mktemp("inbox") / "inbox.db")},
        "tls": fleet.tls("server-1", deny=deny),
        "aggregator": {"nodes": ["node-1"], "file": str(tmp_path_factory.mktemp("aggregator") / "events.db")},
        "listen": {"address": "127.0.0.1:0"},
    }
    async with EdgeServer.from_config(config) as service:
        address = await service.listen()
        seen = Observation("node-1", "1", "e", "", None, np.full(4, 0.25, np.float32), None, None)
        async with AggregatorClient(address, tls=TlsFiles(fleet.client("node-1"), time.time)) as node:
            (verdict,) = await node.observe([seen])  # so that there is an event to watch
            assert verdict.reason == ""
        yield service, address


class Everything(grpc.GenericRpcHandler):
    """A service that answers whatever it is called."""

    def service(self, handler_call_details: Any) -> Any:
        async def unary(data: bytes, context: Any) -> bytes:
            return b""

        async def stream(data: Any, context: Any) -> AsyncIterator[bytes]:
            yield b""

        name = handler_call_details.method.rpartition("/")[2]
        if name in STREAMS:
            return grpc.stream_stream_rpc_method_handler(stream)
        return (
            grpc.unary_stream_rpc_method_handler if name in SERVER_STREAMS else grpc.unary_unary_rpc_method_handler
        )(stream if name in SERVER_STREAMS else unary)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything(fleet: Fleet) -> AsyncIterator[str]:
    """The address of a guarded server that would answer every RPC there is."""
    files = TlsFiles(fleet.client("server-1"), clock=time.time)
    guard = Guard(files, Refusals({"tier": "t"}, lambda: 0.0, clock=lambda: 0.0))
    server = grpc.aio.server(interceptors=[guard])
    server.add_generic_rpc_handlers([Everything()])
    port = server.add_secure_port("127.0.0.1:0", server_credentials(files))
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest_asyncio.fixture(loop_scope="module")
async def connect() -> AsyncIterator[Any]:
    """Open a channel that is closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            if credentials is None:
                return await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
            return await stack.enter_async_context(grpc.aio.secure_channel(address, credentials, options))

        yield open_channel


async def test_every_rpc_has_a_row() -> None:
    """One that is declared and stands not in both tables fails here; so does a row for none."""
    assert declared() == set(EXPECTED) == set(TABLE)


@pytest.mark.parametrize("role", ROLES)
async def test_the_table_is_kept(everything: str, fleet: Fleet, connect: Any, role: Role) -> None:
    """For every RPC there is, also those that another tier serves."""
    channel = await connect(everything, fleet.credentials(f"my-{role}"))
    for method, row in EXPECTED.items():
        code = await status(channel, method)
        assert code is (DENIED if row[ROLES.index(role)] == "-" else grpc.StatusCode.OK), method
    assert await status(channel, "/escalade.protos.v1.Tier/Unheard") is DENIED


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("device", ["own", "silent", "other"])
async def test_a_device_speaks_only_for_itself(
    server: tuple[Service, str], fleet: Fleet, connect: Any, role: Role, device: str
) -> None:
    """On every RPC that a tier serves; who may speak for others may name them."""
    channel = await connect(server[1], fleet.credentials(f"my-{role}"))
    named = {"own": f"my-{role}", "silent": "", "other": "cam-9"}[device]
    for method, row in EXPECTED.items():
        if method == NOT_SERVED:
            continue
        letter = row[ROLES.index(role)]
        foreign = device == "other" and method.rpartition("/")[2] in DEVICE_CALLS
        code = await status(channel, method, named)
        assert allowed(code) == (letter == "A" or (letter == "O" and not foreign)), (method, code)
        if not allowed(code):
            assert code is DENIED, method


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["no certificate", "expired", "not yet valid", "wrong CA", "plaintext"])
async def test_who_shows_no_good_certificate_is_not_heard(
    server: tuple[Service, str], fleet: Fleet, strangers: Authority, connect: Any, role: Role, kind: str
) -> None:
    """The handshake fails, whatever is called."""
    made = {
        "expired": lambda: fleet.made(role, shift_days=-3),
        "not yet valid": lambda: fleet.made(role, shift_days=3),
        "wrong CA": lambda: fleet.made(role, authority=strangers),
    }
    ca = fleet.ca.read_bytes()
    if kind == "plaintext":
        channel = await connect(server[1], None)
    elif kind == "no certificate":
        channel = await connect(server[1], grpc.ssl_channel_credentials(ca))
    else:
        channel = await connect(server[1], grpc.ssl_channel_credentials(ca, *made[kind]()))
    for method in EXPECTED:
        assert await status(channel, method) is UNAVAILABLE, method


@pytest.mark.parametrize("role", ROLES)
async def test_who_is_revoked_may_nothing(
    server: tuple[Service, str], fleet: Fleet, deny: Path, connect: Any, role: Role
) -> None:
    """Though the certificate is valid and the connection stands."""
    service, address = server
    key, pem = fleet.made(role)
    channel = await connect(address, grpc.ssl_channel_credentials(fleet.ca.read_bytes(), key, pem))
    assert await status(channel, "/inference.GRPCInferenceService/ServerLive") is grpc.StatusCode.OK
    replace(deny, f"# revoked\n{x.facts_of(x.from_pem(pem)).serial_hex} # {role}\n".encode())
    assert service._security
    service._security.files.refresh()
    for method in EXPECTED:
        if method != NOT_SERVED:
            assert await status(channel, method) is DENIED, method


async def test_whose_certificate_ends_meanwhile_may_nothing(
    server: tuple[Service, str], fleet: Fleet, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that stands, its open stream included; those whose certificates last go on."""
    service, address = server
    assert service._security
    key, pem = fleet.made("operator")
    channel = await connect(address, grpc.ssl_channel_credentials(fleet.ca.read_bytes(), key, pem))
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert await watch.read()
    monkeypatch.setattr(service._security.guard, "_clock", lambda: time.time() + 2 * DAY_S)
    assert await watch.code() is DENIED
    assert "has expired" in await watch.details()
    for method in EXPECTED:
        if method != NOT_SERVED:
            assert await status(channel, method) is DENIED, method
    counts = service._security.refusals.counts
    assert counts["/inference.GRPCInferenceService/ServerLive", "operator", "expired"] == 1
    lasting = await connect(address, fleet.credentials("my-operator"))
    assert await status(lasting, "/escalade.protos.v1.Tier/GetStatus") is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "names",
    [["escalade://admin/root"], ["escalade://operator/"], ["https://example.net"], [],
     ["escalade://operator/a", "escalade://viewer/b"]],
    ids=["role", "name", "scheme", "none", "two"],
)  # fmt: skip
async def test_a_certificate_that_names_nobody_may_nothing(
    server: tuple[Service, str], fleet: Fleet, connect: Any, names: list[str]
) -> None:
    """Of our own CA, with another name, none, or two."""
    key, pem = signed(fleet.authority, names)
    channel = await connect(server[1], grpc.ssl_channel_credentials(fleet.ca.read_bytes(), key, pem))
    for method in EXPECTED:
        if method != NOT_SERVED:
            assert await status(channel, method) is UNKNOWN, method


def signed(authority: Authority, uris: list[str]) -> tuple[bytes, bytes]:
    """Return a key and a certificate with just these names."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key, now = x.new_key(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    ca = x.from_pem(authority.ca_pem)
    builder = x509.CertificateBuilder(ca.subject, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    if uris:
        sans = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(sans, critical=False)
    made = builder.sign(x.key_from_pem((authority.folder / "ca.key").read_bytes()), hashes.SHA256())
    return x.key_to_pem(key), x.to_pem(made)


async def test_certificates_of_another_ca_are_known_by_a_mapping(
    models: Path, fleet: Fleet, strangers: Authority, connect: Any, tmp_path: Path
) -> None:
    """A URI of theirs is an endpoint; what they call an operator is nobody, for they may write anything."""
    identities, both = tmp_path / "identities.yaml", tmp_path / "both.crt"
    own, theirs = "escalade://edge-server/server-1", "spiffe://plant/camera-7"
    write_new(identities, f"{theirs}: endpoint/camera-7\n{own}: edge-server/server-1\n".encode())
    write_new(both, fleet.ca.read_bytes() + strangers.ca_pem)
    config = {
        "tier": "edge_server",
        "model": {"file": str(models / "sure.onnx"), "name": "m"},
        "tls": fleet.tls("server-1", ca=both, identities=identities),
        "listen": {"address": "127.0.0.1:0"},
    }
    infer, get_status = "/inference.GRPCInferenceService/ModelInfer", "/escalade.protos.v1.Tier/GetStatus"
    async with EdgeServer.from_config(config) as service:
        address = await service.listen()
        ca = fleet.ca.read_bytes()
        known = await connect(address, grpc.ssl_channel_credentials(ca, *signed(strangers, [theirs])))
        forged = await connect(
            address, grpc.ssl_channel_credentials(ca, *signed(strangers, ["escalade://operator/root"]))
        )
        assert await status(known, infer, "camera-7") is grpc.StatusCode.OK
        assert await status(known, infer, "camera-8") is DENIED
        assert await status(known, get_status) is DENIED
        assert await status(forged, get_status) is UNKNOWN


async def test_refusals_are_counted_and_logged_with_the_identity_and_not_the_payload(
    server: tuple[Service, str], fleet: Fleet, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By method, role and cause; what was claimed and sent is nowhere."""
    service, address = server
    assert service._security
    counts, method = service._security.refusals.counts, "/inference.GRPCInferenceService/ModelInfer"
    before = counts.get((method, "endpoint", "device"), 0), counts.get((method, "viewer", "role"), 0)
    fleet.authority.issue(Identity("endpoint", "loud"))
    fleet.authority.issue(Identity("viewer", "curious"))
    assert await status(await connect(address, fleet.credentials("loud")), method, "secret-device") is DENIED
    assert await status(await connect(address, fleet.credentials("curious")), method, "secret-device") is DENIED
    after = counts[method, "endpoint", "device"], counts[method, "viewer", "role"]
    assert after == (before[0] + 1, before[1] + 1)
    said = [record.getMessage() for record in caplog.records]
    assert any("call refused" in line and "escalade://endpoint/loud" in line and "device" in line for line in said)
    assert any("call refused" in line and "escalade://viewer/curious" in line for line in said)
    assert not any("secret-device" in line for line in said)


@pytest.mark.parametrize(("scope", "heard"), [("own", ["cam-1", "cam-1"]), ("any", ["cam-1", "cam-2", "cam-1"])])
async def test_corrections_go_to_whom_they_concern(scope: Scope, heard: list[str]) -> None:
    """A device hears of its own inputs alone, an operator of all."""

    class Kept:
        async def stored(self, after: int, *, until_now: bool) -> AsyncIterator[Correction]:
            for seq, device in enumerate(["cam-1", "cam-2", "cam-1"]):
                yield Correction(seq, device, "i", b"", b"", 0.0, 0.0)

    unasked: Any = None
    servicer: Any = TierServicer(unasked, Kept(), None, unasked)  # type: ignore[arg-type]
    token = SPEAKER.set(Speaker(Identity("endpoint", "cam-1"), scope))
    try:
        told = [tier_pb2.Correction.FromString(one).device async for one in servicer.watch_corrections(b"", None)]
    finally:
        SPEAKER.reset(token)
    assert told == heard
