"""Shards in Ray actors, and whole runs as Ray tasks: the only file that imports ray, when it is asked for.

A local session listens on the loopback alone, with a random token for whoever wants to talk to it. One actor owns one
shard, and hands over a checkpoint with a window now and then; one whose process dies is made again from its last
checkpoint and does again what followed, with the same result, since a shard depends on nothing else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.simulations.fleet.protocol import ranges
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from escalade.simulations.fleet.book import Asked
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.protocol import Control, ShardEnd, ShardOutput

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Despite its name: without a cluster of several machines, everything binds to 127.0.0.1. Read at Ray's import."""

OBJECT_STORE_BYTES = 256 << 20
LONGEST_TEMPDIR = 30
"""Characters: below it Ray makes sockets, whose path has room for about 107."""
CHECKPOINT_S = 1.0
"""Wall time between the checkpoints of a shard: what is done again after a death, at most, and a window."""
CONNECT_S = 5.0
"""To a cluster."""
POLL_S = 0.2
"""Between looks at whether to stop."""
DEATHS = 5
"""Of one shard, without a checkpoint in between: then it is given up."""


class RaySession:
    """A connection to Ray: to the session that this process has, to a cluster, or to one of its own. Context manager.

    Parameters
    ----------
    address
        Of a running cluster, as ``ray.init`` takes it. Default: a local session, ended with the block.
        Not looked at where the process has a session, which is left as it is.
    workers
        Shards, or runs, at a time. Default: as many as the session has processors.

    Raises
    ------
    SetupError
        If ray is not installed, or the session cannot be had.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self._address, self._asked = address, workers
        self._entered = False
        self.folder = ""
        self.workers = workers or 1

    def __enter__(self) -> Self:
        ray = _ray(local=self._address is None)
        try:
            if not ray.is_initialized():
                self._connect(ray)
            processors = int(ray.cluster_resources().get("CPU", 1))
            if self._asked is not None and self._asked > processors:
                raise SetupError(f"Ray has {processors} processors for {self._asked} workers: ask for fewer")
            self.workers = self._asked or max(1, processors)
        except (OSError, RuntimeError, ValueError) as error:
            self.__exit__(None, None, None)
            raise SetupError(f"Ray: {self._address or 'a local session'} cannot be had: {_line(error)}") from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered:
            _ray().shutdown()
            self._entered = False
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)  # Ray never does
            self.folder = ""

    def _connect(self, ray: Any) -> None:
        told: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        self._entered = True
        if self._address is not None:
            _knock(self._address)
            ray.init(address=self._address, **told)
            return
        if len(tempfile.gettempdir()) > LONGEST_TEMPDIR:
            raise SetupError(
                f"Ray needs a shorter temporary folder than {tempfile.gettempdir()}: set TMPDIR to one of at most "
                f"{LONGEST_TEMPDIR} characters"
            )
        self.folder = tempfile.mkdtemp(prefix="esc-")
        ray.init(
            address="local",
            num_cpus=max(self._asked or 0, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=self.folder,
            **told,
        )

    def map(
        self, function: Callable[[Any], Any], jobs: Sequence[Any], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Any]]:
        """Yield number and result of ``function(job)`` for each job, as they end; a worker that dies is retried."""
        ray = _ray()
        call = ray.remote(num_cpus=1, max_retries=3)(_call)
        waiting: dict[Any, int] = {}
        left = iter(enumerate(jobs))
        try:
            while not stop():
                while len(waiting) < self.workers and (one := next(left, None)) is not None:
                    waiting[call.remote(list(sys.path), function, one[1])] = one[0]
                if not waiting:
                    return
                for done in ray.wait(list(waiting), timeout=POLL_S)[0]:
                    try:
                        yield waiting.pop(done), ray.get(done)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from None
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


class RayBackend:
    """`protocol.Backend` with an actor for each shard.

    Parameters
    ----------
    session
        Entered, and left open. Default: one of its own, as long as it has actors.
    workers
        Of the session of its own.

    Attributes
    ----------
    restarts
        Actors that died and were made again.
    """

    name = "ray"

    def __init__(self, session: RaySession | None = None, workers: int | None = None) -> None:
        self._session, self._workers = session, workers
        self._own: RaySession | None = None
        self._shards: list[_Shard] = []
        self._used = (0.0, 0.0)
        self.restarts = 0

    def start(self, world: World, asked: Asked) -> None:
        """Make the actors."""
        session = self._session
        if session is None:
            session = self._own = RaySession(workers=self._workers).__enter__()
        ray = _ray()
        kept = ray.put(world)
        self._shards = [_Shard(ray, kept, cells, asked) for cells in ranges(world.cells, session.workers)]

    def advance(self, control: Control, t1: int) -> list[ShardOutput]:
        """Bring every shard to `t1` ns; return their outputs in order of cell.

        Raises
        ------
        SetupError
            If an actor dies again and again.
        """
        # Policies learn in place: what is done again later must be done with them as they are now.
        kept = control if control.policies is None else _ray().put(control)
        for shard in self._shards:
            shard.send(kept, t1)
        outputs = [shard.output() for shard in self._shards]
        self.restarts = sum(shard.restarts for shard in self._shards)
        return outputs

    def finish(self, until: int) -> list[ShardEnd]:
        """Return what every shard counted, in order of cell."""
        for shard in self._shards:
            shard.send_finish(until)
        ends = [shard.end(until) for shard in self._shards]
        used = [shard.told("usage", (0.0, 0.0)) for shard in self._shards]
        self._used = (sum(cpu_s for cpu_s, _ in used), sum(peak for _, peak in used))
        return ends

    def used(self) -> tuple[float, float]:
        """Return CPU seconds and the summed peak memory, MiB, of the actors' processes, once they have finished."""
        return self._used

    def pids(self) -> list[int]:
        """Return the actors' process ids."""
        return [shard.told("pid", 0) for shard in self._shards]

    def close(self) -> None:
        """End the actors; may be called twice."""
        for shard in self._shards:
            shard.kill()
        self._shards = []
        if self._own is not None:
            self._own.__exit__(None, None, None)
            self._own = None


