"""The grammar of `escalade pki`, `escalade enroll` and `escalade audit`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

ROLES = ("endpoint", "edge-node", "edge-server", "operator", "viewer")
HOST_HELP = "a name or an IP address by which others reach it; once for each. Without any it only asks"


def add_pki(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    pki = commands.add_parser("pki", help="a small certificate authority: who belongs to the fleet")
    actions = pki.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text)
        added.add_argument(
            "--folder", type=Path, default=Path("pki"), metavar="DIR", help="the CA; default: %(default)s"
        )
        return added

    init = action("init", "make a CA in a folder that holds none")
    init.add_argument("--name", default="Escalade CA", help="default: %(default)s")
    init.add_argument("--days", type=_days, default=3650.0, metavar="N", help="how long it is valid; default: 10 years")

    issue = action("issue", "make a certificate, and a key for it")
    _add_identity(issue)
    issue.add_argument("--csr", type=Path, metavar="FILE", help="sign this request; the key stays where it was made")

    renew = action("renew", "make a new certificate for the same key, role and hosts")
    renew.add_argument("names", metavar="NAME", nargs="*")
    renew.add_argument("--ending", type=_days, metavar="N", help="all those that end within N days")
    renew.add_argument("--days", type=_days, default=365.0, metavar="N", help="how long it is valid; default: a year")

    revoke = action("revoke", "put all certificates of a name, or a serial number, on the deny-list")
    revoke.add_argument("which", metavar="NAME|SERIAL")
    revoke.add_argument("--reason", default="", metavar="TEXT", help="for the deny-list and the log")

    inspect = action("inspect", "say what certificates say; without a file, all that the CA issued, by their ends")
    inspect.add_argument("files", type=Path, nargs="*", metavar="FILE")

    token = action("token", "make a one-time token with which a device can enrol")
    _add_identity(token)
    token.add_argument("--address", required=True, metavar="HOST:PORT", help="where `escalade pki serve` is reached")
    token.add_argument("--out", type=Path, metavar="NEW_FILE", help="made with mode 600; default: standard output")
    token.add_argument("--hours", type=_days, default=24.0, metavar="N", help="how long it is good; default: a day")

    serve = action("serve", "give certificates to devices that hold a token, until Ctrl-C")
    serve.add_argument("--listen", default="0.0.0.0:8441", metavar="HOST:PORT", help="default: %(default)s")
    serve.add_argument("--host", action="append", required=True, metavar="HOST", help="as tokens name this machine")

    enroll = commands.add_parser("enroll", help="give this device its key and its certificate, with a one-time token")
    enroll.add_argument(
        "--token", required=True, metavar="FILE", help="what `escalade pki token` wrote; -: standard input"
    )
    enroll.add_argument("--folder", type=Path, default=Path("tls"), metavar="DIR", help="default: %(default)s")

    audit = commands.add_parser("audit", help="the log of who was let in and what was changed")
    actions = audit.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="check that no line was changed, removed or put in; exit 1 if one was")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument("--head", metavar="HASH", help="a hash that an earlier check printed: it must still be there")


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add what a client needs to show and to believe."""
    text = "the tier speaks TLS: show these, as an operator or a viewer"
    parser.add_argument("--tls", type=Path, nargs=3, metavar=("CERTIFICATE", "KEY", "CA"), help=text)
    parser.add_argument("--deny", type=Path, metavar="FILE", help="ask no tier whose certificate is on this deny-list")


def _add_identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--host", action="append", default=[], metavar="HOST", help=HOST_HELP)
    parser.add_argument("--days", type=_days, default=365.0, metavar="N", help="how long it is valid; default: a year")


def _days(text: str) -> float:
    value = float(text)
    if not 0 < value < 100_000:
        raise ValueError(text)
    return value
