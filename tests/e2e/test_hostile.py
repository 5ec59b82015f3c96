"""A tier as a process of its own, live traffic, and beside it all that a hostile peer may send.

`make soak SECONDS=600` runs the same attacks over and over.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from escalade.tiers.client import Client
from escalade.tiers.errors import OverloadedError
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.testing.processes import TierProcess
from escalade.tiers.wire.messages import request_bytes
from escalade.tiers.wire.rows import field

from .raw_http2 import PREFACE, START_WINDOW, RawConnection, frame, message

pytestmark = [
    pytest.mark.asyncio, pytest.mark.alone, pytest.mark.timeout(120 + float(os.environ.get("SOAK_SECONDS", "0")))
]  # fmt: skip

SOAK_S = float(os.environ.get("SOAK_SECONDS", "0"))
MESSAGE_BYTES = 2**20
CEILING_MIB = 250
"""What all attacks together may add to a tier with the limits below; see docs/operations.md, "Hostile input"."""
LIMITS = {
    "max_message_bytes": MESSAGE_BYTES, "max_connections": 2500, "max_streams": 200, "max_calls": 4000,
    "max_unread": 256, "receive_ms": 2000.0,
}  # fmt: skip
DEADLINE_S = 10.0
IDLE = 2000
X = np.array([[9, 0, 0, 0]], np.float32)
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
METHODS = (INFER, "/inference.GRPCInferenceService/ModelReady", "/escalade.protos.v1.Tier/Deliver")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
REQUEST = request_bytes(X, model="m", input_name="input")


@contextmanager
def open_files(wanted: int) -> Any:
    """Let this process open so many files, or skip."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; this machine allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1]) / 1024


def gzip_of_zeros(mib: int) -> bytes:
    """Return so many MiB of zeros as gzip, without ever having them."""
    block, crc = bytes(2**20), 0
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mib):
        crc = zlib.crc32(block, crc)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return b"\x1f\x8b\x08" + bytes(7) + packed * mib + end + struct.pack("<II", crc, (mib << 20) & 0xFFFFFFFF)


