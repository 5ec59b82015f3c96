"""A headless Chromium, spoken to over its DevTools pipe: messages are JSON with a zero byte after each."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

NAMES = ("chromium", "chromium-browser", "google-chrome")

# The browser reads commands from descriptor 3 and writes to 4.
LAUNCH = """
import fcntl, os, sys
get, put = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(get, 3)
os.dup2(put, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str | None:
    """Return the browser's file: CHROMIUM of the environment, or one on the PATH."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page. Context manager; `events` holds every event that came, as the protocol names them."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._options = [
            binary, "--headless=new", "--remote-debugging-pipe", "--no-sandbox",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
            "--force-color-profile=srgb", f"--user-data-dir={folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self._number, self._session, self._left = 0, "", b""

    def __enter__(self) -> Self:
        their_in, self._put = os.pipe()
        self._get, their_out = os.pipe()
        launch = [sys.executable, "-c", LAUNCH, str(their_in), str(their_out), *self._options]
        self._process = subprocess.Popen(
            launch, pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(their_in)
        os.close(their_out)
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._put)
        os.close(self._get)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; RuntimeError when the browser refuses it or ends."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._put, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(self, file: Path, *, width: int = 1120, dark: bool = False) -> None:
        """Show a file and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def value(self, expression: str) -> Any:
        """Return what JavaScript gives."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._get, 1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._left += more
        one, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        if "method" in message:
            self.events.append(message)
        return message