class _Shard:
    """One actor, and what it takes to make it again."""

    def __init__(self, ray: Any, world: Any, cells: range, asked: Asked) -> None:
        self._ray, self._made_of = ray, (world, cells, asked)
        self._checkpoint: NDArray[np.uint8] | None = None
        self._checkpointed = time.monotonic()
        self._since: list[Any] = []
        self._deaths = self.restarts = 0
        self._actor = self._new()
        self._answer: Any = None

    def send(self, control: Any, t1: int) -> None:
        due = time.monotonic() - self._checkpointed > CHECKPOINT_S
        self._since += control, t1
        self._ask("advance", due, control, t1)

    def output(self) -> ShardOutput:
        output, checkpoint = self._get(lambda: self._ask("advance", True, *self._since))
        if checkpoint is not None:
            self._checkpoint, self._since, self._deaths = checkpoint, [], 0
            self._checkpointed = time.monotonic()
        return _writable(output)

    def send_finish(self, until: int) -> None:
        self._ask("finish", until)

    def end(self, until: int) -> ShardEnd:
        return self._get(lambda: self._ask("finish", until, *self._since))  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._ray.kill(self._actor)

    def _ask(self, method: str, *arguments: Any) -> None:
        self._answer = getattr(self._actor, method).remote(*arguments)

    def _get(self, ask_again: Callable[[], None]) -> Any:
        while True:
            try:
                return self._ray.get(self._answer)
            except self._ray.exceptions.RayActorError as error:
                self._deaths += 1
                self.restarts += 1
                if self._deaths >= DEATHS:
                    raise SetupError(
                        f"a Ray worker died {self._deaths} times at the same window; is there memory enough? "
                        f"{_line(error)}"
                    ) from error
                self._actor = self._new()
                ask_again()
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None

    def told(self, method: str, otherwise: Any) -> Any:
        try:
            return self._ray.get(getattr(self._actor, method).remote())
        except self._ray.exceptions.RayActorError:
            return otherwise

    def _new(self) -> Any:
        actor = self._ray.remote(num_cpus=1)(ShardActor).remote(list(sys.path))
        actor.build.remote(*self._made_of, self._checkpoint)
        return actor


class ShardActor:
    """What runs in an actor's process: one shard."""

    def __init__(self, paths: Sequence[str]) -> None:
        _add_paths(paths)  # before anything comes whose classes lie there

    def build(self, world: World, cells: range, asked: Asked, checkpoint: NDArray[np.uint8] | None) -> None:
        """Make the shard, or make it again."""
        from escalade.simulations.fleet.shard import Shard

        self._shard = Shard(world, cells, asked) if checkpoint is None else Shard.restore(world, checkpoint.tobytes())

    def advance(self, checkpoint: bool, *steps: Any) -> tuple[ShardOutput, NDArray[np.uint8] | None]:
        """Do windows one after another, each a control and its end; return the last output, and a checkpoint if due."""
        for control, t1 in zip(steps[::2], steps[1::2], strict=True):
            output = self._shard.advance(control, t1)
        # As an array, the driver sees it in Ray's store and makes no copy.
        return output, np.frombuffer(self._shard.checkpoint(), np.uint8) if checkpoint else None

    def finish(self, until: int, *steps: Any) -> ShardEnd:
        """Do what is to be done again, and return the end."""
        for control, t1 in zip(steps[::2], steps[1::2], strict=True):
            self._shard.advance(control, t1)
        return self._shard.finish(until)

    def usage(self) -> tuple[float, float]:
        """Return CPU seconds and peak memory, MB, of this process."""
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024.0

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()


def _writable(output: ShardOutput) -> ShardOutput:
    """Return it with arrays of its own: what comes from Ray is a view of its store, which the run may not change."""
    return replace(
        output,
        outcomes=output.outcomes.copy(),
        feedback=output.feedback.copy(),
        interval=output.interval.copy(),
    )


def _call(paths: Sequence[str], function: Callable[[Any], Any], job: Any) -> Any:
    _add_paths(paths)
    return function(job)


def _add_paths(paths: Sequence[str]) -> None:
    """Make importable here what the driver can import: policies of one's own lie beside their scenario."""
    sys.path += [path for path in paths if path not in sys.path]


def _ray(*, local: bool = False) -> Any:
    if "ray" not in sys.modules:
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        if local:
            os.environ.update(LOOPBACK)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise SetupError("the ray backend needs ray; in a checkout, install it with: pip install '.[sim]'") from None
    return ray


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
