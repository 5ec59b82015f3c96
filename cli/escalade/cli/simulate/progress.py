"""How far a run is: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from escalade.simulations.fleet.protocol import Progress

STARTING = "starting; the first run ever compiles, for about half a minute"
LINE_S = 5.0
"""Wall time between plain lines."""


class RunProgress:
    """Shows simulated time, requests a second and who answers, on standard error. Called with `Progress`.

    Parameters
    ----------
    label
        What is run.
    """

    def __init__(self, label: str) -> None:
        self._label, self._printed_s = label, 0.0
        self._bar, self._task = _bar(label)

    def __call__(self, now: Progress) -> None:
        """Show it."""
        if self._bar is not None:
            self._bar.update(self._task, total=now.duration_s, completed=now.time_s, facts=facts(now))
        elif now.wall_s - self._printed_s >= LINE_S:
            self._printed_s = now.wall_s
            print(f"{self._label}: {facts(now)}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def facts(now: Progress) -> str:
    """Return one line: ``120 of 600 s, 4.81 M requests, 3.2 M/s, endpoint 61 %, edge node 28 %, edge server 11 %``."""
    rate = now.requests / now.wall_s if now.wall_s > 0 else 0.0
    total = max(sum(now.answered), 1)
    names = ("endpoint", "edge node", "edge server")
    shares = ", ".join(f"{name} {100 * one / total:.0f} %" for name, one in zip(names, now.answered, strict=True))
    return f"{now.time_s:.4g} of {now.duration_s:.4g} s, {short(now.requests)} requests, {short(rate)}/s, {shares}"


def short(value: float) -> str:
    """Return a number with three digits: ``812``, ``4.81 M``."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= limit:
            return f"{value / (limit if unit != ' k' else 1e3):.3g}{unit}"
    return f"{value:,.0f}"


def _bar(label: str) -> tuple[Any, Any]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        return None, None
    console = Console(stderr=True)
    if not console.is_terminal:
        return None, None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[facts]}"),
        console=console,
        transient=True,
    )
    return bar, bar.add_task(label, total=None, facts=STARTING)
