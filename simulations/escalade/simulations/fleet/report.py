"""The page about a run: one self-contained HTML file with its charts inside it: `render`."""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

import yaml

from escalade.simulations import html
from escalade.simulations.fleet.class_figures import class_figures
from escalade.simulations.fleet.energy import battery, energy_j
from escalade.simulations.fleet.recovery import faults
from escalade.simulations.fleet.report_charts import WIDE, Timeline, battery_life, latency_cdf
from escalade.simulations.fleet.report_events import events_section
from escalade.simulations.fleet.result import Class, Count, Hist, Reason
from escalade.simulations.fleet.scenario import TIERS
from escalade.simulations.fleet.summary import HOPS, latency_all_ms, link_load, time_series
from escalade.simulations.fleet.topology import topology
from escalade.simulations.page import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from escalade.simulations.fleet.result import FleetResult

TIER_NAMES = ("endpoint", "edge node", "edge server")
STYLES = ("p0", "p1", "p2")
HOP_NAMES = {
    "local": "at the endpoint",
    "access": "to the edge node",
    "edge_node": "at the edge node",
    "uplink": "to the server",
    "edge_server": "at the server",
}
HOP_STYLES = ("p0", "s0", "p1", "s3", "p2")
FOOTER = (
    "Written by `escalade simulate`. A simulation answers for its assumptions: the scenario at the end of this page is "
    "all that it knew. `docs/simulation.md` says what is modelled, what is not, and how far to trust it."
)


def render(result: FleetResult) -> str:
    """Return the page."""
    scenario = result.scenario
    if not result.answered:
        reasons = html.section("Nothing was answered", _reasons(result))
        return page(scenario.name, _facts(result), [_said(result), reasons, _scenario(result)], FOOTER)
    series = time_series(result)
    over_time = Timeline(scenario, series)
    shares = over_time.stacked(
        [series[f"share_{tier}"] for tier in TIERS], STYLES, "share of the answers", "share of each tier over time"
    )
    use = over_time.lines(
        [series[f"utilisation_{tier}"] for tier in TIERS],
        STYLES,
        "busy",
        "utilisation over time",
        percent=True,
        top=1.0,
    )
    waiting = over_time.lines(
        [series["waiting_per_edge_node"], series["waiting_per_edge_server"]],
        STYLES[1:],
        "waiting, each",
        "requests that wait at an edge node and at a server, over time",
    )
    accuracy = over_time.lines(
        [series["accuracy"]], ("p3",), "answered right", "accuracy over time", percent=True, tight=True
    )
    up = over_time.lines(
        [series["access_bytes_per_s"] / 1e3, series["uplink_bytes_per_s"] / 1e3],
        ("s0", "s3"),
        "kB/s",
        "bytes sent up over time",
    )
    trouble = over_time.lines(
        [series["degraded_share"], series["late_share"]],
        ("p4", "p3"),
        "share of the answers",
        "degraded and late answers over time",
        percent=True,
        size=WIDE,
    )
    sections = [
        _said(result),
        _cards(result),
        html.section("The fleet", f"<figure class='wide'>{topology(result)}</figure>"),
        html.section(
            "Who answers",
            html.figure(shares, html.legend(_keys(TIER_NAMES, STYLES, "box"))) + _tiers(result),
            "Latency runs from the arrival at the endpoint to the answer there. Answered as wanted; what was answered "
            "below the tier that was asked for counts in inputs and share of the tier that answered, and again in the "
            "last row, which alone has its latency.",
        ),
        _classes(result),
        html.section(
            "Where the time goes",
            "<div class='pair'>"
            + html.figure(
                latency_cdf(result, list(HOPS.values()), HOP_STYLES, "time of a step, ms"),
                html.legend(_keys(tuple(HOP_NAMES.values()), HOP_STYLES, "line")),
                "each step by itself, waiting included",
            )
            + html.figure(
                latency_cdf(
                    result, [*(Hist(k) for k in range(3)), Hist.DEGRADED], (*STYLES, "p4"), "until the answer, ms"
                ),
                html.legend(_keys((*TIER_NAMES, "degraded"), (*STYLES, "p4"), "line")),
                "until the answer, by who gives it",
            )
            + "</div>"
            + _hops(result),
            "The share that takes at most so long. Bins are 1.6 % wide." + _links(result),
        ),
        html.section(
            "Utilisation and queues",
            "<div class='pair'>"
            + html.figure(use, html.legend(_keys(TIER_NAMES, STYLES, "line")))
            + html.figure(waiting, html.legend(_keys(TIER_NAMES[1:], STYLES[1:], "line")))
            + "</div>",
            "Work counts in the interval in which it starts, so a long batch can show as more than 100 %. The mean "
            "number that wait, at one edge node or one server, is the time waited over the interval (Little's law).",
        ),
        html.section(
            "Accuracy and bytes",
            "<div class='pair'>"
            + html.figure(accuracy, html.legend([("p3", "line", "answered right, of the answered")]))
            + html.figure(up, html.legend(_keys(("to the edge nodes", "to the servers"), ("s0", "s3"), "line")))
            + "</div>",
        ),
        events_section(result, over_time, series),
        _energy(result, over_time, series),
        html.section(
            "Outages and recovery",
            html.figure(
                trouble, html.legend([*_keys(("degraded", "late"), ("p4", "p3"), "line"), *over_time.fault_key()])
            )
            + _faults(result, series)
            + _reasons(result),
            "Degraded: answered below the tier that was asked for. Late: after the deadline, or the objective where "
            "the scenario sets one. Recovered: both shares are within 1 point of what they were before, to the length "
            "of a control interval.",
        ),
        _scenario(result),
    ]
    return page(scenario.name, _facts(result), sections, FOOTER)


