"""The frame of the reports' pages: their HTML and their style. Nothing in them is loaded from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from escalade.simulations.html import marked

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="facts">{facts}</p>
{body}
<footer>{footer}</footer>
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark;
  --ground: #ffffff; --ink: #1d2329; --soft: #5b6670; --rule: #dde2e6; --card: #f5f7f8;
  --p0: #c2410c; --p1: #0369a1; --p2: #047857; --p3: #a21caf; --p4: #854d0e; --p5: #334155;
  --s0: #4b5f73; --s1: #8195a8; --s2: #7d8f6b; --s3: #b08d57; --bin: #7fa6c9; --bound: #b45309; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14181c; --ink: #e6eaed; --soft: #9aa6b0; --rule: #2d353c; --card: #1c2227;
  --p0: #fb923c; --p1: #38bdf8; --p2: #34d399; --p3: #e879f9; --p4: #facc15; --p5: #cbd5e1;
  --s0: #a9bccd; --s1: #71879b; --s2: #9db58a; --s3: #d0ab74; --bin: #4d7396; --bound: #f0b35f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 40px 0 8px; }
.facts, .how, .small, footer { color: var(--soft); }
.facts { margin: 0 0 20px; } .how { font-size: .9rem; max-width: 72ch; margin: 6px 0 0; }
.first { margin: 0 0 8px; font-weight: 600; overflow-wrap: anywhere; }
.small { font-size: .8rem; display: block; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; }
.card .what { color: var(--soft); font-size: .85rem; } .card .big { font-size: 1.6rem; font-weight: 650; }
.card .small { white-space: normal; line-height: 1.35; }
.scroll { overflow-x: auto; margin-top: 20px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
figure { margin: 8px 0 0; max-width: 780px; } figcaption { font-size: .85rem; color: var(--soft); text-align: center; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .axis { fill: var(--ink); font-size: 13px; } svg .note { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; } .frame { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke: var(--c); }
.mix { stroke-dasharray: 5 4; stroke-width: 1.4; } .oracle { --c: var(--ink); }
.line.oracle { stroke-dasharray: 1.5 3.5; }
.bar { stroke: var(--c); stroke-width: 2; fill: none; }
.mark { fill: var(--c); stroke: var(--ground); stroke-width: 1.5; }
.single { --c: var(--soft); } .bound { --c: var(--bound); } .line.bound { stroke-dasharray: 7 3; }
.alpha { --c: var(--p1); } .line.alpha { stroke-dasharray: 2 3; }
.zero, .diagonal { --c: var(--soft); } .line.zero { stroke-width: 1; }
.line.diagonal { stroke-dasharray: 4 4; stroke-width: 1.3; } .bin { fill: var(--bin); background: var(--bin); }
.few { opacity: .4; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.line.s1 { stroke-dasharray: 8 3; } .line.s2 { stroke-dasharray: 4 2; } .line.s3 { stroke-dasharray: 9 3 2 3; }
.p0 { --c: var(--p0); } .p1 { --c: var(--p1); } .p2 { --c: var(--p2); } .p3 { --c: var(--p3); } .p4 { --c: var(--p4); }
.p5 { --c: var(--p5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0;
  margin: 6px 0 0; font-size: .85rem; }
.legend li { display: flex; align-items: center; gap: 7px; overflow-wrap: anywhere; }
.dot, .key.bin { display: inline-block; flex: none; } svg.key { width: 30px; height: 12px; flex: none; }
.key.bin { width: 12px; height: 12px; background: var(--bin); }
.dot { width: 11px; height: 11px; border-radius: 50%; background: var(--c); } td .dot { margin-right: 7px; }
.small-multiples { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px; }
footer { margin-top: 44px; border-top: 1px solid var(--rule); padding-top: 12px; font-size: .85rem; }
.band { fill: var(--c); opacity: .82; stroke: none; } .fault { fill: var(--bound); opacity: .16; }
.box { display: inline-block; flex: none; width: 12px; height: 12px; background: var(--c); }
.box.fault { --c: var(--bound); opacity: .35; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 8px 24px; }
figure.wide { max-width: none; }
.topology .node { fill: var(--card); stroke: var(--c); stroke-width: 1.6; }
.topology .head { fill: var(--ink); font-weight: 600; }
.topology .wire, .topology .tip { fill: none; stroke: var(--soft); stroke-width: 1.4; }
.topology .track { fill: var(--rule); } .topology .fill { fill: var(--c); }
.say { border-left: 3px solid var(--bound); background: var(--card); padding: 8px 14px;
  margin: 12px 0; overflow-wrap: anywhere; }
.say pre, details pre { overflow-x: auto; font-size: .8rem; line-height: 1.4; margin: 8px 0; }
summary { cursor: pointer; color: var(--soft); margin-top: 20px; }
@media print { .card { break-inside: avoid; } section { break-inside: avoid; } }
"""


def page(title: str, facts: str, sections: Iterable[str], footer: str) -> str:
    """Return a whole page: `facts` and `sections` are HTML, title and footer text."""
    body = "\n".join(filter(None, sections))
    return PAGE.format(title=escape(title), style=STYLE, facts=facts, body=body, footer=marked(footer))
