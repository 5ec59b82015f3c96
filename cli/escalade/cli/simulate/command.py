"""Runs an action of `escalade simulate`, and what the actions share: scenarios, backends, folders."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from escalade.cli.policy.inputs import make_folder
from escalade.simulations.fleet import load_scenario
from escalade.simulations.fleet.jit import COMPILED
from escalade.simulations.fleet.scenario_file import located
from escalade.simulations.fleet.shipped import find, first_line, shipped
from escalade.tiers.errors import ConfigError, SetupError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from escalade.simulations.fleet import Scenario


def run_simulate(arguments: argparse.Namespace) -> int:
    """Run an action; return 0, or 1 when a policy raised.

    Raises
    ------
    SetupError
        For what the operator gave and cannot work.
    """
    try:
        return _act(arguments)
    except SystemExit as error:
        raise SetupError(
            f"a policy or rule ended the run with SystemExit({error.code!r}); let it raise another"
        ) from error
    except ConfigError as error:
        if arguments.action not in ("run", "capacity"):  # the others have several scenarios
            raise
        raise located(error, find(arguments.scenario), arguments.set) from error


def _act(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return list_shipped()
    if not COMPILED:
        warn(["without numba this takes about a thousand times as long; in a checkout: pip install '.[sim]'"])
    if arguments.action != "validate" and arguments.ray_address and arguments.backend != "ray":
        raise SetupError("--ray-address needs --backend ray")
    if arguments.action == "run":
        from escalade.cli.simulate.run import run

        return run(arguments)
    if arguments.action == "validate":
        from escalade.cli.simulate.validate import validate

        return validate(arguments)
    if arguments.action == "capacity":
        from escalade.cli.simulate.capacity import capacity

        return capacity(arguments)
    from escalade.cli.simulate.sweep import compare, sweep

    return sweep(arguments) if arguments.action == "sweep" else compare(arguments)


def list_shipped() -> int:
    """Print the scenarios that ship; return 0."""
    found = shipped()
    width = max(map(len, found), default=0)
    for name, file in found.items():
        print(f"{name:{width}}  {first_line(file)}")
    return 0


def read(name: str, overrides: Sequence[str]) -> Scenario:
    """Return a scenario by its file or shipped name; ConfigError for the first mistake."""
    return load_scenario(find(name), overrides)


def writable(out: Path | None) -> Path | None:
    """Make the folder for results; SetupError before anything is run when nothing can be written there."""
    if out is None:
        return None
    make_folder(out)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SetupError(f"--out {out}: cannot be written: {error.strerror}") from error
    return out


@contextmanager
def backend(arguments: argparse.Namespace) -> Iterator[Any]:
    """Give what `simulate` takes as its backend; a Ray session ends with the block."""
    if arguments.backend != "ray":
        yield arguments.backend
        return
    from escalade.simulations.fleet.ray_backend import RayBackend, RaySession

    with RaySession(arguments.ray_address, arguments.workers) as session:
        made = RayBackend(session)
        try:
            yield made
        finally:
            made.close()


def warn(texts: Sequence[str]) -> None:
    """Print warnings, a line each, on standard error."""
    for text in dict.fromkeys(texts):
        print(f"escalade: warning: {text}", file=sys.stderr)
