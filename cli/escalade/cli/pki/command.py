"""`escalade pki`, `escalade enroll` and `escalade audit`, run."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from escalade.tiers import audit
from escalade.tiers.errors import SetupError
from escalade.tiers.identity import NAME, Identity
from escalade.tiers.pki.files import OWNER_ONLY, read, write_new

if TYPE_CHECKING:
    import argparse

    from escalade.tiers.pki.authority import Authority
    from escalade.tiers.pki.certificates import Facts

SOON_DAYS = 30


def run_pki(arguments: argparse.Namespace) -> int:
    """Run one action of `escalade pki`; return 0."""
    from escalade.tiers.pki.authority import Authority

    folder: Path = arguments.folder
    if arguments.action == "init":
        authority = Authority.init(folder, arguments.name, days=arguments.days)
        print(f"{folder / 'ca.crt'}: a CA until {authority.ca_facts.not_after:%Y-%m-%d}; it may be shown to everybody")
        print(f"{folder / 'ca.key'}: its key; whoever has it is anybody. Keep it off the tiers, and a copy elsewhere")
        return 0
    if arguments.action == "inspect" and arguments.files:
        return _inspect(arguments.files)
    authority = Authority(folder)
    if arguments.action == "issue":
        request = read(arguments.csr) if arguments.csr else None
        issued = authority.issue(_identity(arguments), hosts=arguments.host, days=arguments.days, request=request)
        print(f"{issued.certificate}: {_said(issued.facts)}")
        if issued.key:
            print(f"{issued.key}: its key, mode 600")
        _warn_of_others(authority, arguments.name, arguments.host)
    elif arguments.action == "renew":
        _renew(authority, arguments)
    elif arguments.action == "revoke":
        _revoke(authority, arguments)
    elif arguments.action == "inspect":
        return _list(authority)
    elif arguments.action == "token":
        _print_token(authority, arguments)
    else:
        asyncio.run(_serve(authority, arguments.listen, arguments.host))
    return 0


def run_enroll(arguments: argparse.Namespace) -> int:
    """Enrol this device; return 0."""
    from escalade.tiers.pki.enrolment import enrol
    from escalade.tiers.pki.tokens import token_from_text
    from escalade.tiers.wire.enrolment import call_enrolment

    file = arguments.token
    token = token_from_text(sys.stdin.read() if file == "-" else read(Path(file)).decode(errors="replace"))
    enrolled = enrol(token, arguments.folder, lambda request: call_enrolment(token, request))
    print(f"enrolled: {_said(enrolled.facts)}")
    print(f"tls: {{certificate: {enrolled.certificate}, key: {enrolled.key}, ca: {enrolled.ca}}}")
    return 0


def run_audit(arguments: argparse.Namespace) -> int:
    """Check a log; return 0, or 1 when something is wrong with it."""
    verdict = audit.verify(arguments.file, arguments.head)
    print(f"{arguments.file}: {verdict.entries} good lines, the last is {verdict.head}")
    if verdict.trouble:
        print(f"escalade: {arguments.file}: {verdict.trouble}", file=sys.stderr)
    return 1 if verdict.trouble else 0


def _inspect(files: list[Path]) -> int:
    from escalade.tiers.pki.certificates import facts_of, from_pem

    for file in files:
        try:
            facts = facts_of(from_pem(read(file)))
        except ValueError:
            raise SetupError(f"{file}: holds no certificate in PEM") from None
        print(f"{file}: {_said(facts)}, issued by {facts.issuer}")
    return 0


def _list(authority: Authority) -> int:
    from escalade.tiers.pki.certificates import utc

    denied = authority.denied
    print(f"{authority.folder / 'ca.crt'}: {_said(authority.ca_facts)}")
    for file, facts in authority.certificates():
        print(f"{file}: {_said(facts)}{', REVOKED' if facts.serial in denied else ''}")
    for grant, good_until in authority.tokens.all():
        state = "too old since" if good_until < time.time() else "good until"
        print(f"a token for {grant.identity}, {state} {utc(good_until):%Y-%m-%d %H:%M} UTC")
    print(f"{len(denied)} serial numbers revoked")
    return 0


def _renew(authority: Authority, arguments: argparse.Namespace) -> None:
    from escalade.tiers.pki.authority import ENROLMENT

    names = list(arguments.names)
    if arguments.ending is not None:
        until, denied = time.time() + arguments.ending * 86400, authority.denied
        names += [
            file.stem
            for file, facts in authority.certificates()
            if facts.not_after.timestamp() < until and facts.serial not in denied and facts.identity != ENROLMENT
        ]
    if not names and arguments.ending is None:
        raise SetupError("which? `escalade pki renew NAME...`, or `--ending DAYS` for all that end within so many days")
    for name in dict.fromkeys(names):
        issued = authority.renew(name, days=arguments.days)
        print(f"{issued.certificate}: {_said(issued.facts)}")
    if names:
        print("put it in the place of the old one (`cp` beside it, then `mv`); tiers read it without a restart")
    else:
        print(f"none ends within {arguments.ending:g} days")


def _revoke(authority: Authority, arguments: argparse.Namespace) -> None:
    revoked = authority.revoke(arguments.which, arguments.reason)
    for serial in revoked.serials:
        print(f"{serial:X} is revoked")
    if revoked.token:
        print(f"the token of {arguments.which} is worth nothing any more")
    if not revoked.serials and not revoked.token:
        print(f"{arguments.which} was revoked already")
    if not revoked.token or revoked.serials:
        file = authority.folder / "denied.txt"
        print(f"bring {file} to where the tiers' `tls.deny` points (`cp` beside it, then `mv`); they read it without a")
        print("restart")


def _print_token(authority: Authority, arguments: argparse.Namespace) -> None:
    from escalade.tiers.config_types import host_port
    from escalade.tiers.pki.tokens import Grant

    identity, out = _identity(arguments), arguments.out
    try:
        host_port(arguments.address)
    except ValueError as error:
        raise SetupError(str(error)) from error
    if out and out.exists():
        raise SetupError(f"{out} exists and is not overwritten; name another, or move it away")
    grant = Grant(identity, tuple(arguments.host), arguments.days)
    token = authority.make_token(grant, arguments.address, arguments.hours)
    if out:
        write_new(out, f"{token.to_text()}\n".encode(), OWNER_ONLY)
    else:
        print(token.to_text())
    text = f"for {identity}, once, within {arguments.hours:g} hours, at {arguments.address}"
    print(f"{out}: a token {text}" if out else text, file=sys.stderr)
    _warn_of_others(authority, identity.name, arguments.host)


def _warn_of_others(authority: Authority, name: str, hosts: list[str]) -> None:
    """Say who else may serve under a name's hosts: that is meant, or a slip."""
    for file, facts in authority.certificates() if hosts else ():
        if file.stem != name and (shared := set(facts.hosts) & set(hosts)):
            print(f"escalade: {file.stem} is at {', '.join(sorted(shared))} too", file=sys.stderr)


