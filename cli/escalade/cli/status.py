"""`escalade status`: how a running tier fares, once or live."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from math import isnan
from typing import TYPE_CHECKING

from escalade.cli.times import readable_time
from escalade.tiers.client import Client
from escalade.tiers.errors import EscaladeError, SetupError
from escalade.tiers.tls_config import TlsConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from escalade.tiers.status import Status

CLEAR = "\033[H\033[2J"


def show_status(address: str, *, watch: bool, every_s: float, as_json: bool, tls: TlsConfig | None = None) -> int:
    """Print a tier's status; with `watch` again and again until interrupted. Return 0, or 1 when it cannot be had."""
    return asyncio.run(_show(address, tls, watch=watch, every_s=every_s, as_json=as_json))


def shown(tls: Sequence[Path] | None, deny: Path | None) -> TlsConfig | None:
    """Return what `--tls CERTIFICATE KEY CA` and `--deny FILE` come to; None: plaintext."""
    if deny and not tls:
        raise SetupError("--deny is for a tier that speaks TLS; add --tls CERTIFICATE KEY CA")
    return TlsConfig(certificate=tls[0], key=tls[1], ca=tls[2], deny=deny) if tls else None


async def _show(address: str, tls: TlsConfig | None, *, watch: bool, every_s: float, as_json: bool) -> int:
    async with Client(address, tls=tls) as client:
        while True:
            try:
                status, trouble = await client.status(timeout_s=3.0), ""
            except EscaladeError as error:
                status, trouble = None, f"{address}: {error}"
            if watch and sys.stdout.isatty():
                print(CLEAR, end="")
            if status is None:
                screen = sys.stdout if watch and not as_json else sys.stderr
                print(f"escalade: {' '.join(trouble.split())}", file=screen)
            elif as_json:
                print(json.dumps(status.as_json()))
            else:
                print("\n".join(lines(status, address)))
            sys.stdout.flush()
            if not watch:
                return 0 if status else 1
            await asyncio.sleep(every_s)


def lines(status: Status, address: str) -> Iterator[str]:
    """Yield a status as a person reads it."""
    state = "draining" if status.draining else "serving"
    up = readable_time(status.up_s)
    yield f"{status.tier} {status.device} at {address}: {state} for {up}, escalade {status.version}"
    yield f"model {status.model} {status.model_sha256[:12]}"
    yield f"queue {status.queue} of {status.max_queue}, load {status.load:.2f}"
    yield f"requests  {_counts(status.requests)}"
    yield f"actions   {_counts(status.actions)}"
    yield f"degraded  {_counts(status.degraded)}"
    yield f"shed      {_counts(status.shed)}"
    if status.links:
        yield ""
        yield f"{'link':28} {'state':8} {'for':>8}  {'breaker':9} {'for':>8} {'ms':>8} {'load':>5}  last failure"
    for link in status.links:
        latency = "-" if isnan(link.latency_ms) else f"{link.latency_ms:.1f}"
        state = f"{link.state:8} {readable_time(link.state_s):>8}"
        breaker = f"{link.breaker:9} {readable_time(link.breaker_s):>8}"
        failure = f"{link.last_failure}, {readable_time(link.last_failure_s)} ago" if link.last_failure else "-"
        yield f"{link.address:28} {state}  {breaker} {latency:>8} {link.load:>5.2f}  {failure}"
    if outbox := status.outbox:
        yield ""
        yield f"outbox {outbox.file}"
        total = sum(outbox.depth.values())
        waits = f"{total} items ({_counts(outbox.depth)}), {outbox.bytes} bytes"
        yield f"  waits     {waits}, oldest {readable_time(outbox.oldest_s)}, {outbox.in_flight} in flight"
        yield f"  given up  {_counts(outbox.evictions)}; {outbox.refused} refused, {outbox.quarantined} quarantined"
        yield f"  corrected {outbox.last_correction} in all, {outbox.corrections} kept for subscribers"
        if outbox.trouble:
            yield f"  trouble   {outbox.trouble}"
    if inbox := status.inbox:
        yield ""
        yield f"inbox {inbox.file}: {inbox.items} remembered, {inbox.repeats} came again"
        if inbox.trouble:
            yield f"  trouble   {inbox.trouble}"
    yield f"at {time.strftime('%H:%M:%S')}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"
