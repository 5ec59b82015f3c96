"""`escalade`: one command, its subcommands in files of their own.

Exit codes: 0 done, 1 something failed while running, 2 something the operator gave cannot work, 75 not yet: the clock
is behind the dates of a certificate, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from escalade.cli.pki.arguments import add_pki, add_tls
from escalade.cli.policy.arguments import add_policy, add_record, positive
from escalade.cli.profile import add_profile, profile
from escalade.cli.simulate.arguments import add_simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

TRY_LATER = 75
"""`EX_TEMPFAIL` of BSD's sysexits."""
TIERS = ("endpoint", "edge-node", "edge-server")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    root = argparse.ArgumentParser(
        prog="escalade",
        description="Three-tier edge AI: each input is answered at the lowest tier that can be trusted with it.",
    )
    root.add_argument("--version", action="version", version=f"escalade {version('escalade')}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run a tier until SIGTERM or Ctrl-C")
    serve.add_argument("tier", choices=TIERS)
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="the tier's YAML")

    config = commands.add_parser("config", help="check a tier's YAML, or show its effective values")
    actions = config.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="check the file and everything it names; exit 2 on a mistake")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--no-model", action="store_true", help="do not load the model: it is on another machine")
    show = actions.add_parser("show", help="print the effective values, defaults and environment included")
    show.add_argument("file", type=Path, metavar="FILE")

    status = commands.add_parser("status", help="how a running tier fares: links, outbox, queue, what was refused")
    status.add_argument("address", metavar="HOST:PORT")
    status.add_argument("--watch", action="store_true", help="go on until Ctrl-C")
    status.add_argument(
        "--every", type=positive, default=1.0, metavar="SECONDS", help="with --watch; default: %(default)s"
    )
    status.add_argument("--json", action="store_true", help="one line of JSON each time")
    add_tls(status)

    add_pki(commands)
    add_policy(commands)
    add_record(commands)
    add_simulate(commands)
    add_profile(commands)
    fusion = commands.add_parser("fusion", help="compare the rules that fuse several nodes' views of one event")
    actions = fusion.add_subparsers(dest="action", required=True, metavar="ACTION")
    evaluate = actions.add_parser("evaluate", help="accuracy with all nodes well, one noisy, one stuck")
    evaluate.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="z_cal, y_cal, z_test, y_test (.npz)"
    )
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="where fusion.json goes")
    fit = actions.add_parser("fit", help="fit one rule, for an aggregator")
    fit.add_argument("--data", type=Path, required=True, metavar="FILE", help="as for evaluate")
    fit.add_argument("--rule", default="Stacking", metavar="NAME", help="default: %(default)s")
    fit.add_argument("--out", type=Path, required=True, metavar="NEW_FILE", help="ends in .npz or .json")
    outbox = commands.add_parser("outbox", help="look into a stopped tier's outbox")
    actions = outbox.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="print what it holds, in the order in which it would be sent")
    listing.add_argument("file", type=Path, metavar="FILE", help="the SQLite file")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="most items to print; default: %(default)s")
    export = actions.add_parser("export", help="write every item as a line of JSON")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--out", type=Path, metavar="NEW_FILE", help="default: standard output")
    export.add_argument("--quarantined", action="store_true", help="the damaged items that were set aside instead")
    drain = actions.add_parser("drain", help="send what a stopped tier's outbox holds to the tier above")
    drain.add_argument(
        "config", type=Path, metavar="CONFIG", help="the tier's YAML: it names outbox, model and upstream"
    )
    drain.add_argument("--seconds", type=float, default=60.0, metavar="S", help="at most; default: %(default)s")
    drop = actions.add_parser("drop-quarantine", help="delete the damaged items and files that were set aside")
    drop.add_argument("file", type=Path, metavar="FILE")

    inbox = commands.add_parser("inbox", help="the reports that came to a stopped tier's inbox")
    actions = inbox.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="print what came, in order")
    listing.add_argument("file", type=Path, metavar="FILE", help="the SQLite file")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="most to print; default: %(default)s")
    export = actions.add_parser("export", help="write every report as a line of JSON")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--out", type=Path, metavar="NEW_FILE", help="default: standard output")
    export.add_argument("--after", type=int, default=0, metavar="SEQ", help="only those with greater numbers")
    drop = actions.add_parser("drop-quarantine", help="delete the damaged items and files that were set aside")
    drop.add_argument("file", type=Path, metavar="FILE")

    egress = commands.add_parser("egress", help="what may go up from a tier, and what went")
    actions = egress.add_subparsers(dest="action", required=True, metavar="ACTION")
    sent = actions.add_parser("show", help="print a tier's egress ledger: bytes by class, destination and device")
    sent.add_argument("config", type=Path, metavar="CONFIG", help="the tier's YAML")
    sent.add_argument("--json", action="store_true", help="a line of JSON for each")

    keys = commands.add_parser("keys", help="the keys that encrypt what a tier keeps")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    made = actions.add_parser("new", help="make a key file")
    made.add_argument("file", type=Path, metavar="NEW_FILE")
    rotated = actions.add_parser("rotate", help="put a new key before those of a file")
    rotated.add_argument("file", type=Path, metavar="FILE")
    sealed = actions.add_parser("seal-model", help="write a tier's model encrypted with its current key")
    sealed.add_argument("config", type=Path, metavar="CONFIG", help="the tier's YAML")
    sealed.add_argument("out", type=Path, metavar="NEW_FILE")

    forget = commands.add_parser("forget", help="remove what a tier keeps of a device")
    forget.add_argument("device", metavar="DEVICE", help="its name, as in `device:` and `escalade.device`")
    where = forget.add_mutually_exclusive_group(required=True)
    where.add_argument("--at", metavar="HOST:PORT", help="a tier that runs; as an operator, where it speaks TLS")
    where.add_argument("--config", type=Path, metavar="FILE", help="the YAML of a tier that is stopped")
    add_tls(forget)

    demo = commands.add_parser(
        "demo", help="the cascade: seven tiers, three strategies; or multi-view: four nodes, one breaks"
    )
    demo.add_argument(
        "name", nargs="?", choices=("cascade", "multi-view"), default="cascade", help="default: %(default)s"
    )
    demo.add_argument("--out", type=Path, metavar="DIR", help="default: runs/demo or runs/multi-view")
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    try:
        code = _run(parser().parse_args(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough; nothing may be flushed to it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("escalade: interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    # gRPC's core writes its own lines beside the logs; what matters in them arrives as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The older poller answers 6 to 15 % more calls in Python (ADR 0006). Read when grpc is imported.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
    # Imported here, each by who needs it: `escalade --help` on a board must not wait for onnxruntime.
    from escalade.tiers.errors import NotYetError, SetupError

    try:
        if arguments.command == "serve":
            from escalade.cli.serve import serve

            return serve(arguments.tier.replace("-", "_"), arguments.config)
        if arguments.command == "config":
            from escalade.cli.config import check, show

            if arguments.action == "check":
                return check(arguments.file, model=not arguments.no_model)
            return show(arguments.file)
        if arguments.command in ("policy", "record"):
            from escalade.cli.policy.command import run_policy, run_record

            return run_policy(arguments) if arguments.command == "policy" else run_record(arguments)
        if arguments.command == "simulate":
            from escalade.cli.simulate.command import run_simulate

            return run_simulate(arguments)
        if arguments.command == "profile":
            return profile(arguments)
        if arguments.command == "status":
            from escalade.cli.status import show_status, shown

            return show_status(
                arguments.address,
                watch=arguments.watch,
                every_s=arguments.every,
                as_json=arguments.json,
                tls=shown(arguments.tls, arguments.deny),
            )
        if arguments.command in ("pki", "enroll", "audit"):
            from escalade.cli.pki import command

            run = {"pki": command.run_pki, "enroll": command.run_enroll, "audit": command.run_audit}
            return run[arguments.command](arguments)
        if arguments.command == "fusion":
            from escalade.cli.fusion import evaluate_file, fit_file

            if arguments.action == "fit":
                return fit_file(arguments.data, arguments.rule, arguments.out)
            return evaluate_file(arguments.data, arguments.out)
        if arguments.command == "outbox":
            from escalade.cli import outbox

            if arguments.action == "list":
                return outbox.list_items(arguments.file, arguments.limit)
            if arguments.action == "export":
                return outbox.export(arguments.file, arguments.out, quarantined=arguments.quarantined)
            if arguments.action == "drain":
                return outbox.drain(arguments.config, arguments.seconds)
            return outbox.drop_quarantine(arguments.file)
        if arguments.command == "inbox":
            from escalade.cli import inbox

            if arguments.action == "list":
                return inbox.list_reports(arguments.file, arguments.limit)
            if arguments.action == "export":
                return inbox.export(arguments.file, arguments.out, arguments.after)
            return inbox.drop_quarantine(arguments.file)
        if arguments.command == "egress":
            from escalade.cli import egress

            return egress.show(arguments.config, as_json=arguments.json)
        if arguments.command == "keys":
            from escalade.cli import keys

            if arguments.action == "seal-model":
                return keys.seal_model(arguments.config, arguments.out)
            return (keys.new if arguments.action == "new" else keys.rotate)(arguments.file)
        if arguments.command == "forget":
            from escalade.cli import forget
            from escalade.cli.status import shown

            if arguments.at:
                return forget.forget_at(arguments.at, arguments.device, shown(arguments.tls, arguments.deny))
            return forget.forget(arguments.device, arguments.config)
        if arguments.name == "multi-view":
            from escalade.cli.demo.multi_view.command import run_multi_view

            return run_multi_view(arguments.out or Path("runs/multi-view"))
        from escalade.cli.demo.command import run_demo

        return run_demo(arguments.out or Path("runs/demo"))
    except SetupError as error:
        print(f"escalade: {' '.join(str(error).split())}", file=sys.stderr)
        return TRY_LATER if isinstance(error, NotYetError) else 2


if __name__ == "__main__":
    sys.exit(main())
