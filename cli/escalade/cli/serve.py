"""`escalade serve`: run one tier until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import structlog

from escalade.tiers import EdgeNode, EdgeServer, Endpoint
from escalade.tiers.batcher import THREAD_NAME
from escalade.tiers.config_file import load_config, locate_errors
from escalade.tiers.logs import configure_logs
from escalade.tiers.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from escalade.tiers.service import Service

log = structlog.get_logger(__name__)

SERVICES: dict[str, type[Service]] = {service.tier_name: service for service in (Endpoint, EdgeNode, EdgeServer)}


def serve(tier: str, file: Path) -> int:
    """Serve until SIGTERM or SIGINT, then drain; return 0.

    Raises
    ------
    SetupError
        Before anything serves, when the configuration or what it names does not work.
    """
    config = load_config(file)
    configure_logs(config.log)
    with locate_errors(file):
        service = SERVICES[tier](config)
        _run(_serve(service))
    if any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate()):
        log.warning("a run of the model did not end in time and is left")
        sys.stderr.flush()
        os._exit(0)  # the interpreter would wait for that thread for as long as it runs
    return 0


async def _serve(service: Service) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watchdog, limit_s = None, service.config.limits.hang_seconds
    try:
        async with service:
            await service.listen()
            if limit_s:
                facts = {"tier": service.tier_name, "model": service.tier.model.name}
                watchdog = Watchdog(loop, limit_s, facts=facts)
            await stop.wait()
    finally:
        if watchdog:
            watchdog.stop()


def _run(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop where it exists: under grpc.aio it answers 1.2 to 3 times as many calls."""
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)