class Attacks:
    """What is done to a tier; each leaves its connections open until `close`."""

    def __init__(self, address: str) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self._place = host, int(port)
        self._random = random.Random(7)
        self._open: list[Any] = []
        self._bomb = gzip_of_zeros(512)

    def all(self) -> list[Callable[[], None]]:
        return [
            self.idle_connections, self.garbage, self.bombs, self.many_parts, self.slow_writers, self.slow_readers,
            self.streams_not_read, self.idle_streams, self.headers, self.rapid_resets,
        ]  # fmt: skip

    def close(self) -> None:
        for one in self._open:
            one.close()
        self._open.clear()

    def connection(self, window: int = START_WINDOW) -> RawConnection:
        self._open.append(RawConnection(self.address, window))
        return self._open[-1]  # type: ignore[no-any-return]

    def idle_connections(self) -> None:
        """2,000 connections, half of which not even say that they speak HTTP/2."""
        for place in range(IDLE):
            if place % 2:
                self._open.append(socket.create_connection(self._place, timeout=10))
            else:
                self.connection()

    def garbage(self) -> None:
        """What is no HTTP/2, or stops being it."""
        noise = self._random.randbytes
        sent = [
            b"GET / HTTP/1.1\r\nHost: tier\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + noise(512), PREFACE[:10],
            PREFACE + noise(4096), PREFACE + frame(4, 0, 0, noise(6)), PREFACE + frame(1, 4, 1, noise(200)),
            PREFACE + frame(0, 0, 99, noise(100)), PREFACE + frame(9, 0, 1, b"\0" * 16_000), b"\0" * 65_536,
            *(noise(2000) for _ in range(40)),
        ]  # fmt: skip
        for data in sent:
            own = socket.create_connection(self._place, timeout=10)
            with suppress(OSError):
                own.sendall(data)
            self._open.append(own)

    def bombs(self) -> None:
        """512 MiB of zeros in half a megabyte, sixteen times."""
        for _ in range(16):
            connection = self.connection()
            stream = connection.begin(INFER, (("grpc-encoding", "gzip"),))
            data = message(self._bomb, compressed=True)
            with suppress(OSError):
                connection.send_all(stream, data)

    def many_parts(self) -> None:
        """As many empty tensors and reports as fit."""
        for method, part in ((INFER, field(5, b"")), (INFER, field(6, b"")), (METHODS[2], field(1, b""))):
            for _ in range(4):
                connection = self.connection()
                with suppress(OSError):
                    connection.send_all(connection.begin(method), message(part * (MESSAGE_BYTES // 2 - 8)))

    def slow_writers(self) -> None:
        """More calls than may be on their way, each with a part of a large message, some with nearly all of it."""
        for _ in range(32):
            connection = self.connection()
            connection.send_all(
                connection.begin(INFER), message(bytes(MESSAGE_BYTES - 1000), size=MESSAGE_BYTES), end=False
            )
        for place in range(400):
            if place % 50 == 0:
                connection = self.connection()
            stream = connection.begin((INFER, STREAM)[place % 20 == 0])
            connection.send(stream, message(b"x" * 1000, size=MESSAGE_BYTES - 1))

    def slow_readers(self) -> None:
        """Calls whose answers nobody takes."""
        connection = self.connection(window=0)
        for _ in range(500):
            connection.send(connection.begin(INFER), message(REQUEST), end=True)

    def streams_not_read(self) -> None:
        """Streams that send as much as they are let, and take nothing."""
        for _ in range(4):
            connection = self.connection(window=0)
            stream = connection.begin(STREAM)
            connection.send(stream, message(REQUEST) * 200)

    def idle_streams(self) -> None:
        """More streams than may be open."""
        connection = self.connection()
        for _ in range(400):
            connection.begin(STREAM)

    def headers(self) -> None:
        """Metadata without end."""
        connection = self.connection()
        with suppress(OSError):
            connection.begin(INFER, tuple((f"x-{place}", "y" * 4000) for place in range(3)))
            connection.begin(INFER, (("x-long", "y" * 15_000),))

    def rapid_resets(self) -> None:
        """Calls that are taken back at once."""
        connection = self.connection()
        with suppress(OSError):
            for _ in range(1000):
                connection.reset(connection.begin(INFER))


class Live:
    """A well-behaved caller, for as long as the attacks last."""

    def __init__(self, address: str) -> None:
        self._address, self.outcomes, self.refused = address, Counter[str](), 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._go_on())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _go_on(self) -> None:
        async with Client(self._address) as client:
            while True:
                await self.ask(client)
                await asyncio.sleep(0.002)

    async def ask(self, client: Client) -> None:
        """Ask until there is an answer, as the tier's refusals say that one shall, within the deadline."""
        stop = time.monotonic() + DEADLINE_S
        while True:
            try:
                answer = await client.infer(X, model="m", timeout_s=max(0.001, stop - time.monotonic()))
            except OverloadedError:
                self.refused += 1
            except Exception as error:  # noqa: BLE001  # counted, and the test fails
                self.outcomes[repr(error)] += 1
                return
            else:
                self.outcomes["right" if answer.label is not None and answer.label[0] == 0 else "wrong"] += 1
                return
            await asyncio.sleep(0.01)

    async def answered(self, more: int) -> None:
        """Return when so many more requests were answered."""
        wanted = self.outcomes["right"] + more
        async with Client(self._address) as client:
            while self.outcomes["right"] < wanted and set(self.outcomes) == {"right"}:
                await self.ask(client)


async def malformed(address: str) -> set[grpc.StatusCode]:
    """Send bytes that are no messages to every kind of method; return the statuses, overload's aside."""
    noise, statuses = random.Random(3), set()
    async with grpc.aio.insecure_channel(address) as channel:
        for method in METHODS:
            for _ in range(20):
                statuses.add(await status(channel.unary_unary(method), b"\xff" + noise.randbytes(noise.randrange(200))))
        statuses.add(await status(channel.unary_unary(REFLECTION), b""))
    return statuses - {grpc.StatusCode.CANCELLED}


async def status(call: Any, data: bytes) -> grpc.StatusCode:
    try:
        await call(data, timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_live_traffic_goes_on_beside_a_hostile_peer_and_memory_is_bounded(tmp_path: Path) -> None:
    """Every live request is answered within its deadline, newcomers are served, the tier stays below its ceiling."""
    (tmp_path / "m.onnx").write_bytes(scaled_identity(4))
    config = {
        "tier": "edge_server",
        "model": {"file": str(tmp_path / "m.onnx")},
        "listen": {"reflection": False},
        "inbox": {"file": str(tmp_path / "inbox.db")},
        "limits": LIMITS,
        "log": {"format": "json"},
    }
    with open_files(IDLE + 1000), TierProcess(config, tmp_path) as tier:
        live, attacks = Live(tier.address), Attacks(tier.address)
        async with Client(tier.address) as client:
            await live.ask(client)
        before, stop = memory_mib(tier.pid), time.monotonic() + SOAK_S
        while True:
            async with live.going_on():
                for attack in attacks.all():
                    await asyncio.to_thread(attack)
                    async with Client(tier.address) as newcomer:
                        await live.ask(newcomer)
                await live.answered(300)
                # What is no message is the caller's mistake; reflection is switched off.
                found = await malformed(tier.address)
                assert found == {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
            attacks.close()
            async with Client(tier.address) as newcomer:
                await live.ask(newcomer)
            if time.monotonic() >= stop:
                break
        peak = memory_mib(tier.pid, "VmHWM")
        print(f"resident {before:.0f} MiB, then at most {peak:.0f} MiB; {dict(live.outcomes)}, {live.refused} refused")
        assert tier.running
        assert set(live.outcomes) == {"right"}
        assert peak - before < CEILING_MIB
        assert [entry for entry in tier.events() if entry.get("level") in ("error", "critical")] == []
    assert not [line for line in tier.stderr if "Traceback" in line]
