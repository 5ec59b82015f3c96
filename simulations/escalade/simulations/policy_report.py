"""The page about policies on a trace: one self-contained HTML file with its charts inside it: `render`."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import ENERGY, ENTROPY, MARGIN, MAX_PROB, expected_calibration_error
from escalade.policies.bounds import upper_bound
from escalade.simulations import html
from escalade.simulations.evaluate import curve
from escalade.simulations.oracle import oracle_curve
from escalade.simulations.page import page
from escalade.simulations.svg import Chart, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from escalade.policies import Score, Trace
    from escalade.simulations.evaluate import Conditions, Evaluation

STYLES = ("p0", "p1", "p2", "p3", "p4", "p5")
"""CSS classes of the policies, in their order."""

FOOTER = "Written by `escalade policy`. Intervals are at 95 %, by the bootstrap over inputs."

RISK_POINTS = 60
GRID = 48
"""Thresholds a tier in the search for the best pair."""


def render(
    trace: Trace,
    conditions: Conditions,
    evaluations: Sequence[Evaluation],
    differences: Sequence[dict[str, dict[str, Any]]] = (),
    *,
    source: str = "",
    alpha: float | None = None,
    delta: float = 0.1,
) -> str:
    """Return the page.

    Parameters
    ----------
    evaluations
        What is shown, the first being what the others are compared with.
    differences
        What `compare` gave for the others.
    source
        Name of the trace's file.
    alpha, delta
        Accuracy that may be given up, where a policy promises it, and the chance of breaking that promise.
    """
    scores = [
        one for one in (MAX_PROB, MARGIN, ENTROPY, ENERGY) if one.needs == "posterior" or trace.logits is not None
    ]
    sections = [
        _cards(evaluations[0], named=len(evaluations) > 1),
        _table(evaluations, trace),
        _differences(evaluations, differences),
        html.section(
            "Accuracy against escalation", _escalation(trace, conditions, scores, evaluations), ESCALATION_NOTE
        ),
        html.section("Accuracy against cost", _cost(trace, conditions, scores, evaluations), COST_NOTE),
        html.section("What the confidence is worth", _reliability(trace), RELIABILITY_NOTE),
        html.section(
            "What is given up against the top tier", _risk(trace, conditions, evaluations, alpha, delta), RISK_NOTE
        ),
    ]
    title = evaluations[0].name if len(evaluations) == 1 else f"{len(evaluations)} policies side by side"
    facts = f"{escape(source)} · {len(trace)} inputs · {trace.tiers} tiers · {trace.classes} classes"
    facts += f" · score {escape(conditions.score.name)} · seed {conditions.seed}"
    return page(title, facts, sections, FOOTER)


ESCALATION_NOTE = (
    "Each line: a threshold on that score at the lowest tier, and everything that leaves it asked of the top tier. "
    "Each point: a policy, with 95 % bars; its dashed line is what mixing it by chance with answering everything "
    "below, or everything above, would give. A policy above the lines earns its escalations."
)
COST_NOTE = (
    "Relative cost: mean price of the tiers that an input reaches, over the price of asking the top tier alone. "
    "Squares: one tier for everything, asked directly. Lines: for each score, the best thresholds in hindsight, which "
    "no policy chosen beforehand should be expected to reach. The oracle knows which tiers are right, and sends up "
    "only what a higher tier alone gets right."
)
RELIABILITY_NOTE = (
    "Inputs by the highest probability that the tier gave; the height is how often it was right. On the diagonal the "
    "confidence means what it says; below it the tier is too sure of itself. ECE: the mean distance, weighted by "
    "inputs."
)
RISK_NOTE = (
    "Against the share answered by the lowest tier with a threshold on this score: the accuracy given up to the top "
    "tier, and the upper bound (Clopper-Pearson, for each point by itself) of the share of inputs that the top tier "
    "alone gets right, which is at least what is given up. Points: the policies with their 95 % intervals. A promise "
    "must hold for thresholds chosen on other data: `escalade policy certify` makes one."
)


def _cards(one: Evaluation, *, named: bool) -> str:
    top = one.facts["accuracy_top"]
    oracle, gap = one.facts["oracle"], one.facts["gap_to_oracle"]["relative_cost"]
    boxes = [
        (
            "accuracy",
            html.percent(one.accuracy),
            f"{_span(one.intervals['correct'])}; the top tier alone {html.percent(top)}",
        ),
        (
            "relative cost",
            f"{one.relative_cost:.3f}",
            f"{_plain(one.intervals['relative_cost'])}; the top tier alone 1",
        ),
        ("given up", html.percent(one.values["given_up"], 2), f"{_span(one.intervals['given_up'], 2)} of accuracy"),
        (
            "dearer than the oracle",
            f"+{gap:.3f}" if gap == gap else "-",
            f"which needs {oracle['relative_cost_at_the_same_accuracy']:.3f} for the same accuracy",
        ),
    ]
    return html.cards(boxes, one.name if named else "")


def _table(evaluations: Sequence[Evaluation], trace: Trace) -> str:
    extra = [key for key in ("bytes_up", "latency_ms", "energy_mj") if key in evaluations[0].values]
    titles = {"bytes_up": "bytes up", "latency_ms": "latency, ms", "energy_mj": "energy, mJ"}
    heads = ["policy", "accuracy", "given up", "relative cost", *(f"at {escape(n)}" for n in trace.names)]
    heads += [titles[key] for key in extra]
    rows = []
    for index, one in enumerate(evaluations):
        cells = [f"<span class='dot {STYLES[index % len(STYLES)]}'></span>{escape(one.name)}"]
        cells.append(html.with_small(html.percent(one.accuracy), _span(one.intervals["correct"])))
        cells.append(html.with_small(html.percent(one.values["given_up"], 2), _span(one.intervals["given_up"], 2)))
        cells.append(html.with_small(f"{one.relative_cost:.4f}", _plain(one.intervals["relative_cost"], 4)))
        cells += [
            html.with_small(html.percent(v), _span(one.intervals[f"share:{name}"])) for name, v in one.share.items()
        ]
        cells += [html.with_small(f"{one.values[key]:.4g}", _general(one.intervals[key])) for key in extra]
        rows.append(cells)
    oracle = evaluations[0].facts["oracle"]
    top = evaluations[0].facts["accuracy_top"]
    blank = [""] * len(extra)
    rows.append(
        [
            "the oracle",
            html.percent(oracle["accuracy"]),
            html.percent(top - oracle["accuracy"], 2),
            f"{oracle['relative_cost']:.4f}",
            *(html.percent(v) for v in oracle["share"].values()),
            *blank,
        ]
    )
    for tier, name in enumerate(trace.names):
        right = float(trace.correct(tier).mean())
        shares = [html.percent(float(other == tier)) for other in range(trace.tiers)]
        price = f"{trace.costs[tier] / trace.costs[-1]:.4f}"
        rows.append([f"only {escape(name)}", html.percent(right), html.percent(top - right, 2), price, *shares, *blank])
    return f"<section>{html.table(heads, rows)}</section>"


def _differences(evaluations: Sequence[Evaluation], differences: Sequence[dict[str, dict[str, Any]]]) -> str:
    if not differences:
        return ""
    heads = ["compared with " + escape(evaluations[0].name), *(escape(_named(key)) for key in differences[0])]
    rows = []
    for one, found in zip(evaluations[1:], differences, strict=True):
        cells = [escape(one.name)]
        for key, value in found.items():
            share = key == "accuracy" or key.startswith("share:")
            shown = f"{100 * value['difference']:+.2f} pt" if share else f"{value['difference']:+.4g}"
            low, high = value["interval"]
            more = f"{100 * low:+.2f} to {100 * high:+.2f}" if share else f"{low:+.4g} to {high:+.4g}"
            cells.append(html.with_small(f"<b>{shown}</b>" if value["sure"] else shown, more))
        rows.append(cells)
    note = "Paired, over the same inputs, with 95 % intervals by the bootstrap; bold where the interval leaves out 0."
    return html.section("Differences", html.table(heads, rows), note)


def _escalation(
    trace: Trace, conditions: Conditions, scores: Sequence[Score], evaluations: Sequence[Evaluation]
) -> str:
    lines = {one.name: curve(trace, replace(conditions, score=one)) for one in scores}
    bottom, top = float(trace.correct(0).mean()), float(trace.correct(trace.tiers - 1).mean())
    heights = [float(v) for line in lines.values() for v in line["accuracy"]] + [one.accuracy for one in evaluations]
    chart = Chart((-0.02, 1.02), span(heights, 0.02), "inputs that leave the lowest tier", "accuracy")
    for index, (name, line) in enumerate(lines.items()):
        chart.line(zip(line["share_up"], line["accuracy"], strict=True), f"s{index}", f"threshold on {name}")
    for index, one in enumerate(evaluations):
        style, left = STYLES[index % len(STYLES)], 1 - one.values[f"share:{trace.names[0]}"]
        low, high = one.intervals[f"share:{trace.names[0]}"]
        chart.line([(0, bottom), (left, one.accuracy), (1, top)], f"{style} mix")
        text = f"{one.name}: {html.percent(one.accuracy)} right, {html.percent(left)} leave the lowest tier"
        wide, tall = (1 - high, 1 - low), one.intervals["correct"]
        chart.point(left, one.accuracy, style, text, x_interval=wide, y_interval=tall)
    return html.figure(
        chart.render("accuracy against the share escalated, a line for each score"), _legend(scores, evaluations)
    )


def _cost(trace: Trace, conditions: Conditions, scores: Sequence[Score], evaluations: Sequence[Evaluation]) -> str:
    price = trace.costs[-1]
    oracle_cost, oracle_accuracy = oracle_curve(trace)
    lines = {one.name: best_pairs(trace, one) for one in scores} if trace.tiers in (2, 3) else {}
    singles = [(trace.costs[t] / price, float(trace.correct(t).mean())) for t in range(trace.tiers)]
    xs = [x for x, _ in singles] + [one.relative_cost for one in evaluations] + [float(oracle_cost[-1]) / price]
    positive = [x for x in xs if x > 0]
    log_x = len(positive) == len(xs) and max(xs) / min(xs) > 20
    limits = (min(positive) * 0.8, max(xs) * 1.35) if log_x else span([0.0, *xs])
    ys = [y for _, y in singles] + [one.accuracy for one in evaluations] + oracle_accuracy.tolist()
    label = "relative cost (1: the top tier alone)" + (", on a logarithmic scale" if log_x else "")
    chart = Chart(limits, span(ys, 0.02), label, "accuracy", log_x=log_x, percent=(False, True))
    chart.line(zip(oracle_cost / price, oracle_accuracy, strict=True), "oracle", "the oracle")
    for index, (name, (cost, accuracy)) in enumerate(lines.items()):
        chart.line(zip(cost, accuracy, strict=True), f"s{index}", f"best thresholds on {name} in hindsight")
    for (x, y), name in zip(singles, trace.names, strict=True):
        chart.point(x, y, "single", f"only {name}: {html.percent(y)} right at {x:g}", shape="square", label=name)
    for index, one in enumerate(evaluations):
        text = f"{one.name}: {html.percent(one.accuracy)} right at {one.relative_cost:.4f}"
        style, wide, tall = STYLES[index % len(STYLES)], one.intervals["relative_cost"], one.intervals["correct"]
        chart.point(one.relative_cost, one.accuracy, style, text, x_interval=wide, y_interval=tall)
    legend = _legend(
        scores if lines else (), evaluations, [("oracle", "the oracle"), ("single", "one tier for everything")]
    )
    return html.figure(chart.render("accuracy against relative cost"), legend)


def _reliability(trace: Trace) -> str:
    figures = []
    edges = np.linspace(0, 1, 11)
    for tier, name in enumerate(trace.names):
        chart = Chart((0, 1), (0, 1), f"highest probability of {name}", "how often it is right", width=330, height=310)
        sure, right = trace.score(tier), trace.correct(tier)
        place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, 9)
        for index in range(10):
            here = place == index
            if here.any():
                often, mean = float(right[here].mean()), float(sure[here].mean())
                text = f"{int(here.sum())} inputs, on average {html.percent(mean)} sure, {html.percent(often)} right"
                chart.column(edges[index], edges[index + 1], often, "bin" if here.sum() >= 20 else "bin few", text)
        chart.line([(0, 0), (1, 1)], "diagonal")
        error = expected_calibration_error(trace.posteriors[tier], trace.labels)
        caption = f"{escape(name)}: {html.percent(float(right.mean()))} right, ECE {100 * error:.1f} %"
        figures.append(f"<figure>{chart.render(f'reliability of {name}')}<figcaption>{caption}</figcaption></figure>")
    keys = "<li><i class='key bin'></i>20 inputs or more</li><li><i class='key bin few'></i>fewer</li>"
    return f"<div class='small-multiples'>{''.join(figures)}</div><ul class='legend'>{keys}</ul>"


def _risk(
    trace: Trace, conditions: Conditions, evaluations: Sequence[Evaluation], alpha: float | None, delta: float
) -> str:
    score = trace.score(0, conditions.score)
    order = np.argsort(-score, kind="stable")
    here, above = trace.correct(0)[order], trace.correct(trace.tiers - 1)[order]
    lost, won = np.cumsum(above & ~here), np.cumsum(here & ~above)
    n = len(trace)
    steps = np.unique(np.linspace(1, n, RISK_POINTS).round().astype(np.intp))
    net = [(k / n, float(lost[k - 1] - won[k - 1]) / n) for k in steps]
    bound = [(k / n, upper_bound(int(lost[k - 1]), n, delta)) for k in steps]
    given = [one.values["given_up"] for one in evaluations]
    edges = [v for one in evaluations for v in one.intervals["given_up"]]
    cap = max([5 * (alpha or 0.0), 4 * max(given), max(edges) * 1.3, 0.3 * max(y for _, y in net), 0.02])
    heights = [*(min(y, cap) for _, y in [*net, *bound]), *edges, alpha or 0.0, 0.0]
    chart = Chart((-0.02, 1.02), span(heights, 0.01), "inputs that the lowest tier answers", "accuracy given up")
    chart.line([(-0.02, 0), (1.02, 0)], "zero")
    chart.line(net, "s0", f"given up, threshold on {conditions.score.name}")
    chart.line(bound, "bound", f"upper bound at {html.percent(1 - delta)}")
    keys = [
        ("s0", f"threshold on {conditions.score.name}, all else asked of the top"),
        ("bound", f"its bound at {1 - delta:.0%}"),
    ]
    if alpha is not None:
        chart.line([(-0.02, alpha), (1.02, alpha)], "alpha", f"alpha = {alpha:g}")
        keys.append(("alpha", f"alpha = {alpha:g}"))
    for index, one in enumerate(evaluations):
        share = one.values[f"share:{trace.names[0]}"]
        text = f"{one.name}: {html.percent(one.values['given_up'], 2)} given up"
        style = STYLES[index % len(STYLES)]
        chart.point(share, one.values["given_up"], style, text, y_interval=one.intervals["given_up"])
    return html.figure(
        chart.render("accuracy given up against the share answered below"), _legend((), evaluations, keys)
    )


def best_pairs(trace: Trace, score: Score) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return relative costs and accuracies of the best thresholds in hindsight, for two tiers or three.

    One threshold for each tier below the top, from `GRID` quantiles of its scores; of all combinations those
    that no cheaper one equals in accuracy.
    """
    below = trace.tiers - 1
    ranks = []
    for tier in range(below):
        values = trace.score(tier, score)
        cuts = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, GRID)))
        ranks.append(np.searchsorted(cuts, values, side="right"))  # accepted by the first so many thresholds
    sizes = [GRID + 1] * below
    flat = np.ravel_multi_index(ranks, sizes)
    n = len(trace)

    def table(weight: NDArray[Any]) -> NDArray[np.float64]:
        count = np.bincount(flat, weight.astype(np.float64), int(np.prod(sizes)))
        cells: NDArray[np.float64] = count.astype(np.float64)
        return cells.reshape(sizes)

    def up(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.cumsum(values, axis=axis)
        return total  # of the inputs that threshold k does not accept: rank <= k

    leave = up(table(np.ones(n)), 0)
    right = [table(trace.correct(tier)) for tier in range(trace.tiers)]
    if below == 1:
        share = leave / n
        accuracy = (right[0].sum() - up(right[0], 0) + up(right[1], 0)) / n
        cost = trace.costs[0] + trace.costs[1] * share
    else:
        first = leave.sum(axis=1, keepdims=True) / n
        second = up(up(table(np.ones(n)), 0), 1) / n
        kept = right[0].sum() - up(right[0], 0).sum(axis=1, keepdims=True)
        middle = up(right[1], 0).sum(axis=1, keepdims=True) - up(up(right[1], 0), 1)
        accuracy = (kept + middle + up(up(right[2], 0), 1)) / n
        cost = trace.costs[0] + trace.costs[1] * first + trace.costs[2] * second
    costs, accuracies = (cost + np.zeros_like(accuracy)).ravel() / trace.costs[-1], accuracy.ravel()
    order = np.lexsort((-accuracies, costs))
    best = np.maximum.accumulate(accuracies[order])
    rising = np.append(True, best[1:] > best[:-1])
    return costs[order][rising], best[rising]


def _legend(scores: Sequence[Score], evaluations: Sequence[Evaluation], more: Sequence[tuple[str, str]] = ()) -> str:
    keys = [(STYLES[i % len(STYLES)], "dot", one.name) for i, one in enumerate(evaluations)]
    keys += [(f"s{index}", "line", f"threshold on {one.name}") for index, one in enumerate(scores)]
    keys += [(style, "square" if style == "single" else "line", text) for style, text in more]
    return html.legend(keys)


def _span(limits: Sequence[float], places: int = 1) -> str:
    return f"{100 * limits[0]:.{places}f} to {100 * limits[1]:.{places}f} %"


def _plain(limits: Sequence[float], places: int = 3) -> str:
    return f"{limits[0]:.{places}f} to {limits[1]:.{places}f}"


def _general(limits: Sequence[float]) -> str:
    return f"{limits[0]:.4g} to {limits[1]:.4g}"


def _named(key: str) -> str:
    return key.replace("share:", "at ").replace("_", " ")
