"""The catalogue of errors as gRPC statuses: the one place that translates, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never

import grpc
import structlog

from escalade.tiers import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)

_STATUS: dict[type[errors.EscaladeError], grpc.StatusCode] = {
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.NotServedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownCallerError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ForgottenError: grpc.StatusCode.OUT_OF_RANGE,
    errors.TooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DrainingError: grpc.StatusCode.UNAVAILABLE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.ModelError: grpc.StatusCode.INTERNAL,
}

_ERROR: dict[grpc.StatusCode, type[errors.EscaladeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InputError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.OUT_OF_RANGE: errors.ForgottenError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.NotServedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnknownCallerError,
    grpc.StatusCode.PERMISSION_DENIED: errors.ForbiddenError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.CANCELLED: errors.OverloadedError,  # by the server: it had no time to read the call
}

PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own hint when to try again; -1: not at all."""


TEXT_LIMIT = 500
"""Characters of a public text: it may quote what the caller sent, and travels in a trailer of limited size."""

TOO_LARGE = "message larger than max"
"""How gRPC says, at either end, that a message is beyond the limit."""

FAILED = (grpc.aio.AioRpcError, errors.NotSentError)
"""What a call on a `LinkChannel` raises."""

_REASON = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.CANCELLED: "overloaded",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.UNKNOWN: "bad_answer",  # what gRPC says of a transport that it cannot parse
    grpc.StatusCode.DATA_LOSS: "bad_answer",
}


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Return the status and the public text of an error; nothing of an unexpected one leaks."""
    code = _STATUS.get(type(error))  # type: ignore[arg-type]  # other types are simply not in it
    if code is None:
        return grpc.StatusCode.INTERNAL, "internal error; see the tier's log"
    text = str(error)
    return code, text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + " ..."


def hint_of(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Return trailing metadata that tells a client when to try again, in gRPC's own word for it (gRFC A6)."""
    if isinstance(error, errors.TooLargeError):
        return ((PUSHBACK, "-1"),)
    retry_s = error.retry_s if isinstance(error, errors.OverloadedError) else None
    return () if retry_s is None else ((PUSHBACK, str(max(1, round(retry_s * 1e3)))),)


def error_of(code: grpc.StatusCode, details: str | None) -> errors.EscaladeError:
    """Return the error that a caller of a tier sees for a status."""
    if code is grpc.StatusCode.CANCELLED:  # gRPC's own text is the code's name
        details = "the tier had no time to read the call (limits.max_unread), or is closing; try again later"
    return _ERROR.get(code, errors.ModelError)(details or code.name)


def error_from(error: grpc.aio.AioRpcError | errors.NotSentError) -> errors.EscaladeError:
    """Return the error that a caller of a tier sees for a call that failed: see `FAILED`."""
    if isinstance(error, errors.NotSentError):
        return errors.UnavailableError(str(error))
    return error_of(error.code(), error.details())


def reason_of(code: grpc.StatusCode) -> str:
    """Return why a peer that ended a call with `code` gave no answer: a key of `answer.REASONS`."""
    return _REASON.get(code, "rejected")


def failure_of(error: grpc.aio.AioRpcError | grpc.aio.UsageError) -> errors.UpstreamError:
    """Return what a call to a peer that ended so came to."""
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in (error.details() or ""):
            return errors.MessageTooLargeError(f"{error.code().name}: {error.details()}")
        reason = "rejected" if _never(error) else reason_of(error.code())
        return errors.UpstreamError(reason, f"{error.code().name}: {error.details()}")
    return errors.NotSentError("unavailable", "the link is closed")


def _never(error: grpc.aio.AioRpcError) -> bool:
    """Whether a refusal says that the same request would be refused again."""
    told = any(key == PUSHBACK and value == "-1" for key, value in error.trailing_metadata() or ())
    return told and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def abort(context: Context, error: Exception) -> Never:
    """End a call with an error's status; one that nobody expected is logged."""
    if not isinstance(error, errors.EscaladeError):
        log.error("request failed unexpectedly", exc_info=error)
    await context.abort(*status_of(error))
    raise AssertionError("abort raises")  # pragma: no cover


def guarded(method: Callable[[bytes], Awaitable[bytes]]) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """Return a method as a handler that ends the call with the status of what it raises."""

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            return await method(data)
        except Exception as error:  # noqa: BLE001  # the last line of defence: no text of a surprise leaks
            await abort(context, error)

    return handle
