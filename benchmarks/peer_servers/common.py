"""What every peer's server does alike: the session's options, a free port, the ready line."""

from __future__ import annotations

import argparse
import signal
import socket
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = "small"
"""The name by which every server knows the model."""


def open_session(file: str) -> Any:
    """Return a session with the options that the tier and the bare servicer use: one thread, no spinning."""
    import onnxruntime as ort  # where a peer runs its model, which is not always the process that starts it

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(Path(file).read_bytes(), options, providers=["CPUExecutionProvider"])


def model_file() -> Path:
    """Return the file that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    file: Path = parser.parse_args().model
    return file.resolve()


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def say_ready(port: int) -> None:
    """Print the line that `benchmarks.processes.Server` waits for."""
    print(f"serving 127.0.0.1:{port}", flush=True)


def wait_for_stop() -> None:
    """Wait until this process is told to stop."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    told.wait()
