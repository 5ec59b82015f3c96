from __future__ import annotations

import structlog

# Into the standard library's logging, where pytest captures it; the command's own set-up is tested in processes.
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
    logger_factory=structlog.stdlib.LoggerFactory(),
)
