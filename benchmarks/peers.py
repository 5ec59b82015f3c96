"""`python -m benchmarks.peers`: B2's model on other servers, beside ours and the hand-written servicer.

`make peers` builds their environments. A peer that is not there, or that does not start, is skipped.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import uvloop

from benchmarks.edge_node import figures, open_both
from benchmarks.load import Load
from benchmarks.models import Models
from benchmarks.processes import ROOT, Server, ServerError, split_cores
from benchmarks.repeats import Settings, as_dicts, interleave, ratio
from benchmarks.report import Results, Row, environment
from benchmarks.run import RESULTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from benchmarks.load import Sample
    from benchmarks.models import Model
    from benchmarks.repeats import Samples

CONCURRENCIES = (64, 16, 1)
ENVIRONMENTS = ROOT / ".venvs"


@dataclass(frozen=True)
class Peer:
    """Another server. `at_least` is how many times its rate ours should be."""

    name: str
    folder: str
    module: str
    package: str
    at_least: float | None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return ENVIRONMENTS / self.folder / "bin" / "python"

    @property
    def missing(self) -> str:
        """Why it cannot be started; empty when it can."""
        ready = self.python.parents[1] / ".ready"
        return "" if ready.exists() else f"no environment in .venvs/{self.folder}; `make peers` builds it"

    def start(self, model: Path, cores: Sequence[int]) -> Server:
        """Start its server."""
        command = [str(self.python), "-m", f"benchmarks.peer_servers.{self.module}", "--model", str(model)]
        environment = {
            "PYTHONPATH": f"{ROOT}:{ENVIRONMENTS / 'messages'}",
            "PYTRITON_HOME": str(model.parent),
            "TMPDIR": str(model.parent),
            **self.environment,
        }
        return Server(command, cores=cores, environment=environment, start_seconds=120)

    def versions(self) -> str:
        """Return the versions of what its environment runs."""
        names = (self.package, "onnxruntime", "grpcio", "protobuf", "numpy")
        code = (
            "import sys; from importlib.metadata import version; "
            "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
        )
        return subprocess.check_output([self.python, "-c", code, *names], text=True).strip()


RAY = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # its faster arrangement
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray keep to the loopback
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one into the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
}
PEERS = (
    Peer("Triton", "triton", "on_triton", "nvidia-pytriton", 1.0),
    Peer("MLServer", "mlserver", "on_mlserver", "mlserver", 2.0),
    Peer("Ray Serve", "rayserve", "on_rayserve", "ray", None, RAY),
)


async def run(peers: Sequence[Peer], settings: Settings) -> Results:
    """Measure one peer after the other, so that only one of them is awake; ours and the bare servicer with each."""
    results = Results(asdict(settings))
    server_cores, own_cores = split_cores()
    async with AsyncExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        model = Models.build(folder).small
        ours, bare = await open_both(stack, model, folder, server_cores, own_cores)
        for peer in peers:
            print(f"{peer.name} ...", flush=True)
            try:
                samples = await _beside(peer, model, server_cores, ours, bare, settings)
            except (ServerError, OSError, ValueError, grpc.aio.AioRpcError) as error:
                await ours.check()  # else it was not the peer that failed
                await bare.check()
                print(error, file=sys.stderr)
                results.notes[peer.name] = f"skipped: {reason(error)}"
            else:
                results.notes[peer.name] = peer.versions()
                results.add(rows(peer, samples), {peer.name: as_dicts(samples)})
    return results


async def _beside(
    peer: Peer, model: Model, cores: Sequence[int], ours: Load, bare: Load, settings: Settings
) -> Samples:
    if peer.missing:
        raise ServerError(peer.missing)
    with peer.start(model.file, cores) as server:
        async with Load(server, model, output="logits") as theirs:
            cases: dict[str, Callable[[], Awaitable[Sample]]] = {}
            for concurrency in CONCURRENCIES:
                seconds = settings.seconds if concurrency == CONCURRENCIES[0] else settings.seconds / 2
                for name, load in (("bare", bare), ("ours", ours), ("theirs", theirs)):
                    cases[f"{name} unary c{concurrency}"] = partial(load.unary, concurrency, seconds)
            return await interleave(cases, settings.repeats)


def rows(peer: Peer, samples: Samples) -> list[Row]:
    """Return ours against one peer; how both stand to the bare servicer is in the detail."""
    found = []
    for case in (f"unary c{concurrency}" for concurrency in CONCURRENCIES):
        ours, theirs, bare = f"ours {case}", f"theirs {case}", f"bare {case}"
        shares = [ratio(samples, name, bare, "requests_per_s") for name in (theirs, ours)]
        detail = (
            f"of the bare servicer: {peer.name} {shares[0]:.2f}, ours {shares[1]:.2f}; "
            f"{peer.name} {figures(samples, theirs)}; ours {figures(samples, ours)}"
        )
        value = ratio(samples, ours, theirs, "requests_per_s")
        what = f"small CNN, {case}, ours / {peer.name}"
        found.append(Row("peers", what, value, "x", peer.at_least, at_most=False, detail=detail))
    return found


def reason(error: Exception) -> str:
    """Return the line that says why, without this machine's paths."""
    text = (error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ([line for line in lines if "error" in line.lower()] or lines)[-1].replace(f"{ROOT}/", "")


def main() -> None:
    """Read the options, run, print, write."""
    names = {peer.folder: peer for peer in PEERS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(names), default=list(names))
    parser.add_argument("--repeats", type=int, default=Settings.repeats)
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of load in one measurement")
    parser.add_argument("--quick", action="store_true", help="go everywhere in seconds; the figures mean nothing")
    parser.add_argument("--out", type=Path, help=f"where to write; by default {RESULTS.name}/, for a full run only")
    options = parser.parse_args()
    settings = Settings.quick() if options.quick else Settings(options.repeats, options.seconds)
    results = uvloop.run(run([names[name] for name in options.only], settings))
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(results.text())
    full = not options.quick and options.only == list(names) and bool(results.rows)
    if out := options.out or (RESULTS if full else None):
        results.write(out, "peers", "Beside other servers")
        print(f"written to {out}/peers.json and {out}/peers.md")


if __name__ == "__main__":
    main()