async def _serve(authority: Authority, address: str, hosts: list[str]) -> None:
    from escalade.tiers.config import LogConfig
    from escalade.tiers.logs import configure_logs
    from escalade.tiers.pki import certificates as x
    from escalade.tiers.pki.enrolment import Enroller
    from escalade.tiers.wire.enrolment import serve_enrolment

    configure_logs(LogConfig())
    key = x.new_key()  # never leaves this process
    request = x.make_request("enrolment", key)
    certificate = authority.issue_enrolment(request, hosts, days=365)
    server, bound = await serve_enrolment(Enroller(authority), address, certificate, x.key_to_pem(key))
    print(f"enrolment at {bound}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(1.0)


def _identity(arguments: argparse.Namespace) -> Identity:
    if not NAME.fullmatch(arguments.name):
        raise SetupError(f"{arguments.name!r} is no name; use letters, digits, dots, dashes and underscores")
    return Identity(arguments.role, arguments.name)


def _said(facts: Facts) -> str:
    who = "a CA" if facts.is_ca else str(facts.identity or "no identity of ours")
    hosts = f" at {', '.join(facts.hosts)}" if facts.hosts else ""
    left = (facts.not_after.timestamp() - time.time()) / 86400
    state = "EXPIRED " if left < 0 else "soon, " if left < SOON_DAYS else ""
    if facts.not_before.timestamp() > time.time():
        state = f"NOT BEFORE {facts.not_before:%Y-%m-%d %H:%M} UTC, {state}"
    return f"{who}{hosts}, until {state}{facts.not_after:%Y-%m-%d}, serial {facts.serial_hex}"
