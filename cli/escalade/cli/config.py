"""`escalade config`: check a tier's YAML, or show what it comes to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from escalade.cli.serve import SERVICES
from escalade.tiers.at_rest import in_the_clear
from escalade.tiers.config import LogConfig
from escalade.tiers.config_file import load_config, locate_errors, show_config
from escalade.tiers.logs import configure_logs
from escalade.tiers.tier import inline_rows
from escalade.tiers.tls_files import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.config import TierConfig
    from escalade.tiers.tls_config import TlsConfig


def check(file: Path, *, model: bool) -> int:
    """Load everything that the file names, open nothing of it, and print one line about it; return 0.

    Raises
    ------
    SetupError
        For the first mistake.
    """
    config = load_config(file)
    above = f"escalates to {_ways(config)}" if config.upstream else "answers everything itself"
    about = f"model {config.model.served_name!r} (not loaded)"
    if model:
        configure_logs(LogConfig(level="warning"))
        with locate_errors(file):
            about = _checked(config)
    print(f"{file}: ok: {config.tier}, {about}, policy {config.policy.get('name')}, {above}")
    if config.tls and model:
        print(shown_as(config.tls))
    for line in [*may_leave(config), *in_the_clear(config)]:
        print(line)
    return 0


def shown_as(tls: TlsConfig) -> str:
    """Return who a tier is by its certificate, where it may serve, and until when."""
    files = TlsFiles(tls, time.time)
    facts = files.credentials.facts
    who = files.identity or "known by the identities of those it asks"
    where = f"at {', '.join(facts.hosts)}" if facts.hosts else "names no host: it can ask, and not serve others"
    return f"tls: {who}, {where}, until {time.strftime('%Y-%m-%d', time.gmtime(facts.not_after))}"


def show(file: Path) -> int:
    """Print the effective values as YAML; return 0."""
    print(show_config(load_config(file)), end="")
    return 0


def may_leave(config: TierConfig) -> list[str]:
    """Return a line for each link, and for the aggregator's: what its `egress` lets go up."""
    lines = []
    for place, link in enumerate(config.links):
        unsaid = "" if "egress" in link.model_fields_set else " (the default: no `egress` is written)"
        masked = "" if config.model.input.data in link.egress else f"; no inputs: they are {config.model.input.data}"
        reports = "" if place == 0 or not config.outbox else "; no reports: those take the first link"
        lines.append(f"may leave to {link.address}: {', '.join(link.egress) or 'nothing'}{unsaid}{masked}{reports}")
    if config.aggregate:
        sent = " and ".join(dict.fromkeys(("posterior", config.aggregate.send)))
        allowed = ", ".join(config.aggregate.egress)
        lines.append(f"may leave to {config.aggregate.address}: {allowed}; reports to the aggregator send {sent}")
    return lines


def _ways(config: TierConfig) -> str:
    """Return the addresses upward, in order: `gateway:8001, else modem:8001 (critical)`."""
    others = [f"{link.address} ({link.only})" if link.only else link.address for link in config.fallbacks]
    return ", else ".join([config.links[0].address, *others])


def _checked(config: TierConfig) -> str:
    model = SERVICES[config.tier](config).check()
    where = "on the event loop" if inline_rows(config.batching, model) else "on worker threads"
    return (
        f"model {model.name!r} ({model.run_us:.0f} us a row, {where}, {', '.join(model.providers)}, "
        f"sha256 {model.sha256[:12]})"
    )
