"""Tensors of the Open Inference Protocol as numpy arrays, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.tiers.config import DATATYPES, DTYPES
from escalade.tiers.config_types import MAX_RANK
from escalade.tiers.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from escalade.protos.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def array_from_tensor(
    tensor: ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor, raw: bytes | None
) -> NDArray[Any]:
    """Return a tensor's values; BYTES become an object array of `bytes`.

    Parameters
    ----------
    raw:
        The tensor's entry of the raw contents; None when it carries typed contents.

    Raises
    ------
    InputError
        When type, shape and contents disagree; the message gives what was expected and received.
    """
    if len(tensor.shape) > MAX_RANK:
        raise InputError(f"tensor {tensor.name!r} has {len(tensor.shape)} dimensions; at most {MAX_RANK} make sense")
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    dtype = DTYPES.get(datatype)
    if dtype is None and datatype != "BYTES":
        raise InputError(f"tensor {name!r} has unknown datatype {datatype!r}; known: {', '.join(DTYPES)}, BYTES")
    count = math.prod(shape)
    if min(shape, default=0) < 0:
        raise InputError(f"tensor {name!r} has a negative size in its shape {list(shape)}")
    if raw is None:
        return _from_contents(tensor, datatype, shape, count)
    if dtype is None:
        return _shaped(_from_raw_strings(name, raw, count), shape, name)
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"tensor {name!r} of {datatype} {list(shape)} needs {count * dtype.itemsize} raw bytes, got {len(raw)}"
        )
    return _shaped(np.frombuffer(raw, dtype), shape, name)


def raw_from_array(array: NDArray[Any]) -> tuple[str, bytes]:
    """Return an array's datatype and raw contents: row major, little endian.

    Raises
    ------
    InputError
        When the protocol has no such type.
    """
    datatype = DATATYPES.get(array.dtype)
    if datatype is not None:
        return datatype, array.tobytes()
    if array.dtype.kind in "OSU":
        return "BYTES", raw_from_strings(array.ravel().tolist())
    little = array.dtype.newbyteorder("<")
    if little not in DATATYPES:
        raise InputError(f"an array of {array.dtype} cannot be sent; the protocol has {', '.join(DTYPES)}, BYTES")
    return DATATYPES[little], array.astype(little).tobytes()


def raw_from_strings(strings: Iterable[str | bytes]) -> bytes:
    """Return the raw contents of a BYTES tensor: each element after its length, uint32."""
    encoded = [text.encode() if isinstance(text, str) else text for text in strings]
    return b"".join(len(data).to_bytes(4, "little") + data for data in encoded)


def _from_contents(
    tensor: ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor,
    datatype: str,
    shape: tuple[int, ...],
    count: int,
) -> NDArray[Any]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InputError(f"tensor {tensor.name!r}: {datatype} travels only as raw contents")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InputError(
            f"tensor {tensor.name!r} of {datatype} {list(shape)} needs {count} values in {field}, got {len(values)}"
        )
    try:
        array = np.array(values, DTYPES.get(datatype, object))
    except OverflowError as error:
        raise InputError(f"tensor {tensor.name!r} has a value that is no {datatype}: {error}") from error
    return _shaped(array, shape, tensor.name)


def _shaped(array: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    try:
        return array.reshape(shape)
    except ValueError as error:  # nothing in it, but sizes that no array can have
        raise InputError(f"tensor {name!r} cannot have the shape {list(shape)}: {error}") from error


def _from_raw_strings(name: str, raw: bytes, count: int) -> NDArray[Any]:
    strings: list[bytes] = []
    position = 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "little")
        position += 4
        if position + size > len(raw):
            raise InputError(f"BYTES tensor {name!r} ends inside its element {len(strings)}")
        strings.append(raw[position : position + size])
        position += size
    if len(strings) != count:
        raise InputError(f"BYTES tensor {name!r} needs {count} elements, got {len(strings)}")
    array = np.empty(count, object)
    array[:] = strings
    return array
