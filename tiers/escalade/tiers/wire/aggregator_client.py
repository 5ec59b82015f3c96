"""A client of an aggregator: nodes report through it, applications watch through it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import grpc

from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.tiers.errors import InputError, NotSentError, UpstreamError
from escalade.tiers.wire.aggregator import SERVICE, observation_to_proto, observe_request, verdicts_from_bytes
from escalade.tiers.wire.link_channel import LinkChannel
from escalade.tiers.wire.report_gate import HELD_BACK
from escalade.tiers.wire.status import FAILED, error_from, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from escalade.tiers.aggregator.observation import Observation, Verdict
    from escalade.tiers.tls_files import TlsFiles
    from escalade.tiers.wire.report_gate import ReportGate


class AggregatorClient:
    """Asks an aggregator over gRPC.

    Parameters
    ----------
    address:
        `host:port`.
    tenant:
        Whose observations are reported.
    wall:
        The time of day, which goes with every report so that the aggregator learns the skew.
    gate:
        Holds back what may not leave, and counts what leaves; None: everything may, uncounted.
    tls:
        None: plaintext.

    Examples
    --------
    ::

        async with AggregatorClient("127.0.0.1:8001") as client:
            async for answer in client.watch():
                print(answer.event, answer.label, answer.revision)
    """

    def __init__(
        self,
        address: str,
        *,
        tenant: str = "",
        max_message_bytes: int = 4 * 1024 * 1024,
        wall: Callable[[], float] = time.time,
        gate: ReportGate | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self._gate = gate
        self.address, self._tenant, self._wall = address, tenant, wall
        self._channel = LinkChannel(address, max_message_bytes, tls)
        unary = self._channel.unary_unary
        self._observe: Any = unary(f"/{SERVICE}/Observe")
        self._get_event: Any = unary(f"/{SERVICE}/GetEvent")
        self._list_nodes: Any = unary(f"/{SERVICE}/ListNodes")
        self._watch: Any = self._channel.unary_stream(f"/{SERVICE}/WatchEvents")

    async def observe(self, observations: Sequence[Observation], timeout_s: float = 1.0) -> list[Verdict]:
        """Report observations; raises as `send`."""
        return await self.send([encode(one) for one in observations], timeout_s)

    async def send(self, encoded: Sequence[bytes], timeout_s: float) -> list[Verdict]:
        """Report observations that `encode` made; return a verdict for each.

        Raises
        ------
        UpstreamError
            There was no usable answer in time: they may have been taken or not. Report them again.
        """
        classes = self._gate.classes(encoded) if self._gate else []
        if None in classes:
            allowed = [one for one, data in zip(encoded, classes, strict=True) if data]
            verdicts = await self.send(allowed, timeout_s) if allowed else []
            given = iter(verdicts)
            return [next(given) if data else HELD_BACK for data in classes]
        request = observe_request(self._tenant, self._wall(), encoded)
        left = True
        try:
            verdicts = verdicts_from_bytes(await self._observe(request, timeout=timeout_s))
        except NotSentError:
            left = False
            raise
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            failure = failure_of(error)
            left = not isinstance(failure, NotSentError)
            raise failure from error
        except Exception as error:
            raise UpstreamError("bad_answer", str(error)) from error
        finally:
            if self._gate and left:
                self._gate.sent(classes, len(request))
        if len(verdicts) != len(encoded):
            raise UpstreamError("bad_answer", f"{len(verdicts)} verdicts for {len(encoded)} observations")
        return verdicts

    async def watch(self, after: int | None = 0) -> AsyncIterator[pb.Answer]:
        """Yield answers and corrections from a sequence number on; None: only new ones.

        Raises
        ------
        CallerError, TierError
            InputError for an `after` that is no sequence number; UnavailableError when the link breaks: watch again,
            after the last sequence number seen.
        """
        if after is not None and not 0 <= after < 2**63:
            raise InputError(f"`after` must be a sequence number, 0 or more, or None; got {after}")
        request = pb.WatchEventsRequest(after=after or 0, only_new=after is None)
        try:
            async for data in self._watch(request.SerializeToString()):
                yield pb.Answer.FromString(data)
        except FAILED as error:
            raise error_from(error) from error

    async def event(self, key: str, label: int | None = None, timeout_s: float = 1.0) -> pb.Event:
        """Return one event; with a label, tell the truth about it. Raises as `Client.infer`."""
        request = pb.GetEventRequest(event=key, label=label)
        return pb.Event.FromString(await self._call(self._get_event, request, timeout_s))

    async def nodes(self, timeout_s: float = 1.0) -> list[pb.Node]:
        """Return how every node is. Raises as `Client.infer`."""
        data = await self._call(self._list_nodes, pb.ListNodesRequest(), timeout_s)
        return list(pb.ListNodesResponse.FromString(data).nodes)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, call: Any, request: Any, timeout_s: float) -> bytes:
        try:
            return await call(request.SerializeToString(), timeout=timeout_s)  # type: ignore[no-any-return]
        except FAILED as error:
            raise error_from(error) from error


def encode(observation: Observation) -> bytes:
    """Return an observation as bytes, for `AggregatorClient.send` and for an outbox."""
    return observation_to_proto(observation).SerializeToString()
