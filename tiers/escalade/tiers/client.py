"""A client of a tier: arrays in, answers out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import EscaladeError, UpstreamError
from escalade.tiers.tls_files import TlsFiles
from escalade.tiers.wire.channel import bytes_call
from escalade.tiers.wire.link_channel import LinkChannel
from escalade.tiers.wire.messages import (
    answer_from_bytes,
    input_name_from_bytes,
    metadata_request_bytes,
    ready_from_bytes,
    request_bytes,
)
from escalade.tiers.wire.status import FAILED, error_from
from escalade.tiers.wire.tier_calls import TierCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from numpy.typing import NDArray

    from escalade.tiers.answer import Answer
    from escalade.tiers.corrections import Correction
    from escalade.tiers.reports import Received
    from escalade.tiers.status import Status
    from escalade.tiers.tls_config import TlsConfig
    from escalade.tiers.wire.channel import BytesCall


class Client:
    """Asks a tier over gRPC, or another Open Inference Protocol server that answers a `posterior`.

    Parameters
    ----------
    address:
        `host:port`.
    tls:
        Whose certificate to show, and which CAs to believe; None: plaintext. ConfigError when the files are not
        in order. With `deny` a tier whose certificate is on that list is not asked.

    Examples
    --------
    ::

        async with Client("127.0.0.1:8001") as client:
            answer = await client.infer(pixels[None], model="digits")
            print(answer.label[0], answer.tier[0], answer.score[0])
    """

    def __init__(self, address: str, *, max_message_bytes: int = 4 * 1024 * 1024, tls: TlsConfig | None = None) -> None:
        self.address = address
        self._input_names: dict[str, str] = {}
        self._calls: dict[str, BytesCall] = {}
        self._channel = LinkChannel(address, max_message_bytes, TlsFiles(tls, time.time) if tls else None)
        self._tier = TierCalls(self._channel)

    async def infer(
        self,
        x: NDArray[Any],
        *,
        model: str,
        timeout_s: float = 1.0,
        id: str = "",  # noqa: A002  # the protocol's word
        caller: Caller = PLAIN,
        event: str = "",
    ) -> Answer:
        """Return the answer of `model` to `x`, `[B, *row]`; `event`: what it is an observation of.

        Raises
        ------
        CallerError, TierError
            As the tier would raise them in process; UnavailableError when it cannot be reached.
        """
        try:
            if model not in self._input_names:
                metadata = await self._call("ModelMetadata", metadata_request_bytes(model), timeout_s)
                self._input_names[model] = input_name_from_bytes(metadata)
            name = self._input_names[model]
            request = request_bytes(x, model=model, input_name=name, id=id, caller=caller, event=event)
            data = await self._call("ModelInfer", request, timeout_s)
            return answer_from_bytes(data, rows=len(x))
        except UpstreamError as error:
            raise EscaladeError(f"{self.address} answered something unusable: {error}") from error

    async def ready(self, timeout_s: float = 1.0) -> bool:
        """Return whether the server takes requests; False when it cannot be reached."""
        try:
            data = await self._call("ServerReady", b"", timeout_s)
        except EscaladeError:
            return False
        return ready_from_bytes(data)

    async def status(self, timeout_s: float = 1.0) -> Status:
        """Return how the tier fares; raises as `infer`, NotServedError where it is another server."""
        return await self._tier.status(timeout_s)

    async def forget(self, device: str, timeout_s: float = 600.0) -> list[str]:
        """Delete what the tier keeps of a device; return what was deleted, a line for each place; raises as `status`.

        UnavailableError: not all of it could be deleted; to be called again.
        """
        return await self._tier.forget(device, timeout_s)

    def corrections(self, after: int = 0, *, until_now: bool = False, raw: bool = False) -> AsyncIterator[Correction]:
        """Yield the tier's corrections after the number `after`, then those that come; raises as `status`.

        Parameters
        ----------
        until_now:
            End instead of waiting for more.
        raw:
            The model is no classifier.
        """
        return self._tier.corrections(after, until_now=until_now, raw=raw)

    def reports(self, after: int = 0, *, until_now: bool = False) -> AsyncIterator[Received]:
        """Yield the reports in the tier's inbox after the number `after`, then those that come; raises as `status`.

        Parameters
        ----------
        until_now:
            End instead of waiting for more.
        """
        return self._tier.reports(after, until_now=until_now)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        call = self._calls.get(method) or self._calls.setdefault(method, bytes_call(self._channel, method))
        try:
            return await call(request, timeout=timeout_s)
        except FAILED as error:
            raise error_from(error) from error
