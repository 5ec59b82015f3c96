"""The picture of a fleet: its classes of endpoints, edge nodes and servers, and what flows between them."""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING

from escalade.simulations.fleet.result import Class, Count, Hist

if TYPE_CHECKING:
    from escalade.simulations.fleet.result import FleetResult
    from escalade.simulations.fleet.scenario import EndpointClass, Station

WIDTH = 880
BOX, GAP = 200, 140
MOST = 4
"""Classes of endpoints that get a box of their own; the others share one."""
LETTERS = 27
"""Of a line in a box."""


def topology(result: FleetResult) -> str:
    """Return the SVG element."""
    scenario, share = result.scenario, result.share
    classes = scenario.endpoints
    shown = list(classes) if len(classes) <= MOST else list(classes[: MOST - 1])
    height = max(1, len(shown) + (len(shown) < len(classes))) * 92 + 70
    middle = height / 2 - 14
    columns = [0, BOX + GAP, 2 * (BOX + GAP)]
    count, parts = result.stats.count, []
    boxes = [_endpoint(one) for one in shown]
    flows = [_up(result, index, index + 1) for index in range(len(shown))] + [_up(result, len(shown), len(classes))]
    if len(shown) < len(classes):
        rest = classes[len(shown) :]
        boxes.append([f"{len(rest)} more classes", f"{sum(one.count for one in rest):,} devices", ""])
    for index, lines in enumerate(boxes):
        top = (height - 28) * (index + 0.5) / len(boxes) - 36
        parts.append(_box(columns[0], top, lines, "p0"))
        parts.append(_arrow(columns[0] + BOX, top + 36, columns[1], middle))
        if len(boxes) > 1:
            below = 16 if top + 36 > middle + 1 else -7  # on the side from which the arrow bends away
            parts.append(_text(columns[0] + BOX + 6, top + 36 + below, flows[index], anchor="start"))
    parts.append(
        _box(
            columns[1],
            middle - 36,
            _station(f"{_number(scenario.edge_nodes.count)} edge nodes", scenario.edge_nodes),
            "p1",
        )
    )
    parts.append(_arrow(columns[1] + BOX, middle, columns[2], middle))
    servers = scenario.edge_servers
    name = "edge server" if servers.count == 1 else f"{_number(servers.count)} edge servers"
    parts.append(_box(columns[2], middle - 36, _station(name, servers), "p2"))
    sent = (int(count[Count.ESCALATED_0]), int(count[Count.ESCALATED_1]))
    for column, hist, escalated in ((0, Hist.ACCESS, sent[0]), (1, Hist.UPLINK, sent[1])):
        of = result.answered
        flow = f"{100 * escalated / of:.1f} % sent up" if of else ""
        latency = result.latency_ms(hist)["p50"]
        p50 = f"p50 {latency:.3g} ms" if isfinite(latency) else ""
        if len(boxes) == 1 or column:
            at = columns[column] + BOX + GAP / 2
            parts.append(_text(at, middle - 12, flow))
            parts.append(_text(at, middle + 20, p50))
        else:  # where the arrows leave room for what is of all classes
            at = columns[1] + BOX / 2
            parts.append(_text(at, middle + 56, f"{flow}, of all" if flow else ""))
            parts.append(_text(at, middle + 72, f"{p50} on the way" if p50 else ""))
    for column, (tier, style) in enumerate((("endpoint", "p0"), ("edge_node", "p1"), ("edge_server", "p2"))):
        one = share[tier]
        if isfinite(one):
            x, y = columns[column], height - 26
            parts.append(f'<rect class="track" x="{x}" y="{y}" width="{BOX}" height="8" rx="4"/>')
            parts.append(f'<rect class="fill {style}" x="{x}" y="{y}" width="{BOX * one:.1f}" height="8" rx="4"/>')
            parts.append(_text(x + BOX / 2, y + 23, f"answers {100 * one:.1f} %", "note"))
    described = "endpoints, edge nodes and servers, with the share that each answers"
    head = f'<svg class="topology" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{described}">'
    return f"{head}{''.join(parts)}</svg>"


def _up(result: FleetResult, first: int, end: int) -> str:
    """Return which share of their inferences some classes sent up."""
    served, sent = result.stats.by_class[first:end][:, [Class.SERVED, Class.ESCALATED]].sum(axis=0)
    return f"{100 * sent / served:.1f} % up" if served else ""


def _endpoint(one: EndpointClass) -> list[str]:
    arrivals = one.arrivals
    kind = {"poisson": "Poisson", "periodic": "periodic", "daily": "daily", "bursts": "bursts", "replay": "replayed"}
    rate = getattr(arrivals, "rate_hz", None)
    period = getattr(arrivals, "period_ms", None)
    often = f"every {period:g} ms" if period else f"{rate:g}/s" if isinstance(rate, float) else ""
    return [f"{_number(one.count)} {one.name}", f"{kind[arrivals.kind]} {often}".strip(), _policy(one.policy)]


def _station(name: str, one: Station) -> list[str]:
    batch = one.batching.max_batch
    work = f"{one.workers} worker{'s' if one.workers > 1 else ''} each"
    policy = getattr(one, "policy", None)
    batches = f"batches up to {batch}" if batch > 1 else ""
    return [
        name,
        f"{work}{', ' if batches and policy else ''}{batches if policy else ''}",
        _policy(policy) if policy else batches,
    ]


def _policy(spec: dict[str, object]) -> str:
    name, threshold = str(spec.get("name", "")).rpartition(":")[2], spec.get("threshold")
    return f"{name} {threshold:g}" if isinstance(threshold, int | float) else name


def _number(value: int) -> str:
    return f"{value:,}"


def _box(x: float, y: float, lines: list[str], style: str) -> str:
    rect = f'<rect class="node {style}" x="{x + 1}" y="{y:.0f}" width="{BOX - 2}" height="72" rx="8"/>'
    written = [line for line in lines if line]
    first = y + 40 - 9 * (len(written) - 1)
    texts = [
        _text(x + BOX / 2, first + 19 * index, _short(line), "head" if index == 0 else "")
        for index, line in enumerate(written)
    ]
    return rect + "".join(texts)


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    bend = (x0 + x1) / 2
    path = f"M{x0} {y0:.0f}C{bend} {y0:.0f} {bend} {y1:.0f} {x1 - 8} {y1:.0f}"
    head = f"M{x1 - 9} {y1 - 5:.0f}L{x1} {y1:.0f}L{x1 - 9} {y1 + 5:.0f}"
    return f'<path class="wire" d="{path}"/><path class="tip" d="{head}"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
