"""Runs `escalade policy` and `escalade record`, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from escalade.policies import FitError, NotFittedError, PolicyConfigError, TraceError
from escalade.policies.state_file import StateFileError
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse


def run_policy(arguments: argparse.Namespace) -> int:
    """Run an action of `policy`; return 0, or 1 where the data cannot support what is asked.

    Raises
    ------
    SetupError
        For what the operator gave and cannot work.
    """
    action = arguments.action
    try:
        if action in ("fit", "certify"):
            from escalade.cli.policy import fit

            return fit.fit(arguments) if action == "fit" else fit.certify(arguments)
        if action == "explain":
            from escalade.cli.policy.explain import explain

            return explain(arguments)
        if action == "evaluate" and arguments.recording is not None:
            from escalade.cli.policy.recorded import judge_recorded

            return judge_recorded(arguments)
        if arguments.trace is None:
            raise SetupError("--trace is needed, or --recording")
        from escalade.cli.policy import judge

        return judge.judge(arguments) if action == "evaluate" else judge.judge_several(arguments)
    except FitError as error:
        print(f"escalade: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (TraceError, PolicyConfigError, StateFileError, NotFittedError, ValueError) as error:
        raise SetupError(str(error)) from error


def run_record(arguments: argparse.Namespace) -> int:
    """Run an action of `record`; return 0.

    Raises
    ------
    SetupError
        For what the operator gave and cannot work.
    """
    from escalade.cli.policy.recorded import merge_chunks, show

    try:
        return show(arguments) if arguments.action == "show" else merge_chunks(arguments)
    except (TraceError, ValueError) as error:
        raise SetupError(str(error)) from error
