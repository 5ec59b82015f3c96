"""Run as a program of its own, by path: load a model and run it, where it can do no harm.

It imports numpy and onnxruntime alone, so that it starts quickly. On its standard input come
a line of JSON (`memory_bytes`, `cpu_s`, `output`, `rows`, `feeds`, `content_bytes`), inputs of such sizes as .npy,
and the model. On its standard output goes one line of JSON: `{}` when all is well, else `fault` and `text`.
`self_test` is the other end.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

OUT_OF_MEMORY = ("Failed to allocate", "bad_alloc", "bad allocation", "MemoryError")
SEVERAL = 2
"""Rows at once, to see whether the model takes more than one."""
NO_FOLDER = "/dev/null"
"""Where weights in further files are looked for: nowhere. Otherwise it is the working directory."""
_DTYPES = {
    f"tensor({name})": np.dtype(known)
    for name, known in {
        "float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_,
        "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
        "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    }.items()
}  # fmt: skip


def main() -> None:
    """Read the task, try the model, write the verdict."""
    source = sys.stdin.buffer
    task = json.loads(source.readline())
    feeds = [np.load(io.BytesIO(source.read(size)), allow_pickle=False) for size in task["feeds"]]
    content = source.read(task["content_bytes"])
    _limit(task["memory_bytes"], task["cpu_s"])
    try:
        verdict = _try(content, feeds, task["output"], task["rows"])
    except MemoryError:
        verdict = {"fault": "memory", "text": ""}
    print(json.dumps(verdict), flush=True)


def _limit(memory_bytes: int, cpu_s: int) -> None:
    """Bound what the process may take from here on; whoever runs short of memory shall kill it first."""
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))  # should the parent be gone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _try(content: bytes, feeds: list[Any], output: str | None, rows: bool) -> dict[str, str]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors share no base class
        return _fault("load", error)
    inputs, names = session.get_inputs(), [one.name for one in session.get_outputs()]
    if len(inputs) != 1 or not inputs[0].shape:
        return {}  # the tier itself refuses these, and says why
    dtype, (batch, *row) = _DTYPES.get(inputs[0].type), inputs[0].shape
    if dtype is None or (output and output not in names) or (isinstance(batch, int) and batch > 1):
        return {}  # as above
    main, several = names.index(output) if output else 0, 1 if batch == 1 else SEVERAL
    zeros, *others = feeds or plausible([size if isinstance(size, int) else 1 for size in row], dtype)
    sound = False
    for place, x in enumerate((zeros[:1], zeros[:several], *(feed[:several] for feed in others))):
        try:
            outputs = session.run(names, {inputs[0].name: x.astype(dtype)})
        except Exception as error:  # noqa: BLE001  # as above
            fault = _fault("rows", error)
            if fault["fault"] == "memory" or place == 1:
                return fault
            if place == 0:
                return {}  # the tier's own first run fails as well, and it can name the key
            continue  # not every model takes every number
        shape = np.shape(outputs[main])
        if rows and (not shape or shape[0] != len(x)):
            return {"fault": "rows", "text": f"it answers {list(shape)}"}
        sound = sound or not any(_has_nan(array) for array in outputs)
    return {} if sound else {"fault": "nan", "text": ""}


def plausible(row: list[int], dtype: Any) -> list[Any]:
    """Return inputs of several rows: zeros, and random ones of two kinds, the same each time."""
    rng, shape = np.random.default_rng(0), (SEVERAL, *row)
    if np.dtype(dtype).kind == "f":
        return [np.zeros(shape, dtype), rng.random(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)]
    most = 256 if dtype == np.uint8 else 2
    return [np.zeros(shape, dtype), rng.integers(0, most, shape).astype(dtype)]


def _fault(kind: str, error: Exception) -> dict[str, str]:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return {"fault": "memory" if any(word in text for word in OUT_OF_MEMORY) else kind, "text": text}


def _has_nan(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and bool(np.isnan(array).any())


if __name__ == "__main__":
    main()
