"""Parts of the reports' pages as HTML text: cards, tables, figures, legends. What is given as text is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def section(title: str, content: str, note: str = "") -> str:
    """Return a titled part of the page; `note` says how to read it, with `code` in backticks."""
    how = f"<p class='how'>{marked(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{content}{how}</section>"


def cards(boxes: Iterable[tuple[str, str, str]], name: str = "") -> str:
    """Return boxes of one figure each: what it is, the figure, and more about it."""
    inner = "".join(
        f"<div class='card'><div class='what'>{what}</div><div class='big'>{value}</div>"
        f"<div class='small'>{more}</div></div>"
        for what, value, more in boxes
    )
    first = f"<p class='first'>{escape(name)}</p>" if name else ""
    return f"<section>{first}<div class='cards'>{inner}</div></section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of HTML cells."""
    head = "".join(f"<th scope='col'>{one}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(svg: str, legend: str = "", caption: str = "") -> str:
    """Return a chart with what stands below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{legend}{below}</figure>"


def legend(keys: Iterable[tuple[str, str, str]]) -> str:
    """Return a legend of (CSS class, ``dot``, ``box``, ``square`` or ``line``, text)."""
    items = "".join(f"<li>{_key(style, kind)}{escape(text)}</li>" for style, kind, text in keys)
    return f"<ul class='legend'>{items}</ul>"


def with_small(value: str, more: str) -> str:
    """Return a table cell: a value, and more about it below."""
    return f"{value}<span class='small'>{more}</span>"


def percent(share: float, places: int = 1) -> str:
    """Return a share as text; a dash for nan."""
    return f"{100 * share:.{places}f} %" if share == share else "-"


def marked(text: str) -> str:
    """Return text escaped, what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _key(style: str, kind: str) -> str:
    if kind in ("dot", "box"):
        return f"<i class='{kind} {style}'></i>"
    if kind == "square":
        mark = f"<rect class='mark {style}' x='10' y='1' width='10' height='10'/>"
        return f"<svg class='key' viewBox='0 0 30 12' aria-hidden='true'>{mark}</svg>"
    line = f"<polyline class='line {style}' points='1,6 29,6'/>"
    return f"<svg class='key' viewBox='0 0 30 12' aria-hidden='true'>{line}</svg>"
