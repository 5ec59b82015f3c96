"""Who asks, from and to the parameters of a ModelInferRequest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import InputError
from escalade.tiers.outbox.item import PRIORITIES, Priority

if TYPE_CHECKING:
    from escalade.protos.oip.open_inference_pb2 import ModelInferRequest

NAME_BYTES = 256
"""The longest name of a device or an item: they are kept, counted and logged."""
HOPS_KEPT = 64
"""What a request says beyond is not told apart: nothing is kept by numbers of a caller's choosing."""
_TEXTS = ("device", "priority", "delivery")
_NUMBERED: dict[int, Priority] = {0: "normal", 1: "critical", 2: "normal"}
"""Triton's `priority`: 1 is the most urgent, 0 the server's default; all above 2 are `bulk` here."""


def read_caller(message: ModelInferRequest) -> Caller:
    """Return what a request says of its caller, `PLAIN` when nothing.

    Raises
    ------
    InputError
        A parameter of another type, a name that is too long, an unknown priority.
    """
    parameters, found = message.parameters, dict[str, str]()
    for name in _TEXTS:
        if f"escalade.{name}" in parameters:
            value = parameters[f"escalade.{name}"]
            if value.WhichOneof("parameter_choice") != "string_param":
                raise InputError(f"parameter 'escalade.{name}' must be a string_param")
            if len(value.string_param.encode()) > NAME_BYTES:
                raise InputError(f"parameter 'escalade.{name}' is longer than {NAME_BYTES} bytes")
            found[name] = value.string_param
    priority = found.get("priority") or _numbered_priority(message)
    if priority not in PRIORITIES:
        raise InputError(f"parameter 'escalade.priority' must be one of {', '.join(PRIORITIES)}; got {priority!r}")
    keeps = "escalade.keeps" in parameters and parameters["escalade.keeps"].bool_param
    caller = Caller(found.get("device", ""), priority, keeps, found.get("delivery", ""), _hops(message))
    return PLAIN if caller == PLAIN else caller


def write_caller(message: ModelInferRequest, caller: Caller) -> None:
    """Put into a request's parameters what is known of its caller."""
    if caller is PLAIN:
        return
    if caller.device:
        message.parameters["escalade.device"].string_param = caller.device
    if caller.priority != PLAIN.priority:
        message.parameters["escalade.priority"].string_param = caller.priority
    if caller.keeps:
        message.parameters["escalade.keeps"].bool_param = True
    if caller.delivery:
        message.parameters["escalade.delivery"].string_param = caller.delivery
    if caller.hops:
        message.parameters["escalade.hops"].int64_param = caller.hops


def _hops(message: ModelInferRequest) -> int:
    if "escalade.hops" not in message.parameters:
        return 0
    value = message.parameters["escalade.hops"]
    if value.WhichOneof("parameter_choice") != "int64_param" or value.int64_param < 0:
        raise InputError("parameter 'escalade.hops' must be an int64_param of 0 or more")
    return min(value.int64_param, HOPS_KEPT)


def _numbered_priority(message: ModelInferRequest) -> str:
    if "priority" not in message.parameters:
        return "normal"
    value = message.parameters["priority"]
    number = value.uint64_param if value.WhichOneof("parameter_choice") == "uint64_param" else value.int64_param
    return _NUMBERED.get(number, "bulk")