def _facts(result: FleetResult) -> str:
    scenario = result.scenario
    servers = scenario.edge_servers.count
    return (
        f"{scenario.device_count:,} endpoints · {scenario.edge_nodes.count:,} edge nodes · {servers:,} "
        f"server{'s' if servers > 1 else ''} · {_duration(result.simulated_s)} simulated in "
        f"{_duration(result.wall_s)} · seed {result.seed} · {escape(result.backend)} · hash {result.hash}"
    )


def _keys(names: Sequence[str], styles: Sequence[str], kind: str) -> list[tuple[str, str, str]]:
    return [(style, kind, name) for name, style in zip(names, styles, strict=True)]


def _said(result: FleetResult) -> str:
    texts = [f"Warning: {html.marked(one)}" for one in result.warnings]
    if result.failure is not None:
        failure = result.failure
        texts.append(
            f"<b>{escape(str(failure))}</b> What was done until then is below."
            f"<pre>{escape(failure.batch)}</pre><pre>{escape(failure.traceback)}</pre>"
        )
    elif not result.complete:
        texts.append(f"Interrupted after {_duration(result.simulated_s)} of {_duration(result.scenario.duration_s)}.")
    return "".join(f"<div class='say'>{text}</div>" for text in texts)


def _cards(result: FleetResult) -> str:
    count, all_ms, energy = result.stats.count, latency_all_ms(result), energy_j(result)
    answered = result.answered
    bytes_up = int(count[Count.BYTES_0] + count[Count.BYTES_1])
    all_mj = 1e3 * energy["endpoint"]
    awake = _per(all_mj - 1e3 * energy["endpoint_idle"], answered)
    return html.cards(
        [
            ("answered", f"{answered:,}", f"of {result.requests:,} inputs"),
            ("accuracy", html.percent(result.accuracy), "of the answered"),
            ("answered at the endpoint", html.percent(result.share["endpoint"]), _kept(result)),
            ("latency p50", f"{_figure(all_ms['p50'])} ms", f"p99 {_figure(all_ms['p99'])} ms"),
            (
                "degraded",
                html.percent(result.degraded_share, 2),
                f"late {html.percent(_per(count[Count.LATE], answered), 2)}",
            ),
            ("bytes up", f"{_figure(_per(bytes_up, answered))}", f"an answer; {_bytes(bytes_up)} in all"),
            (
                "endpoints' energy",
                f"{_figure(_per(all_mj, answered))} mJ",
                f"an answer; {_figure(awake)} mJ without idling",
            ),
        ]
    )


def _kept(result: FleetResult) -> str:
    """Return whether inputs that the endpoint answered were sent up nevertheless: in vain, or after a first answer."""
    count = result.stats.count
    sent = int(result.stats.by_class[:, Class.SENT].sum())
    extra = sent - int(count[Count.ANSWERED_1] + count[Count.ANSWERED_2])
    share = _per(extra, result.answered)
    return f"{html.percent(share, 2)} of all were sent up as well" if extra > 0 else "nothing leaves the device"


def _tiers(result: FleetResult) -> str:
    count, use = result.stats.count, result.utilisation()
    rows = []
    for level, tier in enumerate(TIERS):
        ms = result.latency_ms(Hist(level))
        right = _per(count[Count.CORRECT_0 + level], count[Count.ANSWERED_0 + level])
        rows.append(
            [
                f"<span class='dot {STYLES[level]}'></span>{TIER_NAMES[level]}",
                f"{int(count[Count.ANSWERED_0 + level]):,}",
                html.percent(result.share[tier]),
                html.percent(right),
                *_latencies(ms),
                html.percent(use[tier]),
            ]
        )
    below = result.latency_ms(Hist.DEGRADED)
    cells = [f"{int(below['count']):,}", html.percent(result.degraded_share), "", *_latencies(below), ""]
    rows.append(["<span class='dot p4'></span>degraded", *cells])
    heads = ["answered by", "inputs", "share", "accuracy", "p50, ms", "p95, ms", "p99, ms", "busy"]
    return html.table(heads, rows)


