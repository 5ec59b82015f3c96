"""What a run found as files, one of them an HTML page that opens offline."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

from escalade.tiers.testing.chaos.report import HEAD, as_dict, cells, fault_rows, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from escalade.tiers.testing.chaos.run import Outcome

WIDTH, HEIGHT, MARGIN = 1000, 260, 50
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Chaos run</title>
<style>
:root {{ color-scheme: light dark; --ground: #fff; --ink: #1d2329; --soft: #5b6670; --rule: #dde2e6;
  --well: #0369a1; --degraded: #c2410c; --band: #f0b35f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #14181c; --ink: #e6eaed; --soft: #9aa6b0; --rule: #2d353c;
  --well: #38bdf8; --degraded: #fb923c; --band: #854d0e; }} }}
body {{ margin: 0 auto; max-width: 1080px; padding: 24px 20px 48px; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 32px; }}
.scroll {{ overflow-x: auto; }} svg {{ width: 100%; height: auto; display: block; }}
svg text {{ fill: var(--soft); font: 12px system-ui, sans-serif; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }}
th {{ color: var(--soft); font-weight: 500; }}
.well {{ stroke: var(--well); }} .degraded {{ stroke: var(--degraded); }}
.dots {{ stroke-width: 3; stroke-linecap: round; }}
.band {{ fill: var(--band); opacity: .3; }} .limit {{ stroke: var(--ink); stroke-dasharray: 5 4; }}
</style>
</head>
<body>
<h1>Chaos run</h1>
{summary}
<h2>Time to answer, milliseconds</h2>
<p>Every answer is a dot: <span style="color:var(--well)">as asked</span>, or
<span style="color:var(--degraded)">degraded</span>. Shaded: a fault. Dashed: the bound.</p>
{picture}
<h2>Faults</h2>
<div class="scroll">{faults}</div>
<h2>Violations</h2>
{violations}
</body>
</html>
"""


def write(outcome: Outcome, folder: Path) -> None:
    """Write `chaos.json`, `chaos.html` and `history.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps(as_dict(outcome), indent=1) + "\n")
    (folder / "chaos.html").write_text(page(outcome))
    outcome.history.write(folder / "history.jsonl")


def page(outcome: Outcome) -> str:
    """Return the page."""
    rows = [(one.kind, one.text, " ".join(one.requests)) for one in outcome.violations]
    skipped = [f"left out: {kind}: {why}" for kind, why in outcome.skipped.items()]
    return PAGE.format(
        summary="".join(f"<p>{html.escape(line)}</p>" for line in [*summary(outcome), *skipped]),
        picture=_picture(outcome),
        faults=_table(HEAD, (cells(row) for row in fault_rows(outcome))),
        violations=_table(("kind", "what", "requests"), rows) if rows else "<p>None.</p>",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cell: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in texts) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _picture(outcome: Outcome) -> str:
    history, bound_s = outcome.history, outcome.rules.bound_s
    sent = {request.id: request.sent_s for request in history.requests}
    took = {answer.id: answer.at_s - sent[answer.id] for answer in history.answers}
    end_s, most_s = max(sent.values(), default=1.0), max(1.1 * bound_s, *took.values(), 0.0)

    def x(at_s: float) -> float:
        return MARGIN + (WIDTH - MARGIN) * min(at_s / end_s, 1.0)

    def y(seconds: float) -> float:
        return (HEIGHT - 30) * (1 - seconds / most_s) + 5

    bands = "".join(
        f'<rect class="band" x="{x(fault.start_s):.1f}" width="{max(x(fault.stop_s) - x(fault.start_s), 1):.1f}" '
        f'y="5" height="{HEIGHT - 30}"><title>{fault.kind} {fault.target}</title></rect>'
        for fault in history.faults
    )
    dots = {False: "", True: ""}
    for answer in history.answers:
        dots[answer.degraded] += f"M{x(sent[answer.id]):.1f} {y(took[answer.id]):.1f}h0"
    ticks = "".join(
        f'<text x="{x(at_s):.1f}" y="{HEIGHT - 8}">{at_s:.0f} s</text>' for at_s in (end_s * k / 6 for k in range(6))
    )
    levels = "".join(f'<text x="0" y="{y(s) + 4:.1f}">{s * 1e3:.0f}</text>' for s in (0.0, bound_s / 2, bound_s))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{bands}'
        f'<path class="dots well" d="{dots[False]}"/><path class="dots degraded" d="{dots[True]}"/>'
        f'<path class="limit" d="M{MARGIN} {y(bound_s):.1f}H{WIDTH}"/>{ticks}{levels}</svg>'
    )
