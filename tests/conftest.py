from __future__ import annotations

import os
import signal
import sys

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

# Into the standard library's logging, where pytest captures it; the command's own set-up is tested in processes.
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
    logger_factory=structlog.stdlib.LoggerFactory(),
)
