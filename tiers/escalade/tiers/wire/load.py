"""How full a tier is, as its answers say: the parameter `escalade.load` of a ModelInferResponse.

It is appended to a response that is already bytes, and read off its end: serialised parts of one message may be
joined, and a load is one of eight values.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from escalade.protos.oip.open_inference_pb2 import ModelInferResponse
from escalade.tiers.admission import EIGHTHS

PARAMETER = "escalade.load"


def _parameter(load: float) -> bytes:
    response = ModelInferResponse()
    response.parameters[PARAMETER].string_param = f"{load:.3f}"
    return response.SerializeToString()


LOAD_BYTES = {eighth / EIGHTHS: _parameter(eighth / EIGHTHS) for eighth in range(1, EIGHTHS + 1)}
"""What says a load, for each that there is; 0 is not said."""
_LOADS = {data: load for load, data in LOAD_BYTES.items()}
_SIZE = len(LOAD_BYTES[1.0])
_KEY = PARAMETER.encode()


def load_from_bytes(data: bytes) -> float:
    """Return the load that a response tells, 0 where it tells none; whatever else it holds."""
    known = _LOADS.get(data[-_SIZE:])
    if known is not None:
        return known
    if _KEY not in data:
        return 0.0
    try:
        response = ModelInferResponse.FromString(data)
        if PARAMETER not in response.parameters:
            return 0.0
        load = float(response.parameters[PARAMETER].string_param)
    except (DecodeError, ValueError):
        return 0.0
    return load if 0.0 <= load <= 1.0 else 0.0
