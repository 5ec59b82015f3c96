"""A running tier forgets a device: what it keeps of it is deleted, place by place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from escalade.tiers.audited import note_forgotten
from escalade.tiers.config_types import is_loopback
from escalade.tiers.errors import ForbiddenError, UnavailableError
from escalade.tiers.identity import SPEAKER
from escalade.tiers.outbox import OutboxError
from escalade.tiers.reports import LANE

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.attached import Attached
    from escalade.tiers.config import TierConfig
    from escalade.tiers.deliveries import Window
    from escalade.tiers.egress_ledger import EgressLedger
    from escalade.tiers.forwarding import Forwarding
    from escalade.tiers.record import Recorder


class Forgetting:
    """The places where one tier keeps something of devices, `window` what was delivered; None where there is none.

    Not reached: what was sent upward, what a policy or an aggregator has learnt, answers that a device had a part in.
    """

    def __init__(
        self,
        config: TierConfig,
        *,
        forwarding: Forwarding | None,
        window: Window,
        attached: Attached,
        ledger: EgressLedger,
        recorder: Recorder | None,
    ) -> None:
        self._config, self._forwarding, self._window = config, forwarding, window
        self._attached, self._ledger, self._recorder = attached, ledger, recorder
        self._under_way: set[asyncio.Task[list[str]]] = set()

    async def forget(self, device: str) -> list[str]:
        """Delete what is kept of a device; return a line for each place. It is finished though nobody waits for it.

        Raises
        ------
        ForbiddenError
            The port is plaintext and beyond the loopback: nobody knows who asks.
        UnavailableError
            Not everything could be deleted; the message says what.
        """
        speaker, listen = SPEAKER.get(), self._config.listen
        if speaker is None and not is_loopback(listen.address):
            raise ForbiddenError("a plaintext port does not know who asks; forget on the machine itself, or serve TLS")
        by = str(speaker.identity) if speaker else "somebody on this machine"
        task = asyncio.create_task(self._everywhere(device, by))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _everywhere(self, device: str, by: str) -> list[str]:
        done, trouble = list[str](), list[str]()
        for place in (self._waiting, self._received, self._attached.forget, self._counted, self._recorded):
            try:
                done += await place(device)
            except (OutboxError, OSError) as error:
                trouble.append(str(error))
        if self._config.audit:
            await asyncio.to_thread(note_forgotten, self._config.audit, device, by=by, trouble="; ".join(trouble))
        if trouble:
            raise UnavailableError(f"not everything could be deleted: {'; '.join(trouble)}; ask again")
        return done

    async def _waiting(self, device: str) -> list[str]:
        return await self._forwarding.forget(device) if self._forwarding else []

    async def _received(self, device: str) -> list[str]:
        gone = await self._window.forget({device, device + LANE})
        return [f"inbox {self._config.inbox.file}: {gone}"] if self._config.inbox else []

    async def _counted(self, device: str) -> list[str]:
        lines = self._ledger.forget(device)
        if self._config.egress_ledger is None:  # counted in memory alone
            return []
        await asyncio.to_thread(self._ledger.write)
        return [told_of_ledger(self._config.egress_ledger.file, lines)]

    async def _recorded(self, device: str) -> list[str]:
        if self._recorder is None or self._config.record is None:
            return []
        if device != self._config.device:
            return [told_of_others_recording(self._config.record.folder)]
        return [told_of_recording(self._config.record.folder, await asyncio.to_thread(self._recorder.forget))]


def told_of_ledger(file: Path, lines: int) -> str:
    """Return what to say of a ledger in which so many lines named the device."""
    return f"egress ledger {file}: {lines} lines no longer name it; their sums stay"


def told_of_recording(folder: Path, chunks: int) -> str:
    """Return what to say of a recording that was deleted."""
    return f"recording {folder}: {chunks} chunks deleted"


def told_of_others_recording(folder: Path) -> str:
    """Return what to say of a recording that is not the device's own."""
    return f"recording {folder}: left, for it names no devices; it holds scores and posteriors of all of them"
