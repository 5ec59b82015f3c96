"""The disk under the endpoint's outbox, and how it fails.

A file system of its own (ext4 in a file, mounted by root) can stop as in a power cut; without it the outbox lies in a
plain folder, and that fault is left out with the reason. `strace` makes writes and syncs fail anywhere. It is needed
for a full disk too: SQLite's files keep their largest size, and what fits into them needs no space.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

SIZE_BYTES = 64 << 20
TOOL_SECONDS = 10.0
_SHUTDOWN = 0x8004587D
"""`EXT4_IOC_SHUTDOWN`: the file system stops, as if the power were gone."""
_WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)


class OutboxDisk:
    """A folder for the outbox, on a file system of its own where that is possible.

    Attributes
    ----------
    folder:
        Where the outbox belongs.
    missing:
        Kinds of fault that are not possible here, and why.
    """

    def __init__(self, base: Path) -> None:
        self.folder = base / "disk"
        self.missing: dict[str, str] = {}
        self._image, self._filler = base / "disk.ext4", self.folder / "filler"
        self._mounted = False
        self._strace: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        if why := self._mount_new():
            self.missing["power_cut"] = why
        if _tool("strace") is None:
            self.missing |= dict.fromkeys(("disk_full", "disk_eio"), "strace is not installed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sound()
        if self._mounted:
            self._umount()
        self._image.unlink(missing_ok=True)

    def fill(self, pid: int) -> None:
        """Leave no space on it, and none within the files that a process has made large before."""
        if self._mounted:
            with self._filler.open("wb", buffering=0) as file:
                for size in (1 << 20, 4096):
                    try:
                        while True:
                            file.write(bytes(size))
                    except OSError:  # it is full
                        continue
        self._fail(pid, "pwrite64", "ENOSPC")

    def free(self) -> None:
        """Give the space back."""
        self.sound()
        self._filler.unlink(missing_ok=True)

    def stop(self) -> None:
        """Cut the power: what was not synced is gone, and nothing more is written."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(handle)

    def restart(self) -> None:
        """Give the power back; nobody may have a file open on it."""
        self._umount()
        self._mount()

    def fail_syncs(self, pid: int) -> None:
        """Let every sync of a process fail."""
        self._fail(pid, "fsync,fdatasync", "EIO")

    def sound(self) -> None:
        """Let system calls work."""
        if self._strace is not None:
            self._strace.send_signal(signal.SIGINT)
            self._strace.communicate()
            self._strace = None

    def _fail(self, pid: int, calls: str, error: str) -> None:
        """Let system calls of a process fail; returns when they do."""
        command = [_tool("strace") or "strace", "-f", "-p", str(pid), "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:error={error}", "-o", os.devnull]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr
        line = self._strace.stderr.readline()
        if "attached" not in line:
            self.sound()
            raise RuntimeError(f"strace: {line.strip()}")

    def _mount_new(self) -> str:
        """Make the file system and mount it; return why that is not possible."""
        mkfs = _tool("mkfs.ext4")
        if os.geteuid() != 0 or mkfs is None:
            return "needs root and mkfs.ext4"
        with self._image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        made = subprocess.run([mkfs, "-q", "-F", self._image], capture_output=True, text=True, check=False)
        if made.returncode:
            return made.stderr.strip() or "mkfs.ext4 failed"
        try:
            self._mount()
        except subprocess.CalledProcessError as error:
            return f"may not mount a file: {error.stderr.decode().strip()}"
        return ""

    def _mount(self) -> None:
        command = [_tool("mount") or "mount", "-o", "loop", str(self._image), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=TOOL_SECONDS)
        self._mounted = True

    def _umount(self) -> None:
        """Unmount; a process that was just killed may hold it for a moment."""
        stop = time.monotonic() + TOOL_SECONDS
        while True:
            command = [_tool("umount") or "umount", str(self.folder)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TOOL_SECONDS)
            if not done.returncode:
                break
            if time.monotonic() > stop:
                raise RuntimeError(f"cannot unmount {self.folder}: {done.stderr.strip()}")
            time.sleep(0.05)
        self._mounted = False


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
