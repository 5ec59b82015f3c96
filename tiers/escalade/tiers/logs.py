"""Logging: structlog on standard error, for people on a terminal and as JSON otherwise."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from escalade.tiers.config import LogConfig


def configure_logs(config: LogConfig) -> None:
    """Set up the process's logs; called once, by the command line."""
    for_people = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    render = [structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([] if for_people else [structlog.processors.format_exc_info]),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(config.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
