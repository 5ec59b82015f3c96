"""The progress bar of a stream: how far, and which tiers answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from escalade.cli.demo.train import TIERS

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console


def shares(answered: Counter[str]) -> str:
    """Return the share of each tier so far: `endpoint 61 %, edge node 28 %, edge server 11 %`."""
    total = max(answered.total(), 1)
    return ", ".join(f"{tier.replace('_', ' ')} {100 * answered[tier] / total:.0f} %" for tier in TIERS)


class StreamProgress:
    """A bar on a terminal; elsewhere one plain line at the end.

    Parameters
    ----------
    console:
        Where to draw.
    strategy:
        What is streamed, for the bar's label.
    total:
        Number of inputs.
    """

    def __init__(self, console: Console, strategy: str, total: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._answered: Counter[str] = Counter()
        self._console, self._label, self._total = console, strategy.replace("_", " "), total
        self._bar = Progress(
            TextColumn("{task.description:18}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[shares]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(self._label, total=total, shares="")

    def answered(self, tier: str) -> None:
        """Count one answer."""
        self._answered[tier] += 1
        self._bar.update(self._task, advance=1, shares=shares(self._answered))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is None and not self._console.is_terminal:
            line = f"{self._label:18} {self._answered.total()}/{self._total}  {shares(self._answered)}"
            self._console.print(line, highlight=False, soft_wrap=True)
