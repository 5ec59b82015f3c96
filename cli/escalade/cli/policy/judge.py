"""`escalade policy evaluate` and `compare`: what policies give up and save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from escalade.cli.policy.inputs import PolicyFile, conditions, make_folder, progress, read_trace, score_of
from escalade.policies import Policy, TraceError
from escalade.simulations.evaluate import Evaluation, compare, evaluate
from escalade.simulations.policy_report import render
from escalade.simulations.strict_json import plain
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path


def judge(arguments: argparse.Namespace) -> int:
    """Judge one policy, print it, write ``evaluation.json`` and ``evaluation.html``; return 0."""
    if len(arguments.policy) != 1:
        raise SetupError("evaluate takes one --policy; use `escalade policy compare` for several")
    return _judge(arguments, "evaluation")


def judge_several(arguments: argparse.Namespace) -> int:
    """Judge policies side by side, print them, write ``comparison.json`` and ``comparison.html``; return 0."""
    if len(arguments.policy) < 2:
        raise SetupError("compare takes two --policy or more; use `escalade policy evaluate` for one")
    return _judge(arguments, "comparison")


def _judge(arguments: argparse.Namespace, name: str) -> int:
    sources = [PolicyFile.read(path) for path in arguments.policy]
    loaded = [source.load() for source in sources]
    flat = [one for each in loaded for one in (each if isinstance(each, list) else [each])]
    file, trace = read_trace(arguments, "test")
    under = conditions(arguments, file, trace, score_of(flat, arguments.score, trace))
    if not trace.costs[-1] > 0:
        raise SetupError("--costs: the price of the top tier must be above 0")
    evaluations = []
    names = _distinct([source.name for source in sources])
    with progress("judging") as done:
        for index, (label, policy) in enumerate(zip(names, loaded, strict=True)):

            def told(share: float, before: int = index) -> None:
                done((before + share) / len(sources))

            try:
                evaluations.append(evaluate(trace, policy, under, name=label, on_progress=told))
            except TraceError as error:
                raise error.named(file=str(file.path)) from error
        differences = compare(evaluations, seed=arguments.seed) if len(evaluations) > 1 else []
        alpha = arguments.alpha if arguments.alpha is not None else _alpha(flat)
        page = ""
        if arguments.out:
            page = render(
                trace, under, evaluations, differences, source=file.path.name, alpha=alpha, delta=arguments.delta
            )
    print(f"{file.path}: {len(trace)} test inputs, {trace.tiers} tiers, score {under.score.name}")
    for one in evaluations:
        _print(one)
    for one, found in zip(evaluations[1:], differences, strict=True):
        _print_differences(one.name, evaluations[0].name, found)
    if arguments.out:
        out = make_folder(arguments.out)
        data = {"trace": file.path.name, **_as_data(evaluations, differences)}
        write(out, name, data, page)
    return 0


def write(out: Path, name: str, data: dict[str, Any], page: str = "") -> None:
    """Write results as JSON, and as a page where there is one, and say so."""
    (out / f"{name}.json").write_text(json.dumps(plain(data), indent=2) + "\n", encoding="utf-8")
    if page:
        (out / f"{name}.html").write_text(page, encoding="utf-8")
    print(f"wrote {out / name}.json" + (f" and {out / name}.html" if page else ""))


def _as_data(evaluations: Sequence[Evaluation], differences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(evaluations) == 1:
        return evaluations[0].to_dict()
    several = [one.to_dict() for one in evaluations]
    compared = [
        {"policy": one.name, "compared_with": evaluations[0].name, **found}
        for one, found in zip(evaluations[1:], differences, strict=True)
    ]
    return {"policies": several, "differences": compared}


def _print(one: Evaluation) -> None:
    facts, oracle = one.facts, one.facts["oracle"]
    print(f"\n{one.name}")
    _row("accuracy", _percent(one.accuracy), _percents(one.intervals["correct"]), _top(facts["accuracy_top"]))
    _row("given up", _percent(one.values["given_up"]), _percents(one.intervals["given_up"]))
    for tier, share in one.share.items():
        _row(f"at {tier}", _percent(share), _percents(one.intervals[f"share:{tier}"]))
    same = oracle["relative_cost_at_the_same_accuracy"]
    gap = facts["gap_to_oracle"]["relative_cost"]
    more = f"the oracle needs {same:.4f} for this accuracy: {gap:+.4f}" if same == same else ""
    _row("relative cost", f"{one.relative_cost:.4f}", _numbers(one.intervals["relative_cost"]), more)
    for key, label in (("bytes_up", "bytes up"), ("latency_ms", "latency, ms"), ("energy_mj", "energy, mJ")):
        if key in one.values:
            _row(label, f"{one.values[key]:.4g}", _numbers(one.intervals[key]), "an input, on average")
    _row("oracle", _percent(oracle["accuracy"]), "", f"at relative cost {oracle['relative_cost']:.4f}")


def _print_differences(name: str, first: str, found: dict[str, dict[str, Any]]) -> None:
    print(f"\n{name} minus {first}")
    for key, value in found.items():
        low, high = value["interval"]
        shares = key == "accuracy" or key.startswith("share:")
        scale, unit = (100, " points") if shares else (1, "")
        label = key.replace("share:", "at ").replace("_", " ")
        sure = "" if value["sure"] else "may be none"
        _row(label, f"{scale * value['difference']:+.4g}{unit}", f"[{scale * low:+.4g}, {scale * high:+.4g}]", sure)


def _row(label: str, value: str, interval: str = "", more: str = "") -> None:
    print(f"  {label:<16}{value:>14}  {interval:<20}  {more}".rstrip())


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _percents(limits: Sequence[float]) -> str:
    return f"[{100 * limits[0]:.2f}, {100 * limits[1]:.2f}]"


def _numbers(limits: Sequence[float]) -> str:
    return f"[{limits[0]:.4g}, {limits[1]:.4g}]"


def _top(accuracy: float) -> str:
    return f"the top tier alone {_percent(accuracy)}"


def _alpha(policies: Sequence[Policy]) -> float | None:
    for policy in policies:
        alpha = getattr(policy, "alpha", None)
        if isinstance(alpha, float):
            return alpha
        parts = getattr(policy, "parts", None)
        if isinstance(parts, dict) and (inner := _alpha(list(parts.values()))) is not None:
            return inner
    return None


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{index + 1}: {name}" for index, name in enumerate(names)]
