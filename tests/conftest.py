from __future__ import annotations

import os
import signal
import sys

import pytest
import structlog
from hypothesis import settings

# Before numpy is imported: small products are not worth a second thread, which on a busy machine makes them wait. Also
# for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that tests start take a third longer to begin where each compiles our sources for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a shell starts in the background ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine: a failure is then a change of the code.
settings.register_profile("escalade", deadline=None, derandomize=True)
settings.load_profile("escalade")


def capture_logs() -> None:
    """Send logs into the standard library's, where pytest captures them."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


capture_logs()


@pytest.fixture(autouse=True)
def _logs_are_captured() -> None:
    """Undo what a command has set up that a test before this one ran in this process."""
    capture_logs()