def _classes(result: FleetResult) -> str:
    found = class_figures(result)
    if len(found) < 2:
        return ""
    batteries = result.devices is not None
    rows = []
    for name, one in found.items():
        cells = [escape(name), f"{one['devices']:,}", f"{one['requests']:,}", f"{one['answered']:,}"]
        cells += [html.percent(one[key]) for key in ("local_share", "accuracy", "degraded_share", "late_share")]
        cells.append(_figure(one["energy_mj_per_answer"]))
        if batteries:
            life = one["battery"]
            cells += [f"{_figure(life[key])} h" if life else "-" for key in ("life_p1_h", "life_p50_h")]
        rows.append(cells)
    heads = ["class", "endpoints", "inputs", "answered", "kept local", "accuracy", "degraded", "late", "mJ an answer"]
    heads += ["battery, worst 1 %", "battery, median"] if batteries else []
    note = "Kept local: of a class's inferences, those that its policy did not send up."
    return html.section("Each class of endpoints", html.table(heads, rows), note)


def _hops(result: FleetResult) -> str:
    load = {name: share for name, share in link_load(result).items() if isfinite(share)}
    heads = ["step", "times", "p50, ms", "p95, ms", "p99, ms"] + (["bandwidth asked for"] if load else [])
    rows = []
    for (name, hist), style in zip(HOPS.items(), HOP_STYLES, strict=True):
        ms = result.latency_ms(hist)
        cells = [f"<span class='dot {style}'></span>{HOP_NAMES[name]}", f"{int(ms['count']):,}", *_latencies(ms)]
        rows.append([*cells, html.percent(load[name]) if name in load else ""] if load else cells)
    return html.table(heads, rows)


def _links(result: FleetResult) -> str:
    if not any(map(isfinite, link_load(result).values())):
        return ""
    return (
        " Bandwidth asked for: the bytes to be sent over all links and the whole run, of what they can; above 100 % "
        "messages pile up or are thrown away."
    )


def _energy(result: FleetResult, over_time: Timeline, series: dict[str, Any]) -> str:
    energy, life = energy_j(result), battery(result)
    total = energy["endpoint"] + energy["edge_node"] + energy["edge_server"]
    names = {
        "endpoint_idle": "endpoints, idle and trigger",
        "endpoint_compute": "endpoints, computing",
        "endpoint_radio": "endpoints, sending",
        "edge_node": "edge nodes",
        "edge_server": "edge servers",
    }
    rows = [
        [
            text,
            _joules(energy[key]),
            html.percent(_per(energy[key], total)),
            _figure(_per(1e3 * energy[key], result.answered)),
        ]
        for key, text in names.items()
    ]
    content = html.table(["energy", "in all", "share", "mJ an answer"], rows)
    note = "From the power figures of the hardware profiles; stations in proportion to their busy workers."
    if life is not None:
        alive = result.scenario.device_count - series["deaths"].cumsum()
        chart = over_time.lines(
            [alive.astype(float)], ("p0",), "endpoints with charge", "endpoints whose battery is not empty"
        )
        content += "<div class='pair'>" + html.figure(chart, html.legend([("p0", "line", "endpoints with charge")]))
        content += html.figure(battery_life(result), "", "how long the batteries last") + "</div>"
        content += html.table(
            ["batteries", "empty", "charge left, mean", "life, worst 1 %", "life, median"],
            [
                [
                    f"{life['devices']:,}",
                    f"{life['died']:,}",
                    html.percent(life["charge_left_mean"]),
                    f"{_figure(life['life_p1_h'])} h",
                    f"{_figure(life['life_p50_h'])} h",
                ]
            ],
        )
        note += " The life of a battery that is not empty is foretold from what was used of it."
    return html.section("Energy" if life is None else "Energy and battery life", content, note)


def _faults(result: FleetResult, series: dict[str, Any]) -> str:
    found = faults(result.scenario, series)
    if not found:
        return ""
    rows = [
        [
            f"<code>{one.what}</code>",
            f"{one.from_s:g} to {one.to_s:g} s",
            html.percent(one.degraded_peak),
            html.percent(one.late_peak),
            f"{one.recovered_s:.3g} s after its end" if isfinite(one.recovered_s) else "not in this run",
        ]
        for one in found
    ]
    return html.table(["listed fault", "when", "degraded, at worst", "late, at worst", "recovered"], rows)


def _reasons(result: FleetResult) -> str:
    reason, total = result.stats.reason, max(result.requests, 1)
    rows = [
        [f"<code>{one.name.lower()}</code>", f"{int(reason[one]):,}", html.percent(int(reason[one]) / total, 2)]
        for one in Reason
        if reason[one] and one is not Reason.OK
    ]
    return html.table(["not answered as asked, because", "inputs", "of all"], rows) if rows else ""


def _scenario(result: FleetResult) -> str:
    text = yaml.safe_dump(result.scenario.model_dump(mode="json", exclude_none=True), sort_keys=False)
    return f"<details><summary>The scenario, defaults included</summary><pre>{escape(text)}</pre></details>"


def _latencies(ms: dict[str, float]) -> list[str]:
    return [_figure(ms[key]) for key in ("p50", "p95", "p99")]


def _per(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _figure(value: float) -> str:
    if not isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _joules(value: float) -> str:
    for unit in ("J", "kJ", "MJ"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GJ"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
