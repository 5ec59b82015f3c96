"""The errors of escalade, by whose fault they are.

::

    EscaladeError
     ├── SetupError              before anything serves: a file, a key, a provider, an address (exit code 2)
     │    └── ConfigError        one key of a configuration, with file, line and key
     │         └── NotYetError   a certificate that is not valid yet: a clock that is put right cures it (exit code 75)
     ├── CallerError             the request
     │    ├── InputError         wrong shape, type, bytes, tensor        INVALID_ARGUMENT
     │    ├── NotFoundError      no such model or version                NOT_FOUND
     │    ├── ForgottenError     what is asked for is not kept any more  OUT_OF_RANGE
     │    ├── NotServedError     the tier does not offer this call       FAILED_PRECONDITION
     │    ├── UnknownCallerError its certificate says not who it is      UNAUTHENTICATED
     │    ├── ForbiddenError     its role may not do this, or not for    PERMISSION_DENIED
     │    │                      this device; or it is revoked
     │    ├── TooLargeError      more rows than the tier takes           RESOURCE_EXHAUSTED
     │    └── DeadlineError      its deadline had passed                 DEADLINE_EXCEEDED
     ├── TierError               this tier
     │    ├── OverloadedError    no room, no time: try later            RESOURCE_EXHAUSTED
     │    ├── UnavailableError   cannot be reached: try another          UNAVAILABLE
     │    │    └── DrainingError stopping: try another                   UNAVAILABLE
     │    └── ModelError         the model failed on this input          INTERNAL
     └── UpstreamError           the tier above or the way to it; never shown to a caller:
          │                      the tier answers itself and says `degraded`
          ├── NotSentError       nothing of the message was given to the network
          └── MessageTooLargeError  a message that gRPC does not take at one of the two ends

`tiers.wire.status` is the one place that turns them into gRPC statuses.
"""

from __future__ import annotations


class EscaladeError(Exception):
    """Root of all errors that escalade raises on purpose."""

    outcome = "failed"
    """How the request is counted: one of `metrics.OUTCOMES`."""


class SetupError(EscaladeError):
    """Something the operator gave cannot work; the message says what, where and what to do."""


class ConfigError(SetupError):
    """A configuration key is wrong.

    Parameters
    ----------
    message:
        What is wrong and what to do about it.
    key:
        Dotted path of the key, `model.file`; empty for the file as a whole.
    source:
        The file, `tier.yaml:12`, or the environment variable that the value came from.
    """

    def __init__(self, message: str, *, key: str = "", source: str = "") -> None:
        self.message, self.key, self.source = message, key, source
        super().__init__(": ".join(part for part in (source, key, message) if part))


class NotYetError(ConfigError):
    """A certificate is not valid yet by this machine's clock: starting again, later, may help."""


class CallerError(EscaladeError):
    """The request cannot be answered as it was sent."""


class InputError(CallerError):
    """The input is not what the model takes; the message gives the expected and the received value."""

    outcome = "invalid"


class NotFoundError(CallerError):
    """The tier does not serve the model or version that was asked for."""

    outcome = "not_found"


class ForgottenError(CallerError):
    """What the caller wants to go on from is not kept any more; the message says where to go on."""

    outcome = "not_found"


class NotServedError(CallerError):
    """The server does not offer what was asked: it is another server, or it is not configured for it."""


class UnknownCallerError(CallerError):
    """The caller's certificate does not say who it is."""

    outcome = "forbidden"


class ForbiddenError(CallerError):
    """The caller may not do this, or not for this device."""

    outcome = "forbidden"


class TooLargeError(CallerError):
    """The request has more rows than the tier's `limits.max_rows`."""

    outcome = "too_large"


class DeadlineError(CallerError):
    """The request's deadline had passed before it was computed."""

    outcome = "expired"


class TierError(EscaladeError):
    """The tier cannot answer; another, or a later try, may."""


class OverloadedError(TierError):
    """There is no room or no time for the request; nothing was computed.

    Parameters
    ----------
    cause:
        Why: one of `metrics.SHED_CAUSES`.
    retry_s:
        When to try again; None: unknown.
    """

    outcome = "overloaded"

    def __init__(self, message: str, cause: str = "queue", retry_s: float | None = None) -> None:
        self.cause, self.retry_s = cause, retry_s
        super().__init__(message)


class UnavailableError(TierError):
    """The tier cannot be reached."""


class DrainingError(UnavailableError):
    """The tier finishes what it accepted and takes nothing new."""

    outcome = "draining"


class ModelError(TierError):
    """The model raised on this input."""


class UpstreamError(EscaladeError):
    """The tier above gave no usable answer in time.

    Parameters
    ----------
    reason:
        One word for metrics and for the answer's `reason`: see `escalade.tiers.answer.REASONS`.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        self.reason = reason
        super().__init__(message or reason)


class NotSentError(UpstreamError):
    """There is no connection, or none that may be used: nothing of the message has left."""


class MessageTooLargeError(UpstreamError):
    """A message was larger than gRPC takes at one of the two ends (`limits.max_message_bytes`); nothing was taken."""

    def __init__(self, message: str = "") -> None:
        super().__init__("rejected", message)
